/**
 * config.json of a Qwen2.5-VL folder, in the hub's flat form or the nested form newer exports write. The decoder is Qwen2-VL's; the vision tower's
 * keys are its own. Defaults are those of Hugging Face's Qwen2_5_VLConfig.
 */
import { z } from 'zod';
import { UserError } from '../../errors.ts';
import { checkConfig, width } from '../common/config-schema.ts';
import {
  checkOutDim,
  checkVisionHeads,
  parseTextConfig,
  type QwenTextConfig,
  type TowerConfig,
  three,
  topSchema,
  towerConfig,
  visionFields,
} from '../qwen2-vl/config.ts';

const vision = z.object({
  ...visionFields,
  hidden_size: width.default(3584),
  intermediate_size: width.default(3420),
  out_hidden_size: width.default(3584),
  window_size: z.int().positive().max(65536).default(112),
  fullatt_block_indexes: z.array(z.int().min(0)).max(1000).default([7, 15, 23, 31]),
  // Files of 2025 say in_chans, which transformers does not read.
  in_chans: three.nullish(),
  hidden_act: z.literal('silu', { error: 'only silu is supported' }).default('silu'),
});

const top = topSchema('qwen2_5_vl', vision);

export interface VisionConfig extends TowerConfig {
  mlpDim: number;
  /** Image tokens along one side of a window. */
  window: number;
  /** Blocks in which all patches of an image attend to each other; in the others those of a window do. */
  fullAttention: ReadonlySet<number>;
}

export interface Qwen25VLConfig extends QwenTextConfig {
  vision: VisionConfig;
}

/** The vision tower's sizes alone. @throws UserError naming the file and the key that is wrong */
export function parseVisionConfig(json: unknown, source: string): VisionConfig {
  const { vision_config: v } = checkConfig(top.pick({ vision_config: true }), json, source);
  const token = v.patch_size * v.spatial_merge_size;
  if (v.window_size < token)
    throw new UserError(
      `${source}: vision_config.window_size is ${v.window_size}, but an image token alone spans ${token} pixels`,
    );
  return {
    ...towerConfig(v, v.hidden_size),
    mlpDim: v.intermediate_size,
    window: Math.floor(Math.floor(v.window_size / v.spatial_merge_size) / v.patch_size),
    fullAttention: new Set(v.fullatt_block_indexes),
  };
}

/** @throws UserError naming the file and the key that is wrong, or whose value this project's layers cannot follow */
export function parseQwen25VLConfig(json: unknown, source: string): Qwen25VLConfig {
  const outer = checkConfig(top, json, source);
  const { hidden_size: dim, num_heads: heads, out_hidden_size: outDim } = outer.vision_config;
  checkVisionHeads('hidden_size', dim, heads, source);
  const decoder = parseTextConfig(outer, json, source);
  checkOutDim(outDim, decoder, source);
  return { ...decoder, vision: parseVisionConfig(json, source) };
}
