/** Official checkpoints, converted and run, against the official code that loaded the same files. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { liveTensorCount, openCheckpoint, openPth, scope, setNumThreads } from '@ivtlr/torch';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { convertOfficial } from '../../packages/ivtlr/src/convert/convert-official.ts';
import { openModelFolder } from '../../packages/ivtlr/src/engine/loaded-model.ts';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { type GoldenCase, makeBatch, readGolden, relativeError, seededImages } from './model.ts';

interface CheckpointCase extends Omit<GoldenCase, 'weights' | 'config'> {
  checkpoint: string;
  patches: number;
  input_ids: number[];
  picked: number[][];
  new_tokens: number[];
  last_logits: number[];
}

interface CheckpointFile {
  file: string;
  base: string;
  rows: number;
  tied: boolean;
  alpha: number;
  rank: number;
  tensors: number;
  /** By weight: PEFT's merge in float32, and in the dtype of the file. */
  merged: Record<string, Record<'float32' | 'stored', { abs_sum: number; first: number[] }>>;
}

const golden = readGolden<{ max_new_tokens: number; files: Record<string, CheckpointFile>; cases: CheckpointCase[] }>(
  'official-checkpoint/cases.json',
);
const source = new URL('goldens/official-checkpoint/', import.meta.url).pathname;
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'official-checkpoint-'));
let baseline = 0;

beforeEach(() => {
  baseline = liveTensorCount();
  setNumThreads(2);
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => fs.rmSync(folder, { recursive: true }));

test('ten prompts, both layouts', () => {
  expect(golden.cases.length).toBe(10);
  expect(Object.values(golden.files).map(({ rows }) => rows)).toEqual([320, 336]);
});

describe.each(Object.entries(golden.files))('%s', (name, file) => {
  const convert = (out: string, merge: boolean) =>
    convertOfficial({
      checkpoint: path.join(source, file.file),
      base: path.join(source, file.base),
      out,
      merge,
      dtype: 'float32',
    });
  const cases = golden.cases.filter(({ checkpoint }) => checkpoint === name);

  function check(opened: string): void {
    const { model } = openModelFolder(opened, { dtype: 'float32' });
    model.module.eval();
    try {
      for (const wanted of cases) {
        scope(() => {
          const images = seededImages(wanted as unknown as GoldenCase);
          const batch = makeBatch([wanted.input_ids], [wanted.input_ids.map(() => 1)], images, wanted.ids);
          const result = generateAll(model, batch, {
            ...LATENT_DEFAULTS,
            patches: wanted.patches,
            onExhausted: 'reuse',
            maxNewTokens: golden.max_new_tokens,
            eosIds: [wanted.ids.eos],
            trace: true,
            firstLogits: true,
          });
          const start = batch.inputIds[0]!.indexOf(wanted.ids.image);
          const picked = result.traces[0]!.map((step) => step.picked.map((index) => index + start));
          expect(picked, wanted.name).toEqual(wanted.picked);
          expect(relativeError(result.firstLogits[0]!, wanted.last_logits), wanted.name).toBeLessThan(1e-4);
          expect(result.tokens[0], wanted.name).toEqual(wanted.new_tokens);
        });
      }
    } finally {
      model.module.dispose();
    }
  }

  test('adapter beside the weights: same picks, tokens and logits', async () => {
    const out = path.join(folder, `${name}-adapter`);
    const result = await convert(out, false);
    expect(result).toMatchObject({
      rank: file.rank,
      vocabulary: file.rows,
      adapters: 14,
      adapterFolder: path.join(out, 'adapter'),
    });
    check(path.join(out, 'adapter'));
  });

  test('merged: the same again, and the weights are those PEFT merges', async () => {
    const out = path.join(folder, `${name}-merged`);
    const result = await convert(out, true);
    expect(result).toMatchObject({ rank: file.rank, vocabulary: file.rows, adapterFolder: null });
    expect(fs.existsSync(path.join(out, 'adapter'))).toBe(false);
    expectMerged(out, 'float32');
    check(out);
  });

  test('merged in the dtype of the file, as PEFT does', async () => {
    const out = path.join(folder, `${name}-stored`);
    await convertOfficial({
      checkpoint: path.join(source, file.file),
      base: path.join(source, file.base),
      out,
      merge: true,
    });
    expectMerged(out, 'stored');
  });

  function expectMerged(out: string, dtype: 'float32' | 'stored'): void {
    scope(() => {
      using weights = openCheckpoint(out);
      expect(Object.keys(file.merged).length).toBe(14);
      for (const [weight, { [dtype]: wanted }] of Object.entries(file.merged)) {
        const value = weights.read(weight, { dtype: 'float64' });
        expect(Math.abs(value.abs().sum().item() / wanted.abs_sum - 1), weight).toBeLessThan(1e-6);
        expect(relativeError(value.flatten().slice(0, 0, 4).toNumbers(), wanted.first), weight).toBeLessThan(1e-6);
      }
    });
  }

  test('the base weights alone give other logits: the adapters matter here', async () => {
    const out = path.join(folder, `${name}-base`);
    await convert(out, false);
    expect(() => check(out)).toThrow(/T 3, K 8/);
    using stored = openPth(path.join(source, file.file));
    expect(stored.names().length).toBe(file.tensors);
  });
});
