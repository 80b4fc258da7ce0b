/**
 * config.json of a Qwen2-VL folder, in the hub's flat form or the nested form newer exports write, and what the newer Qwen families' files have in common
 * with it. Many exports leave out what has the default of Hugging Face's config classes, so the defaults here are those.
 */
import { z } from 'zod';
import { UserError } from '../../errors.ts';
import { checkConfig, layerCount, normEps, tokenId, vocabularySize, width } from '../common/config-schema.ts';
import type { DecoderConfig } from '../common/decoder.ts';
import { type RopeConfig, readRope, ropeFields } from '../common/rope-config.ts';

export const three = z.literal(3, { error: 'only 3 is supported' });

/** The decoder's keys that all Qwen families have, without those whose default differs. */
export const decoderFields = {
  ...ropeFields,
  num_attention_heads: width,
  num_key_value_heads: width.nullable(),
  hidden_size: width,
  num_hidden_layers: layerCount,
  intermediate_size: width,
  vocab_size: vocabularySize,
  rms_norm_eps: normEps,
  hidden_act: z.literal('silu', { error: 'only silu is supported' }).default('silu'),
  tie_word_embeddings: z.boolean().nullish(),
};

const text = z.object({
  ...decoderFields,
  hidden_size: width.default(8192),
  num_hidden_layers: layerCount.default(80),
  num_attention_heads: width.default(64),
  num_key_value_heads: width.nullable().default(8),
  intermediate_size: width.default(29568),
  vocab_size: vocabularySize.default(152064),
  rms_norm_eps: normEps.default(1e-5),
  max_position_embeddings: ropeFields.max_position_embeddings.default(32768),
  head_dim: width.nullish(),
  use_sliding_window: z.boolean().nullish(),
  sliding_window: z.int().nullish(),
  max_window_layers: z.int().min(0).nullable().default(80),
  layer_types: z.array(z.literal('full_attention', { error: 'only full_attention is supported' })).nullish(),
});

/** The vision tower's keys that all Qwen families have. */
export const visionFields = {
  depth: layerCount.default(32),
  num_heads: width.default(16),
  patch_size: z.int().positive().max(1024).default(14),
  temporal_patch_size: z.int().positive().max(64).default(2),
  spatial_merge_size: z.int().positive().max(64).default(2),
  in_channels: three.default(3),
  rope_parameters: z
    .object({
      rope_theta: z.literal(10000, { error: 'only 10000 is supported' }).optional(),
      rope_type: z.enum(['axial', 'default'], { error: 'only axial is supported' }).optional(),
    })
    .nullish(),
};

const vision = z.object({
  ...visionFields,
  embed_dim: width.default(1280),
  mlp_ratio: z.number().positive().max(64).default(4),
  hidden_act: z.literal('quick_gelu', { error: 'only quick_gelu is supported' }).default('quick_gelu'),
});

/** A whole config.json. @param vision its `vision_config` */
export function topSchema<Vision extends z.ZodType>(modelType: string, vision: Vision) {
  return z.object({
    model_type: z.literal(modelType),
    vision_config: vision.nullish().transform((value) => (value ?? vision.parse({})) as z.output<Vision>),
    text_config: z.record(z.string(), z.unknown()).nullish(),
    image_token_id: tokenId.default(151655),
    tie_word_embeddings: z.boolean().nullish(),
  });
}

const top = topSchema('qwen2_vl', vision);

/** M-RoPE's frequencies per axis where the file names none. */
const DEFAULT_SECTIONS = [16, 24, 24];

/** The part of config.json outside the towers. */
interface OuterConfig {
  text_config?: Record<string, unknown> | null | undefined;
  image_token_id: number;
  tie_word_embeddings?: boolean | null | undefined;
}

/** How an image is cut up for the vision tower. */
export interface VisionPatches {
  patchSize: number;
  /** Frames a patch spans; a still image is repeated. */
  frames: number;
  /** Patches along one side of an image token. */
  merge: number;
}

/** What the towers of all Qwen families have. */
export interface TowerConfig extends VisionPatches {
  depth: number;
  dim: number;
  heads: number;
  channels: number;
}

/** What config.json says about the decoder and the prompt. */
export interface QwenTextConfig extends DecoderConfig {
  /** Frequencies per axis (time, height, width). */
  mropeSections: number[];
  tied: boolean;
  imageTokenId: number;
}

export interface Qwen2VLConfig extends QwenTextConfig {
  vision: TowerConfig & { mlpDim: number };
}

/** What the keys that all towers have say. @param dim the tower's width */
export function towerConfig(v: z.output<z.ZodObject<typeof visionFields>>, dim: number): TowerConfig {
  return {
    depth: v.depth,
    dim,
    heads: v.num_heads,
    patchSize: v.patch_size,
    frames: v.temporal_patch_size,
    merge: v.spatial_merge_size,
    channels: v.in_channels,
  };
}

/** The vision tower's sizes alone. @throws UserError naming the file and the key that is wrong */
export function parseVisionConfig(json: unknown, source: string): Qwen2VLConfig['vision'] {
  const { vision_config: v } = checkConfig(top.pick({ vision_config: true }), json, source);
  return { ...towerConfig(v, v.embed_dim), mlpDim: Math.floor(v.embed_dim * v.mlp_ratio) };
}

/** @throws UserError naming the file and the key that is wrong, or whose value this project's layers cannot follow */
export function parseQwen2VLConfig(json: unknown, source: string): Qwen2VLConfig {
  const outer = checkConfig(top, json, source);
  const { embed_dim: dim, num_heads: heads } = outer.vision_config;
  checkVisionHeads('embed_dim', dim, heads, source);
  return { ...parseTextConfig(outer, json, source), vision: parseVisionConfig(json, source) };
}

/** A quarter of a head's channels turns with the row, a quarter with the column, each as pairs. @throws UserError */
export function checkVisionHeads(key: string, dim: number, heads: number, source: string): void {
  if (dim % (4 * heads) !== 0)
    throw new UserError(
      `${source}: vision_config.${key} ${dim} should be a multiple of 4 times num_heads, ${4 * heads}`,
    );
}

/** The mergers must give rows of the decoder's width. @throws UserError */
export function checkOutDim(outDim: number, { hiddenSize }: QwenTextConfig, source: string): void {
  if (outDim !== hiddenSize)
    throw new UserError(
      `${source}: vision_config.out_hidden_size is ${outDim}, but the decoder's hidden_size is ${hiddenSize}`,
    );
}

/**
 * The decoder's part of config.json: its `text_config`, or the file itself in the flat form.
 * @throws UserError naming the file and the key that is wrong, or whose value this project's layers cannot follow
 */
export function parseTextConfig(outer: OuterConfig, json: unknown, source: string): QwenTextConfig {
  const where = outer.text_config ? 'text_config' : '';
  const inner = checkConfig(text, outer.text_config ?? json, source, where);
  const headSize = inner.hidden_size / inner.num_attention_heads;
  const refuse = (message: string): never => {
    throw new UserError(`${source}: ${message}`);
  };
  if (!Number.isInteger(headSize))
    refuse('hidden_size, num_attention_heads and num_key_value_heads do not divide evenly');
  if (inner.head_dim && inner.head_dim !== headSize)
    refuse(`head_dim is ${inner.head_dim}, but hidden_size / num_attention_heads is ${headSize}`);
  const fullLayers = inner.max_window_layers ?? inner.num_hidden_layers;
  if (inner.use_sliding_window && (inner.sliding_window ?? null) !== null && fullLayers < inner.num_hidden_layers)
    refuse('use_sliding_window: attention through a sliding window is not supported');
  const rope = readRope(inner, 1e6, source, where);
  return decoderConfig(
    inner,
    { ...rope, mropeSections: rope.mropeSections ?? DEFAULT_SECTIONS },
    headSize,
    outer,
    source,
  );
}

/** What the keys that all decoders have say. @throws UserError for sizes that do not go together */
export function decoderConfig(
  inner: Omit<z.output<z.ZodObject<typeof decoderFields>>, keyof typeof ropeFields>,
  rope: RopeConfig & { mropeSections: number[] },
  headSize: number,
  outer: OuterConfig,
  source: string,
): QwenTextConfig {
  const { num_attention_heads: heads, vocab_size: vocabularySize } = inner;
  const keyValueHeads = inner.num_key_value_heads ?? heads;
  const refuse = (message: string): never => {
    throw new UserError(`${source}: ${message}`);
  };
  if (heads % keyValueHeads !== 0)
    refuse('hidden_size, num_attention_heads and num_key_value_heads do not divide evenly');
  if (rope.mropeSections.reduce((a, b) => a + b, 0) * 2 !== headSize)
    refuse(`mrope_section ${rope.mropeSections.join('+')} should add up to half the head size ${headSize}`);
  if (outer.image_token_id >= vocabularySize)
    refuse(`image_token_id is ${outer.image_token_id}, but vocab_size is ${vocabularySize}`);
  return {
    hiddenSize: inner.hidden_size,
    layers: inner.num_hidden_layers,
    heads,
    keyValueHeads,
    intermediateSize: inner.intermediate_size,
    vocabularySize,
    normEps: inner.rms_norm_eps,
    ...rope,
    tied: outer.tie_word_embeddings || inner.tie_word_embeddings || false,
    imageTokenId: outer.image_token_id,
  };
}
