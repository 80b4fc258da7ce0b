/**
 * config.json of a Qwen3-VL folder (the dense models), nested as Hugging Face writes it, or with the decoder's keys at the top. Defaults are those of
 * Hugging Face's Qwen3VLConfig.
 */
import { z } from 'zod';
import { UserError } from '../../errors.ts';
import { checkConfig, layerCount, normEps, tokenId, vocabularySize, width } from '../common/config-schema.ts';
import { readRope, ropeFields } from '../common/rope-config.ts';
import { checkVisionHeads, type PatchConfig, type QwenTextConfig } from '../qwen2-vl/config.ts';

const three = z.literal(3, { error: 'only 3 is supported' });

const text = z.object({
  ...ropeFields,
  hidden_size: width.default(4096),
  num_hidden_layers: layerCount.default(32),
  num_attention_heads: width.default(32),
  num_key_value_heads: width.nullable().default(32),
  head_dim: width.default(128),
  intermediate_size: width.default(22016),
  vocab_size: vocabularySize.default(151936),
  rms_norm_eps: normEps.default(1e-6),
  max_position_embeddings: ropeFields.max_position_embeddings.default(128000),
  hidden_act: z.literal('silu', { error: 'only silu is supported' }).default('silu'),
  attention_bias: z.literal(false, { error: 'only false is supported' }).default(false),
  tie_word_embeddings: z.boolean().nullish(),
});

const vision = z.object({
  depth: layerCount.default(27),
  hidden_size: width.default(1152),
  intermediate_size: width.default(4304),
  num_heads: width.default(16),
  out_hidden_size: width.default(3584),
  patch_size: z.int().positive().max(1024).default(16),
  temporal_patch_size: z.int().positive().max(64).default(2),
  spatial_merge_size: z.int().positive().max(64).default(2),
  num_position_embeddings: z
    .int()
    .positive()
    .max(1 << 20)
    .default(2304),
  deepstack_visual_indexes: z.array(z.int().min(0)).max(1000).default([8, 16, 24]),
  in_channels: three.default(3),
  hidden_act: z
    .literal('gelu_pytorch_tanh', { error: 'only gelu_pytorch_tanh is supported' })
    .default('gelu_pytorch_tanh'),
  rope_parameters: z
    .object({
      rope_theta: z.literal(10000, { error: 'only 10000 is supported' }).optional(),
      rope_type: z.enum(['axial', 'default'], { error: 'only axial is supported' }).optional(),
    })
    .nullish(),
});

const top = z.object({
  model_type: z.literal('qwen3_vl'),
  vision_config: vision.nullish().transform((value) => value ?? vision.parse({})),
  text_config: z.record(z.string(), z.unknown()).nullish(),
  image_token_id: tokenId.default(151655),
  tie_word_embeddings: z.boolean().nullish(),
});

/** M-RoPE's frequencies per axis where the file names none. */
const DEFAULT_SECTIONS = [24, 20, 20];

export interface VisionConfig extends PatchConfig {
  depth: number;
  mlpDim: number;
  /** Width of what the mergers give: the decoder's. */
  outDim: number;
  /** Learned position embeddings along one side of their square. */
  positionSide: number;
  /** Blocks after which features for DeepStack are taken; the n-th merger of the list belongs to the n-th of them. */
  deepstackBlocks: number[];
}

export interface Qwen3VLConfig extends QwenTextConfig {
  vision: VisionConfig;
}

/** The vision tower's sizes alone. @throws UserError naming the file and the key that is wrong */
export function parseVisionConfig(json: unknown, source: string): VisionConfig {
  const { vision_config: v } = checkConfig(top.pick({ vision_config: true }), json, source);
  const side = Math.floor(Math.sqrt(v.num_position_embeddings));
  if (side * side !== v.num_position_embeddings)
    throw new UserError(
      `${source}: vision_config.num_position_embeddings is ${v.num_position_embeddings}, but the embeddings should form a square`,
    );
  const blocks = v.deepstack_visual_indexes;
  const wrong = blocks.find((block, i) => block >= v.depth || blocks.indexOf(block) < i);
  if (wrong !== undefined)
    throw new UserError(
      `${source}: vision_config.deepstack_visual_indexes should name different blocks below depth ${v.depth}, and has ${wrong}`,
    );
  return {
    depth: v.depth,
    dim: v.hidden_size,
    heads: v.num_heads,
    mlpDim: v.intermediate_size,
    outDim: v.out_hidden_size,
    patchSize: v.patch_size,
    frames: v.temporal_patch_size,
    merge: v.spatial_merge_size,
    channels: v.in_channels,
    positionSide: side,
    deepstackBlocks: blocks,
  };
}

/** @throws UserError naming the file and the key that is wrong, or whose value this project's layers cannot follow */
export function parseQwen3VLConfig(json: unknown, source: string): Qwen3VLConfig {
  const outer = checkConfig(top, json, source);
  const where = outer.text_config ? 'text_config' : '';
  const inner = checkConfig(text, outer.text_config ?? json, source, where);
  const rope = readRope(inner, 5e5, source, where);
  const vision = parseVisionConfig(json, source);
  checkVisionHeads('hidden_size', vision.dim, vision.heads, source);
  const refuse = (message: string): never => {
    throw new UserError(`${source}: ${message}`);
  };
  const heads = inner.num_attention_heads;
  const keyValueHeads = inner.num_key_value_heads ?? heads;
  if (heads % keyValueHeads !== 0) refuse('num_attention_heads and num_key_value_heads do not divide evenly');
  const sections = rope.mropeSections ?? DEFAULT_SECTIONS;
  if (sections.reduce((a, b) => a + b, 0) * 2 !== inner.head_dim)
    refuse(`mrope_section ${sections.join('+')} should add up to half the head size ${inner.head_dim}`);
  if (outer.image_token_id >= inner.vocab_size)
    refuse(`image_token_id is ${outer.image_token_id}, but vocab_size is ${inner.vocab_size}`);
  if (vision.outDim !== inner.hidden_size)
    refuse(`vision_config.out_hidden_size is ${vision.outDim}, but the decoder's hidden_size is ${inner.hidden_size}`);
  const levels = vision.deepstackBlocks.length;
  if (levels > inner.num_hidden_layers)
    refuse(
      `vision_config.deepstack_visual_indexes names ${levels} blocks, but the decoder has ${inner.num_hidden_layers} layers to add their features to`,
    );
  return {
    hiddenSize: inner.hidden_size,
    layers: inner.num_hidden_layers,
    heads,
    keyValueHeads,
    headSize: inner.head_dim,
    intermediateSize: inner.intermediate_size,
    vocabularySize: inner.vocab_size,
    normEps: inner.rms_norm_eps,
    ...rope,
    mropeSections: sections,
    tied: outer.tie_word_embeddings || inner.tie_word_embeddings || false,
    imageTokenId: outer.image_token_id,
    vision,
  };
}
