/** A Qwen2-VL folder's weights, under the hub's original names or those of newer exports, in and out. */
import { join } from 'node:path';
import {
  CheckpointError,
  type Device,
  type DType,
  openCheckpoint,
  StateDictError,
  saveSafetensors,
  skipInit,
  type Tensor,
} from '@ivtlr/torch';
import { UserError } from '../../errors.ts';
import type { Qwen2VLConfig } from './config.ts';
import { Qwen2VL } from './model.ts';

/** Newer exports nest both towers in `model`; this project's modules carry the original names. */
export function originalName(name: string): string {
  if (name.startsWith('model.visual.')) return name.slice('model.'.length);
  if (name.startsWith('model.language_model.')) return `model.${name.slice('model.language_model.'.length)}`;
  return name;
}

/** @throws UserError naming the folder and the tensor that is missing, unknown, misshapen or damaged */
export function loadQwen2VL(
  folder: string,
  config: Qwen2VLConfig,
  options: { dtype?: DType; device?: Device },
): Qwen2VL {
  const { dtype, device = 'cpu' } = options;
  try {
    using file = openCheckpoint(folder);
    const stored = file.info(file.names()[0]!).dtype;
    const model = skipInit(() => new Qwen2VL(config, { dtype: dtype ?? stored, device }));
    try {
      model.loadStateDict(file, {
        // A tied head that is stored all the same says nothing new.
        rename: (name) => (config.tied && name === 'lm_head.weight' ? null : originalName(name)),
      });
    } catch (error) {
      model.dispose();
      throw error;
    }
    return model;
  } catch (error) {
    if (error instanceof StateDictError)
      throw new UserError(`${folder}: the weights do not fit config.json: ${error.message}`);
    if (error instanceof CheckpointError) throw new UserError(error.message);
    throw error;
  }
}

/** Writes model.safetensors with the original names; a tied head is left out. */
export function saveQwen2VL(model: Qwen2VL, folder: string): void {
  const tensors = new Map<string, Tensor>(model.namedParameters());
  saveSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
}
