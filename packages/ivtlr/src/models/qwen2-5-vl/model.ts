/** Qwen2.5-VL: Qwen2-VL's decoder, prompt positions and names behind a vision tower of its own. */
import type { FactoryOptions } from '@ivtlr/torch';
import { QwenVL } from '../qwen2-vl/model.ts';
import type { Qwen25VLConfig } from './config.ts';
import { Qwen25VisionTower } from './vision.ts';

export class Qwen25VL extends QwenVL<Qwen25VLConfig> {
  constructor(config: Qwen25VLConfig, options: FactoryOptions = {}) {
    super(config, new Qwen25VisionTower(config, options), { qkvBias: true }, options);
  }
}
