/** Qwen3-VL: a decoder whose query and key heads have norms, and to whose first layers the vision tower adds DeepStack features. */
import { type FactoryOptions, RMSNorm } from '@ivtlr/torch';
import { QwenVL } from '../qwen2-vl/model.ts';
import type { Qwen3VLConfig } from './config.ts';
import { Qwen3VisionTower } from './vision.ts';

export class Qwen3VL extends QwenVL<Qwen3VLConfig> {
  constructor(config: Qwen3VLConfig, options: FactoryOptions = {}) {
    const traits = {
      qkvBias: false,
      headNorm: (_heads: number, headSize: number, made: FactoryOptions) =>
        new RMSNorm(headSize, { eps: config.normEps, ...made }),
      mropeInterleaved: true,
      deepstackLevels: config.vision.deepstackBlocks.length,
    };
    super(config, new Qwen3VisionTower(config.vision, options), traits, options);
  }
}
