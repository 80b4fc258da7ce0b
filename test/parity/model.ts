/** Models and batches of the goldens (formats: README.md here), made again from their seeds. */
import fs from 'node:fs';
import { type Module, manualSeed, noGrad, randn, scope, type Tensor } from '@ivtlr/torch';
import type { Batch } from '../../packages/ivtlr/src/data/collate.ts';
import { parseQwen25VLConfig } from '../../packages/ivtlr/src/models/qwen2-5-vl/config.ts';
import { Qwen25VL } from '../../packages/ivtlr/src/models/qwen2-5-vl/model.ts';
import { parseQwen2VLConfig } from '../../packages/ivtlr/src/models/qwen2-vl/config.ts';
import { Qwen2VL } from '../../packages/ivtlr/src/models/qwen2-vl/model.ts';
import { parseQwen3VLConfig } from '../../packages/ivtlr/src/models/qwen3-vl/config.ts';
import { Qwen3VL } from '../../packages/ivtlr/src/models/qwen3-vl/model.ts';
import type { ProcessedImage } from '../../packages/ivtlr/src/models/types.ts';
import { placed } from '../device.ts';

export interface Stats {
  shape: number[];
  first: number[];
  sum: number;
  abs_sum: number;
  weighted: number;
}

export interface GoldenCase {
  name: string;
  seed: number;
  config: unknown;
  ids: Record<'image' | 'eos' | 'latent', number>;
  image_grid_thw: [number, number, number][];
  weights: { count: number; abs_sum: number; first: Record<string, number[]> };
}

export function readGolden<T>(name: string): T {
  return JSON.parse(fs.readFileSync(new URL(`goldens/${name}`, import.meta.url), 'utf8')) as T;
}

export type SeededModel = Qwen2VL | Qwen25VL | Qwen3VL;

/** The case's model, its weights drawn as the Python side drew them. */
export function seededModel({ config, name, seed }: GoldenCase): SeededModel {
  const make = {
    qwen2_vl: () => new Qwen2VL(parseQwen2VLConfig(config, name)),
    qwen2_5_vl: () => new Qwen25VL(parseQwen25VLConfig(config, name)),
    qwen3_vl: () => new Qwen3VL(parseQwen3VLConfig(config, name)),
  }[modelType(config)];
  return placed(drawWeights(make(), seed)).eval();
}

function modelType(config: unknown) {
  return (config as { model_type: 'qwen2_vl' | 'qwen2_5_vl' | 'qwen3_vl' }).model_type;
}

export function drawWeights<M extends Module>(model: M, seed: number): M {
  const parameters = model.namedParameters();
  const names = [...parameters.keys()].sort((a, b) => (a < b ? -1 : 1));
  manualSeed(seed);
  noGrad(() =>
    scope(() => {
      for (const name of names) {
        const parameter = parameters.get(name)!;
        parameter.copy_(drawn(name, parameter.shape));
      }
    }),
  );
  return model;
}

function drawn(name: string, shape: readonly number[]): Tensor {
  const x = randn(shape);
  if (name.endsWith('.bias')) return x.mul(0.1);
  if (shape.length === 1 || /\.[qk]_norm\.weight$/.test(name)) return x.mul(0.1).add(1);
  if (/(embed_tokens|vqmodel\.quantize\.embedding)\.weight$/.test(name)) return x.mul(0.6);
  const fanIn = shape.slice(1).reduce((a, b) => a * b);
  return x.mul((shape.length === 4 ? 1 : 0.6) / Math.sqrt(fanIn));
}

/** The case's images, in order. */
export function seededImages(golden: GoldenCase): ProcessedImage[] {
  const grids = golden.image_grid_thw ?? [];
  const counts = grids.map(([t, h, w]) => t * h * w);
  const total = counts.reduce((a, b) => a + b, 0);
  if (total === 0) return [];
  manualSeed(golden.seed + 1);
  // Qwen3-VL's patches are of 16x16 pixels, those of the others of 14x14.
  const patchSize = golden.config && modelType(golden.config) === 'qwen3_vl' ? 16 : 14;
  const pixels = randn([total, 3 * 2 * patchSize ** 2]);
  let at = 0;
  const images = grids.map((grid, i): ProcessedImage => {
    const own = pixels.narrow(0, at, counts[i]!);
    at += counts[i]!;
    return makeImage(own, grid, patchSize);
  });
  pixels.dispose();
  return images;
}

export function makeImage(pixels: Tensor, grid: [number, number, number], patchSize = 14): ProcessedImage {
  const [, h, w] = grid;
  return {
    pixels,
    grid,
    tokens: (h * w) / 4,
    tokenGrid: [h / 2, w / 2],
    source: { width: w * patchSize, height: h * patchSize },
  };
}

/** Collated rows as a Batch; each row takes the next images until its image tokens are filled. */
export function makeBatch(
  inputIds: number[][],
  mask: number[][],
  images: readonly ProcessedImage[],
  ids: { image: number; latent: number },
  labels?: number[][],
): Batch {
  const latentSteps = inputIds[0]!.filter((id) => id === ids.latent).length;
  let next = 0;
  const imagesOf = (row: readonly number[]) => {
    const own: ProcessedImage[] = [];
    for (let left = row.filter((id) => id === ids.image).length; left > 0; left -= own.at(-1)!.tokens)
      own.push(images[next++]!);
    return own;
  };
  return {
    inputIds,
    labels: labels ?? inputIds.map((row) => row.map(() => -100)),
    attentionMask: mask,
    latentStart:
      latentSteps > 0
        ? inputIds[0]!.indexOf(ids.latent)
        : labels
          ? labels[0]!.findIndex((l) => l !== -100)
          : inputIds[0]!.length,
    latentSteps,
    images: inputIds.map(imagesOf),
    pickTargets: inputIds.map(() => null),
  };
}

/** Largest difference, relative to the largest expected magnitude. */
export function relativeError(got: readonly number[], wanted: readonly number[]): number {
  if (got.length !== wanted.length) throw new Error(`${got.length} numbers, expected ${wanted.length}`);
  const scale = Math.max(...wanted.map(Math.abs), 1e-12);
  return Math.max(...got.map((value, i) => Math.abs(value - wanted[i]!))) / scale;
}
