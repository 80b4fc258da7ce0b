/**
 * config.json of a SmolVLM folder: `model_type` is `idefics3` for the first generation and `smolvlm` for SmolVLM2; the two say the same things.
 * Hub folders leave out what has the default of Hugging Face's SmolVLMConfig, SmolVLMVisionConfig or LlamaConfig, so the defaults are those.
 */
import { z } from 'zod';
import { UserError } from '../../errors.ts';
import { checkConfig, layerCount, normEps, tokenId, vocabularySize, width } from '../common/config-schema.ts';
import type { DecoderConfig } from '../common/decoder.ts';
import { readRope, ropeFields } from '../common/rope-config.ts';

const absent = z.literal(false, { error: 'only false is supported' }).nullish();

const text = z.object({
  ...ropeFields,
  model_type: z.literal('llama', { error: 'only llama is supported' }).default('llama'),
  hidden_size: width.default(4096),
  num_hidden_layers: layerCount.default(32),
  num_attention_heads: width.default(32),
  num_key_value_heads: width.nullish(),
  intermediate_size: width.default(11008),
  vocab_size: vocabularySize.default(32000),
  rms_norm_eps: normEps.nullish(),
  max_position_embeddings: ropeFields.max_position_embeddings.default(2048),
  hidden_act: z.literal('silu', { error: 'only silu is supported' }).default('silu'),
  head_dim: width.nullish(),
  attention_bias: absent,
  mlp_bias: absent,
  // Keys of the classes that the first SmolVLM was trained with; Hugging Face reads none of them.
  qk_layer_norms: absent,
  rope_interleaved: absent,
  use_resampler: absent,
});

const side = z.int().positive().max(8192);

const vision = z.object({
  hidden_size: width.default(1152),
  intermediate_size: width.default(3072),
  num_hidden_layers: layerCount.default(12),
  num_attention_heads: width.default(16),
  num_channels: z.literal(3, { error: 'only 3 is supported' }).default(3),
  image_size: side.default(224),
  patch_size: side.default(32),
  hidden_act: z
    .literal('gelu_pytorch_tanh', { error: 'only gelu_pytorch_tanh is supported' })
    .default('gelu_pytorch_tanh'),
  layer_norm_eps: normEps.default(1e-6),
});

const top = z.object({
  model_type: z.enum(['idefics3', 'smolvlm']),
  image_token_id: tokenId.default(128257),
  scale_factor: z.int().positive().max(64).default(2),
  tie_word_embeddings: z.boolean().nullish(),
  vision_config: vision.nullish().transform((value) => value ?? vision.parse({})),
  text_config: z.record(z.string(), z.unknown()).nullish(),
});

/** SigLIP's sizes, and how many of its patches become one image token. */
export interface SmolVlmVisionConfig {
  layers: number;
  dim: number;
  heads: number;
  mlpDim: number;
  normEps: number;
  patchSize: number;
  /** Places of the position embedding along a side. */
  places: number;
  /** Patches of an image token along a side. */
  shuffle: number;
}

export interface SmolVlmConfig extends DecoderConfig {
  tied: boolean;
  imageTokenId: number;
  vision: SmolVlmVisionConfig;
}

/** The vision tower's sizes alone. @throws UserError naming the file and the key that is wrong */
export function parseVisionConfig(json: unknown, source: string): SmolVlmVisionConfig {
  const { vision_config: v, scale_factor: shuffle } = checkConfig(
    top.pick({ vision_config: true, scale_factor: true }),
    json,
    source,
  );
  if (v.hidden_size % v.num_attention_heads !== 0)
    throw new UserError(
      `${source}: vision_config.hidden_size ${v.hidden_size} should be a multiple of num_attention_heads, ${v.num_attention_heads}`,
    );
  const places = Math.floor(v.image_size / v.patch_size);
  if (places === 0)
    throw new UserError(
      `${source}: vision_config.image_size ${v.image_size} is smaller than patch_size, ${v.patch_size}`,
    );
  return {
    layers: v.num_hidden_layers,
    dim: v.hidden_size,
    heads: v.num_attention_heads,
    mlpDim: v.intermediate_size,
    normEps: v.layer_norm_eps,
    patchSize: v.patch_size,
    places,
    shuffle,
  };
}

/** @throws UserError naming the file and the key that is wrong, or whose value this project's layers cannot follow */
export function parseSmolVlmConfig(json: unknown, source: string): SmolVlmConfig {
  const outer = checkConfig(top, json, source);
  const inner = checkConfig(text, outer.text_config ?? {}, source, 'text_config');
  const { ropeTheta, ropeScaling, maxPositions } = readRope(inner, 10000, source, 'text_config');
  const heads = inner.num_attention_heads;
  const keyValueHeads = inner.num_key_value_heads ?? heads;
  const headSize = inner.hidden_size / heads;
  const refuse = (message: string): never => {
    throw new UserError(`${source}: ${message}`);
  };
  if (headSize % 2 !== 0 || heads % keyValueHeads !== 0)
    refuse('text_config: hidden_size, num_attention_heads and num_key_value_heads do not divide evenly');
  if (inner.head_dim && inner.head_dim !== headSize)
    refuse(`text_config.head_dim is ${inner.head_dim}, but hidden_size / num_attention_heads is ${headSize}`);
  if (outer.image_token_id >= inner.vocab_size)
    refuse(`image_token_id is ${outer.image_token_id}, but text_config.vocab_size is ${inner.vocab_size}`);
  return {
    hiddenSize: inner.hidden_size,
    layers: inner.num_hidden_layers,
    heads,
    keyValueHeads,
    intermediateSize: inner.intermediate_size,
    vocabularySize: inner.vocab_size,
    normEps: inner.rms_norm_eps ?? (outer.text_config ? 1e-6 : 1e-5),
    ...{ ropeTheta, ropeScaling, maxPositions },
    tied: outer.tie_word_embeddings ?? false,
    imageTokenId: outer.image_token_id,
    vision: parseVisionConfig(json, source),
  };
}
