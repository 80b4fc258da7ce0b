/**
 * Qwen3-VL's vision tower: patches with learned positions, stretched to the image's grid -> transformer with 2-D rotary positions -> merger into the
 * decoder's width; further mergers turn what some blocks give into DeepStack features.
 * Source: Hugging Face Qwen3VLVisionModel. Property names are the checkpoint's.
 * Shapes: I images of one grid, P patches an image, C vision width, N = P/4 image tokens, D decoder width, L DeepStack levels.
 */
import {
  Conv3d,
  cat,
  Embedding,
  type FactoryOptions,
  fromBytes,
  gelu,
  LayerNorm,
  Linear,
  type LinearLayer,
  Module,
  type Tensor,
} from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { indexTensor } from '../common/index-tensor.ts';
import type { RotaryAngles } from '../common/rotary.ts';
import { numbersIn, type VisionUnit } from '../common/vision-units.ts';
import { GridTables, gridAngles, VisionAttention } from '../qwen2-vl/vision.ts';
import type { ProcessedImage } from '../types.ts';
import type { VisionConfig } from './config.ts';
import { interpolation } from './interpolation.ts';

class PatchEmbed extends Module {
  readonly proj: Conv3d;
  constructor({ channels, frames, patchSize, dim }: VisionConfig, options: FactoryOptions) {
    super();
    this.proj = new Conv3d(channels, dim, [frames, patchSize, patchSize], options);
  }
  /** (I, P, channels*frames*16*16) -> (I, P, C). The convolution's stride is its kernel, so it is one product per patch. */
  forward(pixels: Tensor): Tensor {
    return ops.linear(pixels, this.proj.weight.flatten(1), this.proj.bias);
  }
}

class VisionMlp extends Module {
  readonly linear_fc1: LinearLayer;
  readonly linear_fc2: LinearLayer;
  constructor(dim: number, inner: number, options: FactoryOptions) {
    super();
    this.linear_fc1 = new Linear(dim, inner, options);
    this.linear_fc2 = new Linear(inner, dim, options);
  }
  forward(x: Tensor): Tensor {
    return this.linear_fc2.forward(gelu(this.linear_fc1.forward(x), 'tanh'));
  }
}

class VisionBlock extends Module {
  readonly norm1: LayerNorm;
  readonly norm2: LayerNorm;
  readonly attn: VisionAttention;
  readonly mlp: VisionMlp;
  constructor({ dim, heads, mlpDim }: VisionConfig, options: FactoryOptions) {
    super();
    this.norm1 = new LayerNorm(dim, { eps: 1e-6, ...options });
    this.norm2 = new LayerNorm(dim, { eps: 1e-6, ...options });
    this.attn = new VisionAttention(dim, heads, options);
    this.mlp = new VisionMlp(dim, mlpDim, options);
  }
  forward(x: Tensor, angles: RotaryAngles): Tensor {
    const attended = x.add(this.attn.forward(this.norm1.forward(x), angles));
    return attended.add(this.mlp.forward(this.norm2.forward(attended)));
  }
}

class PatchMerger extends Module {
  readonly norm: LayerNorm;
  readonly linear_fc1: LinearLayer;
  readonly linear_fc2: LinearLayer;
  readonly #width: number;
  readonly #normMerged: boolean;

  /** @param normMerged the norm acts on the patches of a token together, not on each */
  constructor({ dim, merge, outDim }: VisionConfig, normMerged: boolean, options: FactoryOptions) {
    super();
    this.#width = dim * merge * merge;
    this.#normMerged = normMerged;
    this.norm = new LayerNorm(normMerged ? this.#width : dim, { eps: 1e-6, ...options });
    this.linear_fc1 = new Linear(this.#width, this.#width, options);
    this.linear_fc2 = new Linear(this.#width, outDim, options);
  }

  /** (I, P, C) -> (I, N, D) */
  forward(x: Tensor): Tensor {
    const merged = [x.shape[0]!, -1, this.#width];
    const normed = this.#normMerged ? this.norm.forward(x.reshape(merged)) : this.norm.forward(x).reshape(merged);
    return this.linear_fc2.forward(gelu(this.linear_fc1.forward(normed)));
  }
}

/** What depends on a grid alone. */
interface GridTable extends RotaryAngles {
  /** (4P) int64 and (P, 4, 1) float32: the learned positions around each patch, and their shares. */
  corners: Tensor;
  shares: Tensor;
}

export class Qwen3VisionTower extends Module {
  readonly patch_embed: PatchEmbed;
  readonly pos_embed: Embedding;
  readonly blocks: VisionBlock[];
  readonly merger: PatchMerger;
  readonly deepstack_merger_list: PatchMerger[];
  readonly #config: VisionConfig;
  readonly #tables = new GridTables<GridTable>();

  constructor(config: VisionConfig, options: FactoryOptions) {
    super();
    this.#config = config;
    this.patch_embed = new PatchEmbed(config, options);
    this.pos_embed = new Embedding(config.positionSide ** 2, config.dim, options);
    this.blocks = Array.from({ length: config.depth }, () => new VisionBlock(config, options));
    this.merger = new PatchMerger(config, false, options);
    this.deepstack_merger_list = config.deepstackBlocks.map(() => new PatchMerger(config, true, options));
  }

  /**
   * For pixels (I, P, 1536) float32 of one grid, or (P, 1536) of one image; gives (I, N, (1+L)*D): token embeddings, behind them the features of the levels in the order of
   * their blocks.
   */
  units(pixels: Tensor, grid: ProcessedImage['grid']): VisionUnit[] {
    const { dim, mlpDim, merge, deepstackBlocks } = this.#config;
    const { weight } = this.patch_embed.proj;
    const { dtype, device } = weight;
    // Looked up for each block: other images that come between may push a grid's tables out.
    const table = () => this.#tables.of(grid, device, () => this.#table(grid, device));
    const [patches, images = 1] = pixels.shape.slice(0, -1).reverse() as [number, number?];
    const all = images * patches;
    const mergerWork = (all / merge ** 2) * numbersIn(this.merger);
    return [
      {
        work: (all * weight.numel) / dim,
        run: () => {
          const embedded = this.patch_embed.forward(pixels.view([images, patches, -1]).to({ dtype, device }));
          return [embedded.add(this.#positions(table()).to(dtype))];
        },
      },
      ...this.blocks.map((block, i): VisionUnit => {
        const level = this.deepstack_merger_list[deepstackBlocks.indexOf(i)];
        // Four products for the attention's inputs and output, two for the MLP; two of every patch with all patches.
        const work = all * (4 * dim * dim + 2 * dim * mlpDim + 2 * patches * dim);
        return {
          work: work + (level ? mergerWork : 0),
          run: ([x, ...levels]) => {
            const next = block.forward(x!, table());
            return [next, ...levels, ...(level ? [level.forward(next)] : [])];
          },
        };
      }),
      { work: mergerWork, run: ([x, ...levels]) => [cat([this.merger.forward(x!), ...levels], -1)] },
    ];
  }

  /** (P, C) float32, as in Hugging Face whatever the model's dtype. */
  #positions({ corners, shares }: GridTable): Tensor {
    const around = this.pos_embed.forward(corners).view([-1, 4, this.#config.dim]);
    return around.mul(shares).sum(1);
  }

  #table(grid: ProcessedImage['grid'], device: string): GridTable {
    const { positionSide, merge } = this.#config;
    const { corners, shares } = interpolation(grid, positionSide, merge);
    return {
      ...gridAngles(grid, this.#config, device),
      corners: indexTensor(corners, device),
      shares: fromBytes(new Uint8Array(shares.buffer), 'float32', [corners.length / 4, 4, 1]).to({ device }),
    };
  }

  override dispose(): void {
    super.dispose();
    this.#tables.dispose();
  }
}
