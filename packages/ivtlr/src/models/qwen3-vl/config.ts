/**
 * config.json of a Qwen3-VL folder (the dense models), whose decoder's keys are always nested in `text_config`. Defaults are those of Hugging Face's
 * Qwen3VLConfig.
 */
import { z } from 'zod';
import { UserError } from '../../errors.ts';
import { checkConfig, layerCount, normEps, vocabularySize, width } from '../common/config-schema.ts';
import { readRope, ropeFields } from '../common/rope-config.ts';
import {
  checkOutDim,
  checkVisionHeads,
  decoderConfig,
  decoderFields,
  type QwenTextConfig,
  type TowerConfig,
  topSchema,
  towerConfig,
  visionFields,
} from '../qwen2-vl/config.ts';

const text = z.object({
  ...decoderFields,
  hidden_size: width.default(4096),
  num_hidden_layers: layerCount.default(32),
  num_attention_heads: width.default(32),
  num_key_value_heads: width.nullable().default(32),
  head_dim: width.default(128),
  intermediate_size: width.default(22016),
  vocab_size: vocabularySize.default(151936),
  rms_norm_eps: normEps.default(1e-6),
  max_position_embeddings: ropeFields.max_position_embeddings.default(128000),
  attention_bias: z.literal(false, { error: 'only false is supported' }).default(false),
});

const vision = z.object({
  ...visionFields,
  depth: layerCount.default(27),
  hidden_size: width.default(1152),
  intermediate_size: width.default(4304),
  out_hidden_size: width.default(3584),
  patch_size: visionFields.patch_size.default(16),
  num_position_embeddings: z
    .int()
    .positive()
    .max(1 << 20)
    .default(2304),
  deepstack_visual_indexes: z.array(z.int().min(0)).max(1000).default([8, 16, 24]),
  hidden_act: z
    .literal('gelu_pytorch_tanh', { error: 'only gelu_pytorch_tanh is supported' })
    .default('gelu_pytorch_tanh'),
});

const top = topSchema('qwen3_vl', vision);

/** M-RoPE's frequencies per axis where the file names none. */
const DEFAULT_SECTIONS = [24, 20, 20];

export interface VisionConfig extends TowerConfig {
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
    ...towerConfig(v, v.hidden_size),
    mlpDim: v.intermediate_size,
    outDim: v.out_hidden_size,
    positionSide: side,
    deepstackBlocks: blocks,
  };
}

/** @throws UserError naming the file and the key that is wrong, or whose value this project's layers cannot follow */
export function parseQwen3VLConfig(json: unknown, source: string): Qwen3VLConfig {
  const outer = checkConfig(top, json, source);
  const inner = checkConfig(text, outer.text_config ?? {}, source, 'text_config');
  const vision = parseVisionConfig(json, source);
  checkVisionHeads('hidden_size', vision.dim, vision.heads, source);
  const rope = readRope(inner, 5e5, source, 'text_config');
  const sections = rope.mropeSections ?? DEFAULT_SECTIONS;
  const decoder = decoderConfig(inner, { ...rope, mropeSections: sections }, inner.head_dim, outer, source);
  checkOutDim(vision.outDim, decoder, source);
  const levels = vision.deepstackBlocks.length;
  if (levels > decoder.layers)
    throw new UserError(
      `${source}: vision_config.deepstack_visual_indexes names ${levels} blocks, but the decoder has ${decoder.layers} layers to add their features to`,
    );
  return { ...decoder, headSize: inner.head_dim, vision };
}
