/** What is measured of a finished run, and the file that keeps it: ablations.json in the run's folder, as `ivtlr ablate --json` prints it and more. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { ReasoningSettings } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import type { AblationRow } from '../eval/ablate.ts';
import type { EvalReport } from '../eval/report.ts';
import { readJson } from '../files.ts';
import { ABLATIONS, type Ablation } from '../latent/options.ts';

/** How a run is measured. Another one means measuring again, not training again. */
export interface Measurement {
  /** Names of ablations, `full` first. */
  ablations: readonly string[];
  /** Folder or hub name of the samples; null: the task makes them. */
  data: string | null;
  /** Null: all. */
  limit: number | null;
  seed: number;
  maxNewTokens: number;
  batch: number;
}

/** Every study measures these, as far as they apply to a model. */
export const STUDY_ABLATIONS: readonly string[] = [
  'full',
  'zero-latents',
  'text-zeroed',
  'text-swapped',
  'last-text-swapped',
  'patches-zeroed',
  'patches-swapped',
  'random-patches',
];

/** The ablations that change something of a model which reasons as these settings say. */
export function applicableAblations(
  keys: readonly string[],
  { latents, latentText, latentVision }: Pick<ReasoningSettings, 'latents' | 'latentText' | 'latentVision'>,
): [key: string, ablation: Ablation][] {
  const applies = (key: string) => {
    if (key === 'full') return true;
    if (latents === 0) return false;
    const { options, lastStep } = ABLATIONS[key]!;
    const changes = { ...options, ...lastStep };
    return !(changes.latentText && latentText !== 'on') && !(changes.latentVision && latentVision !== 'on');
  };
  return keys.filter(applies).map((key) => [key, ABLATIONS[key]!]);
}

export interface MeasuredRow extends Omit<AblationRow, 'result'> {
  result: EvalReport | null;
}

/** The contents of the file. */
export interface Measured {
  model: string;
  task: string;
  /** Of the samples of the measurement. */
  seed: number;
  split: string;
  trainedLatents: number;
  measurement: Measurement;
  training: { steps: number; seconds: number };
  results: MeasuredRow[];
}

export function measuredFile(folder: string): string {
  return join(folder, 'ablations.json');
}

/** Null where the run has not been measured, or not like this. @throws UserError for a damaged file */
export function readMeasured(folder: string, wanted: Measurement): Measured | null {
  const file = measuredFile(folder);
  if (!existsSync(file)) return null;
  const measured = readJson(file, 'measurement') as Partial<Measured> | null;
  if (!isDeepStrictEqual(measured?.measurement, wanted)) return null;
  if (!Array.isArray(measured?.results) || !measured.training)
    throw new UserError(`${file} is damaged; remove it, and the study measures that run again`);
  return measured as Measured;
}
