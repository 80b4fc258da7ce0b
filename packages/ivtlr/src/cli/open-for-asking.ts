/** A model opened by the flags of `ivtlr infer`, for one question or many. */
import { manualSeed, setNumThreads } from '@ivtlr/torch';
import { requireRoomForAnswers } from '../engine/answer-memory.ts';
import type { LoadedModel } from '../engine/loaded-model.ts';
import { openToAnswer } from '../engine/open-to-answer.ts';
import { ABLATIONS, type LatentOptions } from '../latent/options.ts';
import { taskNames } from '../tasks/registry.ts';
import { type AskingFlags, noteUntrainedLatentSteps, openingFromFlags } from './asking-flags.ts';
import { deviceOfFlag } from './device.ts';
import { modelFolder } from './hub-folders.ts';

export interface ModelFlags extends AskingFlags {
  model: string;
  latents?: number;
  task?: string;
  ablation?: string;
  seed: number;
}

export interface OpenedForAsking {
  opened: LoadedModel;
  /** The folder that was opened: of an adapter its own, not its base's. */
  folder: string;
  /** As asked for; undefined: as trained. */
  latentSteps: number | undefined;
  /** What the ablation changes. */
  latent: Partial<LatentOptions>;
  loadSeconds: number;
}

/** @param rows questions that are answered together. @throws UserError when the model cannot be opened or its answers have no room */
export async function openForAsking(flags: ModelFlags, rows: number): Promise<OpenedForAsking> {
  const device = await deviceOfFlag(flags.device);
  const { dtype, task, maxNewTokens } = flags;
  if (flags.threads !== undefined) setNumThreads(flags.threads);
  manualSeed(flags.seed);
  const loading = performance.now();
  const folder = await modelFolder(flags.model);
  const opened = openToAnswer(folder, {
    ...{ device, ...openingFromFlags(flags) },
    ...(dtype && { dtype }),
  });
  const loadSeconds = (performance.now() - loading) / 1000;
  const ablation = flags.ablation === undefined ? undefined : ABLATIONS[flags.ablation]!;
  const latentSteps = ablation?.latentSteps ?? flags.latents;
  noteUntrainedLatentSteps(flags.model, folder, opened, latentSteps);
  const { task: trained } = opened.settings;
  if (task === undefined && trained !== null && !taskNames.includes(trained))
    process.stderr.write(
      `note: the model was trained on the task ${trained}, which is not known here; the prompt is worded as for m3cot\n`,
    );
  requireRoomForAnswers(opened, { rows, latentSteps, maxNewTokens });
  return { opened, folder, latentSteps, latent: { ...ablation?.options }, loadSeconds };
}
