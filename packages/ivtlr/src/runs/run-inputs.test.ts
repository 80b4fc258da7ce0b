import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadRecipe } from '../config/load.ts';
import { UserError } from '../errors.ts';
import { makeDominoes } from '../tasks/dominoes/make.ts';
import { readLatestCheckpoint } from '../train/checkpoint.ts';
import { runRecipe } from './run-recipe.ts';

let folder = '';
const at = (name: string) => join(folder, name);
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-run-inputs-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Trains one step, to be gone on with. */
function step(out: string, resume = true) {
  const recipe = loadRecipe('dominoes', [
    ...[`out=${at(out)}`, `model=${at('base')}`, 'pretrain=[]', 'numEpochs=1', 'threads=1', 'device=cpu'],
    ...['data.source=folder', `data.folder=${at('data')}`, 'data.samplesPerEpoch=8', 'data.threads=0'],
    ...['globalBatch=1', 'microBatch=1', 'data.validation.samples=0'],
  ]);
  let taken = 0;
  const reporter = { step: () => void taken++, note: () => {} };
  return runRecipe(recipe, { resume, reporter, stopRequested: () => (taken > 0 ? 'test' : null) });
}

test('a run goes on only with the data and the base model that it was started with', async () => {
  cpSync(join(import.meta.dirname, '../../models/dominoes'), at('base'), { recursive: true });
  const data = (seed: number) => makeDominoes({ rows: 8, out: at('data'), seed });
  const file = await data(1);
  const original = readFileSync(file);
  expect((await step('run', false)).step).toBe(1);
  expect((await step('run')).step).toBe(2);

  const settings = readFileSync(at('base/ivtlr.json'), 'utf8');
  const change = ' have changed since .*step-00000002 was written: a resumed run needs those it was started with; ';
  rmSync(file);
  await data(2);
  await expect(step('run')).rejects.toThrow(UserError);
  await expect(step('run')).rejects.toThrow(new RegExp(`^the files of the training data${change}`));
  writeFileSync(at('base/ivtlr.json'), `${settings}\n`);
  await expect(step('run')).rejects.toThrow(
    new RegExp(`^the files of the training data and the files of the base model${change}`),
  );
  writeFileSync(file, original);
  await expect(step('run')).rejects.toThrow(new RegExp(`^the files of the base model${change}`));
  writeFileSync(at('base/ivtlr.json'), settings);
  expect((await step('run')).step).toBe(3);

  // All weights are in the checkpoint, which remembers the base that is gone.
  renameSync(at('base'), at('elsewhere'));
  expect((await step('run')).step).toBe(4);
  renameSync(at('elsewhere'), at('base'));
  writeFileSync(at('base/ivtlr.json'), `${settings}\n`);
  await expect(step('run')).rejects.toThrow(/^the files of the base model have changed/);

  // As an older version has written it.
  const state = join(readLatestCheckpoint(at('run'))!.folder, 'state.json');
  const { inputs, ...older } = JSON.parse(readFileSync(state, 'utf8'));
  expect(Object.keys(inputs).sort()).toEqual(['data', 'model']);
  writeFileSync(state, JSON.stringify(older));
  expect((await step('run')).step).toBe(5);
  expect((await step('run')).step).toBe(6);
});
