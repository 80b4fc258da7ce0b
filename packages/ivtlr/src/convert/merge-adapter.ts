/** A trained adapter and its base as one plain model folder. */
import { randomBytes } from 'node:crypto';
import { existsSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import type { DType } from '@ivtlr/torch';
import { openModelFolder, readAuxiliaryFiles, saveModelFolder } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import { makeFolder } from '../files.ts';
import { isAdapterFolder } from '../lora/adapter-folder.ts';
import { requireSoundWeight } from './sound-weights.ts';

export interface MergeResult {
  /** The folder of the base model. */
  base: string;
  dtype: DType;
  rank: number;
  alpha: number;
  targets: readonly string[];
}

/**
 * Writes a folder that openModelFolder and transformers open, in the dtype of the base's weights unless another is given. It appears under its name only when
 * it is complete.
 * @throws UserError when `adapter` is no adapter folder, its base cannot be found, a weight is not finite, or `out` is there already
 */
export function mergeAdapter(adapter: string, out: string, dtype?: DType): MergeResult {
  if (existsSync(out)) throw new UserError(`${out} is there already; give a folder that does not exist yet`);
  if (existsSync(adapter) && !isAdapterFolder(adapter))
    throw new UserError(`${adapter} holds no adapter (adapter_config.json); there is nothing to merge`);
  const target = resolve(out);
  const temporary = join(dirname(target), `.${basename(target)}.${randomBytes(4).toString('hex')}.tmp`);
  const opened = openModelFolder(adapter, dtype && { dtype });
  const { model, folder: base } = opened;
  try {
    for (const [name, weight] of model.module.namedParameters()) requireSoundWeight(name, weight, adapter);
    makeFolder(temporary);
    const config = withDtype(opened.config as Record<string, unknown>, model.dtype);
    saveModelFolder({ ...opened, config }, readAuxiliaryFiles(base), temporary);
    renameSync(temporary, target);
    const { rank, alpha, targets } = opened.adapter!;
    return { base, dtype: model.dtype, rank, alpha, targets };
  } catch (error) {
    const { syscall, message } = error as NodeJS.ErrnoException;
    if (syscall) throw new UserError(`cannot write ${out}: ${message}`);
    throw error;
  } finally {
    if (existsSync(temporary)) rmSync(temporary, { recursive: true });
    model.module.dispose();
  }
}

/** config.json names the dtype of the weights under one of two names, depending on the version that wrote it. */
function withDtype(config: Record<string, unknown>, dtype: DType): Record<string, unknown> {
  const names = ['torch_dtype', 'dtype'].filter((name) => name in config);
  return { ...config, ...Object.fromEntries(names.map((name) => [name, dtype])) };
}
