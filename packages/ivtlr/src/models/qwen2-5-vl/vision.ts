/**
 * Qwen2.5-VL's vision tower: patches -> transformer whose blocks attend within windows of 112 pixels, a few of them over the whole image -> merger.
 * Source: Hugging Face Qwen2_5_VisionTransformerPretrainedModel. Property names are the checkpoint's.
 * Shapes: I images of one grid, P patches an image, C vision width, H heads, E head size, N = P/4 image tokens, D decoder width.
 */
import {
  cat,
  type FactoryOptions,
  Linear,
  type LinearLayer,
  Module,
  RMSNorm,
  siluMul,
  type Tensor,
  tensor,
} from '@ivtlr/torch';
import { attend, NO_MASK } from '../common/attention.ts';
import { type RotaryAngles, rotate } from '../common/rotary.ts';
import { numbersIn, type VisionUnit } from '../common/vision-units.ts';
import { GridTables, gridAngles, MergerMlp, PatchEmbed } from '../qwen2-vl/vision.ts';
import type { ProcessedImage } from '../types.ts';
import type { Qwen25VLConfig, VisionConfig } from './config.ts';
import { type WindowGroup, windowOrder } from './windows.ts';

/** What belongs to a grid. */
interface GridTable extends RotaryAngles {
  /** (N) int64: the image token at each place of the window order, and the reverse. */
  order: Tensor;
  inverse: Tensor;
}

class VisionAttention extends Module {
  readonly qkv: LinearLayer;
  readonly proj: LinearLayer;
  readonly #heads: number;

  constructor(dim: number, heads: number, options: FactoryOptions) {
    super();
    this.#heads = heads;
    this.qkv = new Linear(dim, 3 * dim, options);
    this.proj = new Linear(dim, dim, options);
  }

  /** @param groups runs of windows of one size, in the order of the patches; null: every patch attends to all of its image */
  forward(x_IPC: Tensor, angles: RotaryAngles, groups: readonly WindowGroup[] | null): Tensor {
    const [I, P, C] = x_IPC.shape as [number, number, number];
    const H = this.#heads;
    const E = C / H;
    const parts = this.qkv.forward(x_IPC).view([I, P, 3, H, E]).permute([2, 0, 3, 1, 4]);
    // The angles are float32 whatever the model's dtype, and so are the products with them, as in Hugging Face.
    const q = rotate(parts.select(0, 0), angles);
    const k = rotate(parts.select(0, 1), angles);
    const v = parts.select(0, 2);
    if (!groups) return this.proj.forward(attend(q, k, v, NO_MASK));
    let at = 0;
    const mixed = groups.map(({ windows, size }) => {
      // (I, H, P, E) -> (I * windows, H, size, E)
      const own = (x: Tensor) =>
        x
          .narrow(2, at, windows * size)
          .view([I, H, windows, size, E])
          .transpose(1, 2)
          .reshape([I * windows, H, size, E]);
      const out = attend(own(q), own(k), own(v), NO_MASK).view([I, windows * size, C]);
      at += windows * size;
      return out;
    });
    return this.proj.forward(mixed.length === 1 ? mixed[0]! : cat(mixed, 1));
  }
}

class VisionMlp extends Module {
  readonly gate_proj: LinearLayer;
  readonly up_proj: LinearLayer;
  readonly down_proj: LinearLayer;

  constructor(dim: number, inner: number, options: FactoryOptions) {
    super();
    this.gate_proj = new Linear(dim, inner, options);
    this.up_proj = new Linear(dim, inner, options);
    this.down_proj = new Linear(inner, dim, options);
  }

  forward(x: Tensor): Tensor {
    return this.down_proj.forward(siluMul(this.gate_proj.forward(x), this.up_proj.forward(x)));
  }
}

class VisionBlock extends Module {
  readonly norm1: RMSNorm;
  readonly norm2: RMSNorm;
  readonly attn: VisionAttention;
  readonly mlp: VisionMlp;

  constructor({ dim, heads, mlpDim }: VisionConfig, options: FactoryOptions) {
    super();
    this.norm1 = new RMSNorm(dim, { eps: 1e-6, ...options });
    this.norm2 = new RMSNorm(dim, { eps: 1e-6, ...options });
    this.attn = new VisionAttention(dim, heads, options);
    this.mlp = new VisionMlp(dim, mlpDim, options);
  }

  forward(x: Tensor, angles: RotaryAngles, groups: readonly WindowGroup[] | null): Tensor {
    const attended = x.add(this.attn.forward(this.norm1.forward(x), angles, groups));
    return attended.add(this.mlp.forward(this.norm2.forward(attended)));
  }
}

class PatchMerger extends Module {
  readonly ln_q: RMSNorm;
  readonly mlp: MergerMlp;
  readonly #width: number;

  constructor({ vision, hiddenSize }: Qwen25VLConfig, options: FactoryOptions) {
    super();
    this.#width = vision.dim * vision.merge ** 2;
    this.ln_q = new RMSNorm(vision.dim, { eps: 1e-6, ...options });
    this.mlp = new MergerMlp(this.#width, hiddenSize, options);
  }

  /** (I, P, C) -> (I, N, D) */
  forward(x: Tensor): Tensor {
    return this.mlp.forward(this.ln_q.forward(x).reshape([x.shape[0]!, -1, this.#width]));
  }
}

export class Qwen25VisionTower extends Module {
  readonly patch_embed: PatchEmbed;
  readonly blocks: VisionBlock[];
  readonly merger: PatchMerger;
  readonly #config: VisionConfig;
  readonly #tables = new GridTables<GridTable>();

  constructor(config: Qwen25VLConfig, options: FactoryOptions) {
    super();
    this.#config = config.vision;
    this.patch_embed = new PatchEmbed(config.vision, options);
    this.blocks = Array.from({ length: config.vision.depth }, () => new VisionBlock(config.vision, options));
    this.merger = new PatchMerger(config, options);
  }

  /** For pixels (I, P, 1176) float32 of one grid, or (P, 1176) of one image; gives (I, N, D). The blocks see the patches window by window. */
  units(pixels: Tensor, grid: ProcessedImage['grid']): VisionUnit[] {
    const { dim, mlpDim, merge, window, fullAttention } = this.#config;
    const { weight } = this.patch_embed.proj;
    const { dtype, device } = weight;
    const { order, groups } = windowOrder(grid[1] / merge, grid[2] / merge, window);
    // Looked up for each block: other images that come between may push a grid's tables out.
    const table = () => this.#tables.of(grid, device, () => this.#table(grid, order, device));
    const patchGroups = groups.map(({ windows, size }) => ({ windows, size: size * merge ** 2 }));
    const [patches, images = 1] = pixels.shape.slice(0, -1).reverse() as [number, number?];
    const pairsInWindows = patchGroups.reduce((sum, { windows, size }) => sum + windows * size * size, 0);
    const blockUnit = (block: VisionBlock, i: number): VisionUnit => {
      const full = fullAttention.has(i);
      // Four products for the attention's inputs and output, three for the MLP; two of every patch with those it attends to.
      const products = patches * (4 * dim * dim + 3 * dim * mlpDim);
      const attended = 2 * dim * (full ? patches * patches : pairsInWindows);
      return {
        work: images * (products + attended),
        run: ([x]) => [block.forward(x!, table(), full ? null : patchGroups)],
      };
    };
    return [
      {
        work: (images * patches * weight.numel) / dim,
        run: () => [
          byToken(
            this.patch_embed.forward(pixels.view([images, patches, -1]).to({ dtype, device })),
            merge,
            1,
            table().order,
          ),
        ],
      },
      ...this.blocks.map(blockUnit),
      {
        work: ((images * patches) / merge ** 2) * numbersIn(this.merger),
        run: ([x]) => [this.merger.forward(x!).indexSelect(1, table().inverse)],
      },
    ];
  }

  #table(grid: ProcessedImage['grid'], order: readonly number[], device: string): GridTable {
    const inverse = new Array<number>(order.length);
    order.forEach((token, place) => {
      inverse[token] = place;
    });
    const index = (values: readonly number[]) => tensor([...values], { dtype: 'int64' }).to({ device });
    const { cos, sin } = gridAngles(grid, this.#config, device);
    const ordered = index(order);
    const { merge } = this.#config;
    return {
      cos: byToken(cos, merge, 2, ordered),
      sin: byToken(sin, merge, 2, ordered),
      order: ordered,
      inverse: index(inverse),
    };
  }

  override dispose(): void {
    super.dispose();
    this.#tables.dispose();
  }
}

/** Reorders the patches along `dim` by the order of their image tokens: the patches of a token are neighbours. */
function byToken(x: Tensor, merge: number, dim: number, order: Tensor): Tensor {
  const unit = merge * merge;
  const tokens = x.shape[dim]! / unit;
  return x
    .view([...x.shape.slice(0, dim), tokens, unit, ...x.shape.slice(dim + 1)])
    .indexSelect(dim, order)
    .flatten(dim, dim + 1);
}
