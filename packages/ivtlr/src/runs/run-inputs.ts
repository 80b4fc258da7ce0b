/** The files that a run reads, told apart by short hashes, so that it goes on only with those it was started with. */
import type { Recipe } from '../config/schema.ts';
import { findDataFiles } from '../data/find-files.ts';
import { findModelFolders } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import { fingerprint, modelFingerprint } from '../eval/run-key.ts';
import type { Checkpoint, RunInputs } from '../train/checkpoint.ts';

/**
 * @param data folder of the data; null where samples are drawn
 * @returns nothing of the base model where it is not on this machine any more: a checkpoint of all weights goes on without it
 */
export async function runInputs({ model }: Recipe, data: string | null): Promise<RunInputs> {
  const folders = model.folder === undefined ? [] : findModelFolders(model.folder);
  return {
    ...(data !== null && { data: fingerprint(await findDataFiles(data, 'train'), true) }),
    ...(folders.length > 0 && { model: modelFingerprint(folders, true) }),
  };
}

/** What is not known of a checkpoint, as of those of older versions, may be anything. @throws UserError naming what has changed */
export function requireSameInputs({ state, folder }: Checkpoint, now: RunInputs): void {
  const names = { data: 'training data', model: 'base model' } as const;
  const changed = (['data', 'model'] as const).filter((part) => {
    const then = state.inputs[part];
    return then !== undefined && now[part] !== undefined && now[part] !== then;
  });
  if (changed.length === 0) return;
  const what = changed.map((part) => `the files of the ${names[part]}`).join(' and ');
  throw new UserError(
    `${what} have changed since ${folder} was written: a resumed run needs those it was started with; put them back, or start anew with --set out=FOLDER`,
  );
}
