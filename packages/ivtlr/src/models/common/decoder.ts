/**
 * The decoder that the families share: grouped-query attention with rotary positions, SwiGLU, RMSNorm. What differs is named in DecoderTraits.
 * Source: Hugging Face Qwen2VLTextModel, ChameleonModel. Property names are the checkpoints'.
 * Shapes: B batch, S new positions, T all positions, D width, I width of an input row (D, or with DeepStack D a level more), H query heads, G key/value heads, E head size.
 */
import {
  Embedding,
  type FactoryOptions,
  Linear,
  type LinearLayer,
  Module,
  RMSNorm,
  type SegmentedPass,
  scope,
  siluMul,
  type Tensor,
} from '@ivtlr/torch';
import type {
  CacheCapacity,
  ForwardOptions,
  ForwardResult,
  RowsForwardOptions,
  RowsForwardResult,
  SlotsForwardOptions,
} from '../types.ts';
import type { AttentionPass } from './attention.ts';
import { BatchAttention, batchMask } from './batch-attention.ts';
import { GraphCache, type KeyValueCache, PreallocatedCache } from './kv-cache.ts';
import type { RopeScaling } from './rope-config.ts';
import { Rotary, type RotaryAngles, rotate } from './rotary.ts';
import { RowAttention } from './row-attention.ts';
import { SlotCache, type SlotCacheOptions } from './slot-cache.ts';
import { StaticAttention } from './static-attention.ts';

/** Sizes, as a family's configuration gives them. */
export interface DecoderConfig {
  hiddenSize: number;
  layers: number;
  heads: number;
  keyValueHeads: number;
  /** Channels of a head; without it hiddenSize / heads. */
  headSize?: number;
  intermediateSize: number;
  vocabularySize: number;
  normEps: number;
  ropeTheta: number;
  ropeScaling: RopeScaling | null;
  /** Positions the model has angles for. */
  maxPositions: number;
}

/** (B, S, heads, E) -> the same. */
export interface HeadNorm extends Module {
  forward(x: Tensor): Tensor;
}

/** What one family's decoder has and another's has not. */
export interface DecoderTraits {
  /** Biases of q, k and v. */
  qkvBias: boolean;
  /** Makes the norm of each query and key head before the rotation. */
  headNorm?: (heads: number, headSize: number, options: FactoryOptions) => HeadNorm;
  /** A layer's norms act on what its parts give instead of what they take. */
  normAfter?: boolean;
  /** M-RoPE: frequencies per axis. */
  mropeSections?: readonly number[];
  /** M-RoPE: the axes take turns along the frequencies instead of each having a run of them. */
  mropeInterleaved?: boolean;
  /** DeepStack: in so many first layers, further features of an input row are added to what the layer gives. */
  deepstackLevels?: number;
}

/** What every layer of one pass shares. */
interface Pass {
  angles: RotaryAngles;
  attention: AttentionPass;
}

interface LayerResult {
  hidden: Tensor;
  /** (b, T) a group of rows that wants its attention probabilities. */
  scores: Tensor[];
}

class Attention extends Module {
  readonly q_proj: LinearLayer;
  readonly k_proj: LinearLayer;
  readonly v_proj: LinearLayer;
  readonly o_proj: LinearLayer;
  readonly q_norm: HeadNorm | undefined;
  readonly k_norm: HeadNorm | undefined;
  readonly #heads: number;
  readonly #groups: number;
  readonly #headSize: number;
  readonly #layer: number;

  constructor(config: DecoderConfig, traits: DecoderTraits, layer: number, options: FactoryOptions) {
    super();
    const { hiddenSize, heads, keyValueHeads } = config;
    const headSize = headSizeOf(config);
    const bias = traits.qkvBias;
    this.#heads = heads;
    this.#groups = keyValueHeads;
    this.#headSize = headSize;
    this.#layer = layer;
    this.q_proj = new Linear(hiddenSize, heads * headSize, { bias, ...options });
    this.k_proj = new Linear(hiddenSize, keyValueHeads * headSize, { bias, ...options });
    this.v_proj = new Linear(hiddenSize, keyValueHeads * headSize, { bias, ...options });
    this.o_proj = new Linear(heads * headSize, hiddenSize, { bias: false, ...options });
    this.q_norm = traits.headNorm?.(heads, headSize, options);
    this.k_norm = traits.headNorm?.(keyValueHeads, headSize, options);
  }

  forward(x_BSD: Tensor, pass: Pass): LayerResult {
    const [B, S] = x_BSD.shape as [number, number, number];
    const split = (x: Tensor, heads: number, norm?: HeadNorm) => {
      const x_BSHE = x.view([B, S, heads, this.#headSize]);
      return (norm ? norm.forward(x_BSHE) : x_BSHE).transpose(1, 2);
    };
    const q = rotate(split(this.q_proj.forward(x_BSD), this.#heads, this.q_norm), pass.angles);
    const keys = rotate(split(this.k_proj.forward(x_BSD), this.#groups, this.k_norm), pass.angles);
    const values = split(this.v_proj.forward(x_BSD), this.#groups);
    const { mixed, scores } = pass.attention.attend(this.#layer, q, keys, values);
    return { hidden: this.o_proj.forward(mixed), scores };
  }
}

class Mlp extends Module {
  readonly gate_proj: LinearLayer;
  readonly up_proj: LinearLayer;
  readonly down_proj: LinearLayer;

  constructor({ hiddenSize, intermediateSize }: DecoderConfig, options: FactoryOptions) {
    super();
    this.gate_proj = new Linear(hiddenSize, intermediateSize, { bias: false, ...options });
    this.up_proj = new Linear(hiddenSize, intermediateSize, { bias: false, ...options });
    this.down_proj = new Linear(intermediateSize, hiddenSize, { bias: false, ...options });
  }

  forward(x: Tensor): Tensor {
    return this.down_proj.forward(siluMul(this.gate_proj.forward(x), this.up_proj.forward(x)));
  }
}

class DecoderLayer extends Module {
  readonly input_layernorm: RMSNorm;
  readonly self_attn: Attention;
  readonly post_attention_layernorm: RMSNorm;
  readonly mlp: Mlp;
  readonly #normAfter: boolean;

  constructor(config: DecoderConfig, traits: DecoderTraits, layer: number, options: FactoryOptions) {
    super();
    this.input_layernorm = new RMSNorm(config.hiddenSize, { eps: config.normEps, ...options });
    this.self_attn = new Attention(config, traits, layer, options);
    this.post_attention_layernorm = new RMSNorm(config.hiddenSize, { eps: config.normEps, ...options });
    this.mlp = new Mlp(config, options);
    this.#normAfter = traits.normAfter ?? false;
  }

  forward(x: Tensor, pass: Pass): LayerResult {
    if (this.#normAfter) {
      const attention = this.self_attn.forward(x, pass);
      const hidden = x.add(this.input_layernorm.forward(attention.hidden));
      const mlp = this.post_attention_layernorm.forward(this.mlp.forward(hidden));
      return { hidden: hidden.add(mlp), scores: attention.scores };
    }
    const attention = this.self_attn.forward(this.input_layernorm.forward(x), pass);
    const hidden = x.add(attention.hidden);
    const mlp = this.mlp.forward(this.post_attention_layernorm.forward(hidden));
    return { hidden: hidden.add(mlp), scores: attention.scores };
  }
}

function headSizeOf({ headSize, hiddenSize, heads }: DecoderConfig): number {
  return headSize ?? hiddenSize / heads;
}

/** The name of a layer's parameters as a part of the model. */
export function layerPart(layer: number): string {
  return `layers.${layer}`;
}

export class Decoder extends Module {
  readonly embed_tokens: Embedding;
  readonly layers: DecoderLayer[];
  readonly norm: RMSNorm;
  /** See DecoderTraits. An input row holds its embedding (D) and so many further features (D each). */
  readonly deepstackLevels: number;
  readonly #config: DecoderConfig;
  readonly #rotary: Rotary;

  constructor(config: DecoderConfig, traits: DecoderTraits, options: FactoryOptions) {
    super();
    this.#config = config;
    this.deepstackLevels = traits.deepstackLevels ?? 0;
    this.embed_tokens = new Embedding(config.vocabularySize, config.hiddenSize, options);
    this.layers = Array.from({ length: config.layers }, (_, layer) => new DecoderLayer(config, traits, layer, options));
    this.norm = new RMSNorm(config.hiddenSize, { eps: config.normEps, ...options });
    this.#rotary = new Rotary({
      headSize: headSizeOf(config),
      theta: config.ropeTheta,
      scaling: config.ropeScaling,
      maxPositions: config.maxPositions,
      sections: traits.mropeSections ?? null,
      interleaved: traits.mropeInterleaved ?? false,
    });
  }

  /** See VisionLanguageModel.newCache. */
  newCache(batch: number, capacity: CacheCapacity): KeyValueCache {
    if (typeof capacity === 'string') return new GraphCache(capacity === 'segments');
    const { layers, keyValueHeads } = this.#config;
    const { dtype, device } = this.embed_tokens.weight;
    return new PreallocatedCache(
      { layers, batch, heads: keyValueHeads, headSize: headSizeOf(this.#config), dtype, device },
      capacity,
    );
  }

  /** See VisionLanguageModel.newSlotCache. */
  newSlotCache(slots: number, capacity: number, options: SlotCacheOptions = {}): SlotCache {
    const { layers, keyValueHeads } = this.#config;
    const { dtype, device } = this.embed_tokens.weight;
    const shape = { layers, batch: slots, heads: keyValueHeads, headSize: headSizeOf(this.#config), dtype, device };
    return new SlotCache(shape, capacity, options);
  }

  /** inputs (B, S, I) -> hidden states after the final norm, and the last row's attention probabilities. */
  forward(inputs_BSI: Tensor, options: ForwardOptions): ForwardResult {
    const { segments = null } = options;
    const { hidden, scores } = segments
      ? this.#runSegments(inputs_BSI, this.#pass(inputs_BSI, options), options, segments)
      : scope(() => this.#run(inputs_BSI, this.#pass(inputs_BSI, options)));
    options.cache?.advance(inputs_BSI.shape[1]!, options.valid ?? null);
    return { hidden, scores: scores[0] ?? null };
  }

  /** See VisionLanguageModel.forwardRows. */
  forwardRows(inputs_1RI: Tensor, { positions, cache, groups }: RowsForwardOptions): RowsForwardResult {
    return scope(() => {
      const { dtype, device } = inputs_1RI;
      const attention = new RowAttention(cache, groups, device);
      const result = this.#run(inputs_1RI, { angles: this.#rotary.angles(positions, dtype, device), attention });
      attention.advance();
      return result;
    });
  }

  /** See VisionLanguageModel.forwardSlots. */
  forwardSlots(inputs_nSI: Tensor, { positions, ...where }: SlotsForwardOptions): ForwardResult {
    return scope(() => {
      const { dtype, device } = inputs_nSI;
      const attention = new StaticAttention(where, inputs_nSI.shape[1]!, device);
      const angles = this.#rotary.angles(positions.unsqueeze(0), dtype, device);
      const { hidden, scores } = this.#run(inputs_nSI, { angles, attention });
      return { hidden, scores: scores[0] ?? null };
    });
  }

  /** All layers. Scores are means over them. */
  #run(inputs_BSI: Tensor, pass: Pass): LayerResult {
    const [embeddings, ...features] = this.#parts(inputs_BSI) as [Tensor, ...Tensor[]];
    let x = embeddings;
    let sums: Tensor[] = [];
    for (const [i, layer] of this.layers.entries()) {
      // A scope a layer: what a layer made and the graph does not need is freed before the next.
      const step: LayerResult = scope(() => {
        const { hidden: given, scores } = layer.forward(x, pass);
        const hidden = features[i] ? given.add(features[i]) : given;
        return { hidden, scores: sums.length > 0 ? scores.map((own, i) => sums[i]!.add(own)) : scores };
      });
      if (x !== embeddings) x.dispose();
      for (const sum of sums) sum.dispose();
      ({ hidden: x, scores: sums } = step);
    }
    return { hidden: this.norm.forward(x), scores: sums.map((sum) => sum.div(this.layers.length)) };
  }

  /** All layers, each a segment of its own; the final norm belongs to the last one. What the pass shares stays in the caller's scope. */
  #runSegments(
    inputs_BSI: Tensor,
    pass: Pass,
    { cache, twice }: Pick<ForwardOptions, 'cache' | 'twice'>,
    segments: SegmentedPass,
  ): LayerResult {
    const graph = cache instanceof GraphCache ? cache : null;
    const last = this.layers.length - 1;
    // Several segments read their parts of the inputs, so these get borders of their own: no segment goes back through what made them.
    // They are copies, since a view asks for gradients as its base does, even where none are recorded.
    const [inputs, ...features] = (
      this.deepstackLevels > 0
        ? segments.run({ parts: [], depth: -1 }, () => this.#parts(inputs_BSI).map((part) => part.clone()))
        : [inputs_BSI]
    ) as [Tensor, ...Tensor[]];
    let x = inputs;
    let sums: Tensor[] = [];
    this.layers.forEach((layer, i) => {
      const finish = (given: Tensor) => {
        const hidden = features[i] ? given.add(features[i]) : given;
        return i === last ? this.norm.forward(hidden) : hidden;
      };
      const options = { parts: [layerPart(i)], depth: i };
      const taken = x;
      if (twice) {
        x = segments.runTwice(options, x, (input) => finish(layer.forward(input, pass).hidden));
        return;
      }
      const rows = graph ? 2 : 0;
      const before = sums;
      const given = segments.run(options, () => {
        const { hidden, scores } = layer.forward(x, pass);
        const added = before.length > 0 ? scores.map((own, at) => before[at]!.add(own)) : scores;
        return [finish(hidden), ...(graph?.rows(i) ?? []), ...added];
      });
      if (graph) graph.replace(i, given[1]!, given[2]!);
      x = given[0]!;
      sums = given.slice(1 + rows);
      if (taken !== inputs && !taken.requiresGrad) taken.dispose(); // no backward pass comes back to it
    });
    return { hidden: x, scores: sums.map((sum) => sum.div(this.layers.length)) };
  }

  /** The embeddings of input rows and the features that are added to the first layers' results, (B, S, D) each. */
  #parts(inputs_BSI: Tensor): Tensor[] {
    if (this.deepstackLevels === 0) return [inputs_BSI];
    const D = this.#config.hiddenSize;
    return Array.from({ length: 1 + this.deepstackLevels }, (_, i) => inputs_BSI.narrow(2, i * D, D));
  }

  #pass(inputs_BSI: Tensor, options: ForwardOptions): Pass {
    const [B, S] = inputs_BSI.shape as [number, number, number];
    const { cache = null, valid = null, hidden = null, attentionScores = 'off' } = options;
    const { dtype, device } = inputs_BSI;
    const mask = batchMask(B, S, cache, valid, hidden, device);
    return {
      angles: this.#rotary.angles(options.positions, dtype, device),
      attention: new BatchAttention(mask, cache, attentionScores),
    };
  }

  override dispose(): void {
    super.dispose();
    this.#rotary.dispose();
  }
}
