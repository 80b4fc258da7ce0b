/**
 * Qwen2-VL's vision tower: patches -> transformer with 2-D rotary positions -> 2x2 merger into the decoder's width.
 * Source: Hugging Face Qwen2VisionTransformerPretrainedModel. Property names are the checkpoint's.
 * Shapes: I images of one grid, P patches an image, C vision width, H heads, E head size, N = P/4 image tokens, D decoder width.
 */
import {
  Conv3d,
  type FactoryOptions,
  fromBytes,
  LayerNorm,
  Linear,
  type LinearLayer,
  Module,
  quickGelu,
  stack,
  type Tensor,
} from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { attend, NO_MASK } from '../common/attention.ts';
import { makeTable, type RotaryAngles, rotate } from '../common/rotary.ts';
import { numbersIn, type VisionUnit } from '../common/vision-units.ts';
import type { ProcessedImage } from '../types.ts';
import type { Qwen2VLConfig, TowerConfig } from './config.ts';

/** Real images come in any number of sizes: only the angles of the last grids stay. */
const GRIDS_KEPT = 16;

export class PatchEmbed extends Module {
  readonly proj: Conv3d;
  constructor(config: TowerConfig, options: FactoryOptions) {
    super();
    const { channels, frames, patchSize, dim } = config;
    this.proj = new Conv3d(channels, dim, [frames, patchSize, patchSize], { bias: false, ...options });
  }
  /** (I, P, channels*frames*14*14) -> (I, P, C). The convolution's stride is its kernel, so it is one product per patch. */
  forward(pixels: Tensor): Tensor {
    return ops.linear(pixels, this.proj.weight.flatten(1));
  }
}

export class VisionAttention extends Module {
  readonly qkv: LinearLayer;
  readonly proj: LinearLayer;
  readonly #heads: number;
  constructor(dim: number, heads: number, options: FactoryOptions) {
    super();
    this.#heads = heads;
    this.qkv = new Linear(dim, 3 * dim, options);
    this.proj = new Linear(dim, dim, options);
  }
  forward(x_IPC: Tensor, angles: RotaryAngles): Tensor {
    const [I, P, C] = x_IPC.shape as [number, number, number];
    const parts = this.qkv
      .forward(x_IPC)
      .view([I, P, 3, this.#heads, C / this.#heads])
      .permute([2, 0, 3, 1, 4]);
    // The angles are float32 whatever the model's dtype, and so are the products with them, as in Hugging Face.
    const q = rotate(parts.select(0, 0), angles);
    const k = rotate(parts.select(0, 1), angles);
    return this.proj.forward(attend(q, k, parts.select(0, 2), NO_MASK));
  }
}

class VisionMlp extends Module {
  readonly fc1: LinearLayer;
  readonly fc2: LinearLayer;
  constructor(dim: number, inner: number, options: FactoryOptions) {
    super();
    this.fc1 = new Linear(dim, inner, options);
    this.fc2 = new Linear(inner, dim, options);
  }
  forward(x: Tensor): Tensor {
    return this.fc2.forward(quickGelu(this.fc1.forward(x)));
  }
}

class VisionBlock extends Module {
  readonly norm1: LayerNorm;
  readonly norm2: LayerNorm;
  readonly attn: VisionAttention;
  readonly mlp: VisionMlp;
  constructor(config: Qwen2VLConfig['vision'], options: FactoryOptions) {
    super();
    this.norm1 = new LayerNorm(config.dim, { eps: 1e-6, ...options });
    this.norm2 = new LayerNorm(config.dim, { eps: 1e-6, ...options });
    this.attn = new VisionAttention(config.dim, config.heads, options);
    this.mlp = new VisionMlp(config.dim, config.mlpDim, options);
  }
  forward(x: Tensor, angles: RotaryAngles): Tensor {
    const attended = x.add(this.attn.forward(this.norm1.forward(x), angles));
    return attended.add(this.mlp.forward(this.norm2.forward(attended)));
  }
}

class PatchMerger extends Module {
  readonly ln_q: LayerNorm;
  readonly mlp: MergerMlp;
  readonly #width: number;
  constructor(config: Qwen2VLConfig, options: FactoryOptions) {
    super();
    const { dim, merge } = config.vision;
    this.#width = dim * merge * merge;
    this.ln_q = new LayerNorm(dim, { eps: 1e-6, ...options });
    this.mlp = new MergerMlp(this.#width, config.hiddenSize, options);
  }
  /** (I, P, C) -> (I, N, D) */
  forward(x: Tensor): Tensor {
    const [I] = x.shape as [number];
    const merged = this.ln_q.forward(x).reshape([I, -1, this.#width]);
    return this.mlp.forward(merged);
  }
}

/** A sequence in the checkpoint: 0 and 2 are linear, 1 is the activation between them. */
export class MergerMlp extends Module {
  0: LinearLayer;
  2: LinearLayer;
  constructor(width: number, out: number, options: FactoryOptions) {
    super();
    this[0] = new Linear(width, width, options);
    this[2] = new Linear(width, out, options);
  }
  forward(merged: Tensor): Tensor {
    return this[2].forward(ops.gelu(this[0].forward(merged)));
  }
}

export class Qwen2VisionTower extends Module {
  readonly patch_embed: PatchEmbed;
  readonly blocks: VisionBlock[];
  readonly merger: PatchMerger;
  readonly #config: Qwen2VLConfig['vision'];
  readonly #angles = new GridTables<RotaryAngles>();

  constructor(config: Qwen2VLConfig, options: FactoryOptions) {
    super();
    this.#config = config.vision;
    this.patch_embed = new PatchEmbed(config.vision, options);
    this.blocks = Array.from({ length: config.vision.depth }, () => new VisionBlock(config.vision, options));
    this.merger = new PatchMerger(config, options);
  }

  /** For pixels (I, P, 1176) float32 of one grid, or (P, 1176) of one image; gives (I, N, D). */
  units(pixels: Tensor, grid: ProcessedImage['grid']): VisionUnit[] {
    const { weight } = this.patch_embed.proj;
    const { dtype, device } = weight;
    // Looked up for each block: other images that come between may push a grid's angles out.
    const angles = () => this.#angles.of(grid, device, () => gridAngles(grid, this.#config, device));
    const [patches, images = 1] = pixels.shape.slice(0, -1).reverse() as [number, number?];
    const { dim, mlpDim } = this.#config;
    const all = images * patches;
    return [
      {
        work: (all * weight.numel) / dim,
        run: () => [this.patch_embed.forward(pixels.view([images, patches, -1]).to({ dtype, device }))],
      },
      ...this.blocks.map((block) => ({
        // Four products for the attention's inputs and output, two for the MLP; two of every patch with all patches.
        work: all * (4 * dim * dim + 2 * dim * mlpDim + 2 * patches * dim),
        run: ([x]: readonly Tensor[]) => [block.forward(x!, angles())],
      })),
      { work: (all / 4) * numbersIn(this.merger), run: ([x]) => [this.merger.forward(x!)] },
    ];
  }

  override dispose(): void {
    super.dispose();
    this.#angles.dispose();
  }
}

/** Runs images of one grid together: `forward` takes (I, P, values) and gives (I, N, D). Returns (N, D) an image. */
export function encodeByGrid(
  images: readonly ProcessedImage[],
  forward: (pixels: Tensor, grid: ProcessedImage['grid']) => Tensor,
): Tensor[] {
  const groups = new Map<string, number[]>();
  images.forEach(({ grid }, i) => {
    const key = grid.join('x');
    groups.set(key, [...(groups.get(key) ?? []), i]);
  });
  const results: Tensor[] = [];
  for (const indices of groups.values()) {
    const encoded = forward(stack(indices.map((i) => images[i]!.pixels)), images[indices[0]!]!.grid);
    indices.forEach((i, j) => {
      results[i] = encoded.select(0, j);
    });
  }
  return results;
}

/** Angles (1, 1, P, E): rows turn the first half of the frequencies, columns the second, in 2x2-merge order. Call inside a scope. */
export function gridAngles(
  [time, rows, columns]: ProcessedImage['grid'],
  { dim, heads, merge }: Pick<TowerConfig, 'dim' | 'heads' | 'merge'>,
  device: string,
): RotaryAngles {
  const quarter = dim / heads / 4;
  const patches = rows * columns;
  const angles = new Float32Array(time * patches * quarter * 2);
  let at = 0;
  const axis = new Float32Array(quarter);
  for (let i = 0; i < quarter; i++) axis[i] = 1 / 10000 ** ((2 * i) / (dim / heads / 2));
  for (let t = 0; t < time; t++)
    for (let r = 0; r < rows; r += merge)
      for (let c = 0; c < columns; c += merge)
        for (let member = 0; member < merge * merge; member++) {
          for (let i = 0; i < quarter; i++) angles[at++] = (r + Math.floor(member / merge)) * axis[i]!;
          for (let i = 0; i < quarter; i++) angles[at++] = (c + (member % merge)) * axis[i]!;
        }
  const half = fromBytes(new Uint8Array(angles.buffer), 'float32', [1, 1, time * patches, quarter * 2]);
  const both = ops.cat([half, half], -1);
  return { cos: ops.cos(both).to({ device }), sin: ops.sin(both).to({ device }) };
}

/** Tables of tensors that belong to a grid; those of the last grids stay. */
export class GridTables<Table extends object> {
  readonly #tables = new Map<string, Table>();

  of(grid: ProcessedImage['grid'], device: string, make: () => Table): Table {
    const key = `${grid.join('x')} ${device}`;
    const known = this.#tables.get(key);
    if (known) return known;
    const made = makeTable(make);
    for (const [oldest, table] of this.#tables) {
      if (this.#tables.size < GRIDS_KEPT) break;
      disposeTable(table);
      this.#tables.delete(oldest);
    }
    this.#tables.set(key, made);
    return made;
  }

  dispose(): void {
    for (const table of this.#tables.values()) disposeTable(table);
    this.#tables.clear();
  }
}

function disposeTable(table: object): void {
  for (const tensor of Object.values(table) as Tensor[]) tensor.dispose();
}
