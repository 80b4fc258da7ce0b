/** config.json of a Qwen2-VL folder, in the hub's flat form or the nested form newer exports write. */
import { z } from 'zod';
import { schemaMistakes, UserError } from '../../errors.ts';
import type { DecoderConfig } from '../common/decoder.ts';

const count = z.number().int().positive();

const text = z.object({
  hidden_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count,
  intermediate_size: count,
  vocab_size: count,
  rms_norm_eps: z.number().positive().default(1e-6),
  max_position_embeddings: count.default(32768),
  rope_theta: z.number().positive().optional(),
  rope_scaling: z.record(z.string(), z.unknown()).nullish(),
  rope_parameters: z.record(z.string(), z.unknown()).nullish(),
  tie_word_embeddings: z.boolean().optional(),
});

const vision = z.object({
  depth: count,
  embed_dim: count,
  num_heads: count,
  mlp_ratio: z.number().positive().default(4),
  patch_size: count.default(14),
  temporal_patch_size: count.default(2),
  spatial_merge_size: count.default(2),
  in_channels: count.optional(),
  in_chans: count.optional(),
  hidden_act: z.string().default('quick_gelu'),
});

const top = z.object({
  model_type: z.literal('qwen2_vl'),
  vision_config: vision,
  image_token_id: count,
  vision_start_token_id: count.optional(),
  vision_end_token_id: count.optional(),
  tie_word_embeddings: z.boolean().optional(),
  eos_token_id: z.union([count, z.array(count)]).nullish(),
});

export interface Qwen2VLConfig extends DecoderConfig {
  /** Frequencies per axis (time, height, width). */
  mropeSections: number[];
  tied: boolean;
  imageTokenId: number;
  vision: {
    depth: number;
    dim: number;
    heads: number;
    mlpDim: number;
    patchSize: number;
    frames: number;
    merge: number;
    channels: number;
  };
}

/** @throws UserError naming the file and the key that is missing or wrong */
export function parseQwen2VLConfig(json: unknown, source: string): Qwen2VLConfig {
  const check = <T>(schema: z.ZodType<T>, value: unknown, where: string): T => {
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    throw new UserError(`${source}: ${schemaMistakes(result.error, where ? [where] : [])}`);
  };
  const outer = check(top, json, '');
  const nested = (json as { text_config?: unknown }).text_config;
  const inner = check(text, nested ?? json, nested ? 'text_config' : '');
  const rope = inner.rope_parameters ?? inner.rope_scaling ?? {};
  const headSize = inner.hidden_size / inner.num_attention_heads;
  const sections = check(z.array(count).length(3), rope.mrope_section, 'rope_scaling.mrope_section');
  if (!Number.isInteger(headSize) || inner.num_attention_heads % inner.num_key_value_heads !== 0)
    throw new UserError(`${source}: hidden_size, num_attention_heads and num_key_value_heads do not divide evenly`);
  if (sections.reduce((a, b) => a + b, 0) * 2 !== headSize)
    throw new UserError(
      `${source}: mrope_section ${sections.join('+')} should add up to half the head size ${headSize}`,
    );
  const v = outer.vision_config;
  if (v.hidden_act !== 'quick_gelu')
    throw new UserError(`${source}: vision_config.hidden_act is ${v.hidden_act}, only quick_gelu is known`);
  return {
    hiddenSize: inner.hidden_size,
    layers: inner.num_hidden_layers,
    heads: inner.num_attention_heads,
    keyValueHeads: inner.num_key_value_heads,
    intermediateSize: inner.intermediate_size,
    vocabularySize: inner.vocab_size,
    normEps: inner.rms_norm_eps,
    maxPositions: inner.max_position_embeddings,
    ropeTheta: Number(rope.rope_theta ?? inner.rope_theta ?? 1e6),
    mropeSections: sections,
    tied: outer.tie_word_embeddings ?? inner.tie_word_embeddings ?? false,
    imageTokenId: outer.image_token_id,
    vision: {
      depth: v.depth,
      dim: v.embed_dim,
      heads: v.num_heads,
      mlpDim: Math.floor(v.embed_dim * v.mlp_ratio),
      patchSize: v.patch_size,
      frames: v.temporal_patch_size,
      merge: v.spatial_merge_size,
      channels: v.in_channels ?? v.in_chans ?? 3,
    },
  };
}
