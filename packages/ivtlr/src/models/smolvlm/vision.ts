/**
 * SmolVLM's vision tower and connector: SigLIP over the patches of square tiles, neighbouring patches put together (pixel shuffle), one linear
 * layer into the decoder's width. Source: Hugging Face SmolVLMVisionTransformer, SmolVLMConnector. Property names are the checkpoint's.
 * Shapes: I tiles, P patches a tile, C vision width, H heads, E head size, N image tokens a tile, D decoder width.
 */
import {
  Conv2d,
  Embedding,
  type FactoryOptions,
  LayerNorm,
  Linear,
  type LinearLayer,
  Module,
  type Tensor,
} from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { attend, NO_MASK } from '../common/attention.ts';
import { numbersIn, type VisionUnit } from '../common/vision-units.ts';
import type { SmolVlmConfig, SmolVlmVisionConfig } from './config.ts';

class Embeddings extends Module {
  readonly patch_embedding: Conv2d;
  readonly position_embedding: Embedding;
  readonly #places: number;

  constructor({ dim, patchSize, places }: SmolVlmVisionConfig, options: FactoryOptions) {
    super();
    this.#places = places;
    this.patch_embedding = new Conv2d(3, dim, patchSize, { stride: patchSize, ...options });
    this.position_embedding = new Embedding(places * places, dim, options);
  }

  /** (I, 3, Y, X) -> (I, P, C) */
  forward(pixels: Tensor): Tensor {
    const patches_ICYX = this.patch_embedding.forward(pixels);
    const [, , rows, columns] = patches_ICYX.shape as [number, number, number, number];
    const positions = this.position_embedding.forward(this.#positions(rows, columns, pixels));
    return patches_ICYX.flatten(2).transpose(1, 2).add(positions);
  }

  /**
   * (P) int64: the place of each patch of a tile on the grid that positions were learned on, which may be finer or coarser. The fractions are
   * rounded to the dtype of the pixels before they are compared, as Hugging Face does.
   */
  #positions(rows: number, columns: number, { dtype, device }: Tensor): Tensor {
    const places = this.#places;
    const borders = ops.arange_start_step(1 / places, 1, 1 / places, 'float32', null, device);
    const along = (patches: number) => {
      const fractions = ops.clamp_max(
        ops.arange(patches, 'float32', null, device).mul(Math.fround(1 / patches)),
        1 - 1e-6,
      );
      return ops.bucketize_Tensor(fractions.to(dtype), borders, false, true);
    };
    return along(rows).mul(places).unsqueeze(1).add(along(columns)).flatten();
  }
}

class VisionAttention extends Module {
  readonly k_proj: LinearLayer;
  readonly v_proj: LinearLayer;
  readonly q_proj: LinearLayer;
  readonly out_proj: LinearLayer;
  readonly #heads: number;

  constructor({ dim, heads }: SmolVlmVisionConfig, options: FactoryOptions) {
    super();
    this.#heads = heads;
    this.k_proj = new Linear(dim, dim, options);
    this.v_proj = new Linear(dim, dim, options);
    this.q_proj = new Linear(dim, dim, options);
    this.out_proj = new Linear(dim, dim, options);
  }

  forward(x_IPC: Tensor): Tensor {
    const [I, P, C] = x_IPC.shape as [number, number, number];
    const split = (x: Tensor) => x.view([I, P, this.#heads, C / this.#heads]).transpose(1, 2);
    const [q, k, v] = [this.q_proj, this.k_proj, this.v_proj].map((layer) => split(layer.forward(x_IPC)));
    return this.out_proj.forward(attend(q!, k!, v!, NO_MASK));
  }
}

class VisionMlp extends Module {
  readonly fc1: LinearLayer;
  readonly fc2: LinearLayer;

  constructor({ dim, mlpDim }: SmolVlmVisionConfig, options: FactoryOptions) {
    super();
    this.fc1 = new Linear(dim, mlpDim, options);
    this.fc2 = new Linear(mlpDim, dim, options);
  }

  forward(x: Tensor): Tensor {
    return this.fc2.forward(ops.gelu(this.fc1.forward(x), 'tanh'));
  }
}

class EncoderLayer extends Module {
  readonly self_attn: VisionAttention;
  readonly layer_norm1: LayerNorm;
  readonly mlp: VisionMlp;
  readonly layer_norm2: LayerNorm;

  constructor(config: SmolVlmVisionConfig, options: FactoryOptions) {
    super();
    this.self_attn = new VisionAttention(config, options);
    this.layer_norm1 = new LayerNorm(config.dim, { eps: config.normEps, ...options });
    this.mlp = new VisionMlp(config, options);
    this.layer_norm2 = new LayerNorm(config.dim, { eps: config.normEps, ...options });
  }

  forward(x: Tensor): Tensor {
    const attended = x.add(this.self_attn.forward(this.layer_norm1.forward(x)));
    return attended.add(this.mlp.forward(this.layer_norm2.forward(attended)));
  }
}

class Encoder extends Module {
  readonly layers: EncoderLayer[];

  constructor(config: SmolVlmVisionConfig, options: FactoryOptions) {
    super();
    this.layers = Array.from({ length: config.layers }, () => new EncoderLayer(config, options));
  }
}

export class SiglipTower extends Module {
  readonly embeddings: Embeddings;
  readonly encoder: Encoder;
  readonly post_layernorm: LayerNorm;

  constructor(config: SmolVlmVisionConfig, options: FactoryOptions) {
    super();
    this.embeddings = new Embeddings(config, options);
    this.encoder = new Encoder(config, options);
    this.post_layernorm = new LayerNorm(config.dim, { eps: config.normEps, ...options });
  }

  /** For `count` of the tiles, all of one size, in pixels (I, 3, Y, X) float32; gives (count, P, C), row by row. */
  units(pixels: Tensor, first: number, count: number): VisionUnit[] {
    const { weight } = this.embeddings.patch_embedding;
    const { dtype, device } = weight;
    const [C, , side] = weight.shape as [number, number, number];
    const [, , height, width] = pixels.shape as [number, number, number, number];
    const patches = Math.floor(height / side) * Math.floor(width / side);
    const all = count * patches;
    return [
      {
        work: all * weight.numel,
        run: () => [this.embeddings.forward(pixels.narrow(0, first, count).to({ dtype, device }))],
      },
      ...this.encoder.layers.map((layer) => ({
        // Of its products, and two of every patch with all patches of its tile.
        work: all * (numbersIn(layer) + 2 * patches * C),
        run: ([x]: readonly Tensor[]) => [layer.forward(x!)],
      })),
      { work: 0, run: ([x]) => [this.post_layernorm.forward(x!)] },
    ];
  }
}

class ModalityProjection extends Module {
  readonly proj: LinearLayer;

  constructor({ vision: { dim, shuffle }, hiddenSize }: SmolVlmConfig, options: FactoryOptions) {
    super();
    this.proj = new Linear(dim * shuffle ** 2, hiddenSize, { bias: false, ...options });
  }
}

export class Connector extends Module {
  readonly modality_projection: ModalityProjection;
  readonly #shuffle: number;

  constructor(config: SmolVlmConfig, options: FactoryOptions) {
    super();
    this.#shuffle = config.vision.shuffle;
    this.modality_projection = new ModalityProjection(config, options);
  }

  /** (I, P, C) of square tiles -> (I, N, D): the patches of a square of `scale_factor` x `scale_factor` become one token, their channels row by row. */
  forward(x_IPC: Tensor): Tensor {
    const [I, P, C] = x_IPC.shape as [number, number, number];
    const factor = this.#shuffle;
    const tokens = Math.sqrt(P) / factor;
    const squares = x_IPC
      .view([I, tokens, factor, tokens, factor, C])
      .permute([0, 1, 3, 2, 4, 5])
      .reshape([I, tokens * tokens, factor * factor * C]);
    return this.modality_projection.proj.forward(squares);
  }
}
