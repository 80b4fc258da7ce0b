/** What a low-rank adapter is, as recipes and adapter_config.json say it. Defaults are the official code's. */
import { z } from 'zod';

/** The decoder's projections that the official code adapts. */
export const DECODER_PROJECTIONS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];

export const loraSchema = z.strictObject({
  /** Width of the bottleneck (PEFT's r). */
  rank: z.int().positive().max(1024).default(64),
  /** The adapter's output counts alpha / rank. */
  alpha: z.number().positive().default(16),
  /** Share of the adapter's inputs dropped in training. */
  dropout: z.number().min(0).lt(1).default(0.05),
  /**
   * Linear layers by the end of their name: `q_proj`, or longer such as `self_attn.q_proj`. A name that the decoder has means the decoder's alone,
   * not those of a vision tower.
   */
  targets: z.array(z.string().min(1)).min(1).max(10_000).default(DECODER_PROJECTIONS),
});

export type LoraOptions = z.output<typeof loraSchema>;
