/**
 * config.json of a Qwen2-VL folder, in the hub's flat form or the nested form newer exports write. Many exports leave out what has the
 * default of Hugging Face's Qwen2VLConfig, so the defaults here are those of its classes.
 */
import { z } from 'zod';
import { UserError } from '../../errors.ts';
import { checkConfig, layerCount, normEps, tokenId, vocabularySize, width } from '../common/config-schema.ts';
import type { DecoderConfig } from '../common/decoder.ts';
import { readRope, ropeFields } from '../common/rope-config.ts';

/** The decoder's keys, which the newer Qwen families have too. */
const text = z.object({
  ...ropeFields,
  hidden_size: width.default(8192),
  num_hidden_layers: layerCount.default(80),
  num_attention_heads: width.default(64),
  num_key_value_heads: width.nullable().default(8),
  intermediate_size: width.default(29568),
  vocab_size: vocabularySize.default(152064),
  rms_norm_eps: normEps.default(1e-5),
  max_position_embeddings: ropeFields.max_position_embeddings.default(32768),
  hidden_act: z.literal('silu', { error: 'only silu is supported' }).default('silu'),
  head_dim: width.nullish(),
  use_sliding_window: z.boolean().nullish(),
  sliding_window: z.int().nullish(),
  max_window_layers: z.int().min(0).nullable().default(80),
  layer_types: z.array(z.literal('full_attention', { error: 'only full_attention is supported' })).nullish(),
  tie_word_embeddings: z.boolean().nullish(),
});

const vision = z.object({
  depth: layerCount.default(32),
  embed_dim: width.default(1280),
  num_heads: width.default(16),
  mlp_ratio: z.number().positive().max(64).default(4),
  patch_size: z.int().positive().max(1024).default(14),
  temporal_patch_size: z.int().positive().max(64).default(2),
  spatial_merge_size: z.int().positive().max(64).default(2),
  in_channels: z.literal(3, { error: 'only 3 is supported' }).default(3),
  hidden_act: z.literal('quick_gelu', { error: 'only quick_gelu is supported' }).default('quick_gelu'),
  rope_parameters: z
    .object({
      rope_theta: z.literal(10000, { error: 'only 10000 is supported' }).optional(),
      rope_type: z.enum(['axial', 'default'], { error: 'only axial is supported' }).optional(),
    })
    .nullish(),
});

const top = z.object({
  model_type: z.literal('qwen2_vl'),
  vision_config: vision.nullish().transform((value) => value ?? vision.parse({})),
  text_config: z.record(z.string(), z.unknown()).nullish(),
  image_token_id: tokenId.default(151655),
  tie_word_embeddings: z.boolean().nullish(),
});

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

/** The patch embedding and its rotary positions, which Qwen2.5-VL's tower shares. */
export interface PatchConfig extends VisionPatches {
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
  vision: PatchConfig & { depth: number; mlpDim: number };
}

/** The vision tower's sizes alone. @throws UserError naming the file and the key that is wrong */
export function parseVisionConfig(json: unknown, source: string): Qwen2VLConfig['vision'] {
  const { vision_config: v } = checkConfig(top.pick({ vision_config: true }), json, source);
  return {
    depth: v.depth,
    dim: v.embed_dim,
    heads: v.num_heads,
    mlpDim: Math.floor(v.embed_dim * v.mlp_ratio),
    patchSize: v.patch_size,
    frames: v.temporal_patch_size,
    merge: v.spatial_merge_size,
    channels: v.in_channels,
  };
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

/**
 * The decoder's part of config.json: its `text_config`, or the file itself in the flat form.
 * @throws UserError naming the file and the key that is wrong, or whose value this project's layers cannot follow
 */
export function parseTextConfig(outer: OuterConfig, json: unknown, source: string): QwenTextConfig {
  const where = outer.text_config ? 'text_config' : '';
  const inner = checkConfig(text, outer.text_config ?? json, source, where);
  const rope = readRope(inner, 1e6, source, where);
  const heads = inner.num_attention_heads;
  const keyValueHeads = inner.num_key_value_heads ?? heads;
  const headSize = inner.hidden_size / heads;
  const refuse = (message: string): never => {
    throw new UserError(`${source}: ${message}`);
  };
  if (!Number.isInteger(headSize) || heads % keyValueHeads !== 0)
    refuse('hidden_size, num_attention_heads and num_key_value_heads do not divide evenly');
  if (inner.head_dim && inner.head_dim !== headSize)
    refuse(`head_dim is ${inner.head_dim}, but hidden_size / num_attention_heads is ${headSize}`);
  const sections = rope.mropeSections ?? DEFAULT_SECTIONS;
  if (sections.reduce((a, b) => a + b, 0) * 2 !== headSize)
    refuse(`mrope_section ${sections.join('+')} should add up to half the head size ${headSize}`);
  const fullLayers = inner.max_window_layers ?? inner.num_hidden_layers;
  if (inner.use_sliding_window && (inner.sliding_window ?? null) !== null && fullLayers < inner.num_hidden_layers)
    refuse('use_sliding_window: attention through a sliding window is not supported');
  if (outer.image_token_id >= inner.vocab_size)
    refuse(`image_token_id is ${outer.image_token_id}, but vocab_size is ${inner.vocab_size}`);
  return {
    hiddenSize: inner.hidden_size,
    layers: inner.num_hidden_layers,
    heads,
    keyValueHeads,
    intermediateSize: inner.intermediate_size,
    vocabularySize: inner.vocab_size,
    normEps: inner.rms_norm_eps,
    ...rope,
    mropeSections: sections,
    tied: outer.tie_word_embeddings || inner.tie_word_embeddings || false,
    imageTokenId: outer.image_token_id,
  };
}
