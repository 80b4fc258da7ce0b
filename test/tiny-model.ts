/** A Qwen2-VL of a few thousand weights and batches for it: for tests of what stands on a model. */
import { type DType, manualSeed, randn } from '@ivtlr/torch';
import { type Batch, collate } from '../packages/ivtlr/src/data/collate.ts';
import { type CarriedTokens, IGNORE, type Rendered } from '../packages/ivtlr/src/data/render.ts';
import { tokensOf } from '../packages/ivtlr/src/latent/image-columns.ts';
import { parseQwen2VLConfig } from '../packages/ivtlr/src/models/qwen2-vl/config.ts';
import { Qwen2VL } from '../packages/ivtlr/src/models/qwen2-vl/model.ts';
import type { ProcessedImage } from '../packages/ivtlr/src/models/types.ts';
import { placed } from './device.ts';

export const TINY_IDS = { image: 60, latent: 61, eos: 62 } as const;

export const TINY_CONFIG = {
  model_type: 'qwen2_vl',
  hidden_size: 16,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  intermediate_size: 24,
  vocab_size: 64,
  rope_scaling: { mrope_section: [2, 1, 1] },
  image_token_id: TINY_IDS.image,
  vision_config: { depth: 1, embed_dim: 16, num_heads: 2, mlp_ratio: 2 },
};

/** The caller disposes it. */
export function tinyModel(options: { dtype?: DType; seed?: number } = {}): Qwen2VL {
  const model = new Qwen2VL(parseQwen2VLConfig(TINY_CONFIG, 'tiny'), { dtype: options.dtype ?? 'float32' });
  manualSeed(options.seed ?? 1);
  model.initialize();
  return placed(model);
}

export interface TinyRow {
  /** Tokens in front of the image, and after the last one up to the latent slots. */
  before: number[];
  after: number[];
  /** Rows and columns of image tokens; null for no image. */
  grid: [number, number] | null;
  /** Further images, each with the tokens in front of it. */
  more?: { between: number[]; grid: [number, number] }[];
  latentSteps: number;
  /** Written text after the latent slots, all of it labelled. */
  text?: number[];
  pickTargets?: number[][];
  /** Token that each latent step hands on. */
  carried?: CarriedTokens;
  /** Draws the pixels. */
  seed: number;
}

/** Call inside a scope: the pixels belong to it. */
export function tinyImage(grid: [number, number], seed: number): ProcessedImage {
  const [rows, columns] = grid;
  manualSeed(seed);
  return {
    pixels: randn([rows * columns * 4, 1176]),
    grid: [1, rows * 2, columns * 2],
    tokens: rows * columns,
    tokenGrid: grid,
    source: { width: columns * 28, height: rows * 28 },
  };
}

/** Call inside a scope. */
export function tinyBatch(rows: readonly TinyRow[]): Batch {
  const images = rows.map(({ grid, more = [], seed }) =>
    [grid, ...more.map((other) => other.grid)].flatMap((each, i) => (each ? [tinyImage(each, seed + 1000 * i)] : [])),
  );
  const rendered = rows.map(
    ({ before, after, grid, more = [], latentSteps, text = [], pickTargets, carried }, b): Rendered => {
      const run = (size: [number, number] | null) =>
        new Array<number>(size ? size[0] * size[1] : 0).fill(TINY_IDS.image);
      const prompt = [
        ...before,
        ...run(grid),
        ...more.flatMap((other) => [...other.between, ...run(other.grid)]),
        ...after,
      ];
      const ids = [...prompt, ...new Array<number>(latentSteps).fill(TINY_IDS.latent), ...text];
      return {
        ids,
        labels: ids.map((id, i) => (i < prompt.length + latentSteps ? IGNORE : id)),
        latentStart: prompt.length,
        latentSteps,
        imageTokens: tokensOf(images[b]!),
        ...(pickTargets && { pickTargets }),
        ...(carried && { carried }),
      };
    },
  );
  return collate(rendered, images, TINY_IDS.eos);
}
