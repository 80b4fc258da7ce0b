/** get, inspect and stats as a user calls them. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount } from '@ivtlr/torch';
import { Command } from 'commander';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { startHub } from '../../../../test/hub-server.ts';
import type { InspectedSample } from '../inspect/inspect-sample.ts';
import { makeDominoes } from '../tasks/dominoes/make.ts';
import { writeDominoesTokenizer } from '../tasks/dominoes/vocabulary.ts';
import { encodePng } from '../tasks/make-file.ts';
import { registerData } from './data.ts';
import { describe } from './data-inspect.ts';

let folder = '';
let model = '';
let rows = '';
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-cli-look-'));
  model = join(folder, 'model');
  mkdirSync(model);
  writeDominoesTokenizer(model);
  writeFileSync(join(model, 'config.json'), JSON.stringify({ model_type: 'qwen2_vl' }));
  await makeDominoes({ rows: 6, out: join(folder, 'dominoes'), seed: 3 });
  rows = join(folder, 'train.jsonl');
  const png = await encodePng({ kind: 'rgb', width: 40, height: 30, data: new Uint8Array(3600) });
  writeFileSync(join(folder, 'p.png'), png);
  writeFileSync(join(folder, 'broken.png'), png.subarray(0, 60));
  const line = (more: object) =>
    JSON.stringify({
      id: 'a',
      question: 'q',
      choices: ['x', 'y'],
      answer: 'B',
      rationale: 'One. Two. Three. Four',
      image: 'p.png',
      domain: 'd',
      topic: 't',
      ...more,
    });
  writeFileSync(
    rows,
    [line({}), line({ image: null }), line({ image: 'broken.png' }), line({ rationale: '', topic: 'u' })].join('\n'),
  );
});
const tensors = liveTensorCount();
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(tensors);
});
afterEach(() => vi.unstubAllEnvs());

async function ivtlr(...args: string[]): Promise<{ out: string; err: string }> {
  const program = new Command('ivtlr').exitOverride().configureOutput({ writeErr: () => {} });
  registerData(program);
  const inherit = (command: Command) => {
    for (const child of command.commands) {
      child.copyInheritedSettings(command);
      inherit(child);
    }
  };
  inherit(program);
  const out = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  const err = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  try {
    await program.parseAsync(args, { from: 'user' });
    const said = (spy: typeof out) => spy.mock.calls.map(([text]) => text).join('');
    return { out: said(out), err: said(err as typeof out) };
  } finally {
    out.mockRestore();
    err.mockRestore();
  }
}

test('inspect: what is latent, what is trained, and the image with its grid', async () => {
  const png = join(folder, 'grid.png');
  const common = [
    'data',
    'inspect',
    'dominoes',
    '--data',
    join(folder, 'dominoes'),
    '--model',
    model,
    '--row',
    '2',
    '--png',
    png,
    '--max-steps',
    '4',
  ];
  const json = JSON.parse((await ivtlr(...common, '--stage', '2', '--json')).out) as InspectedSample & { png: string };
  expect(json).toMatchObject({ row: 2, stage: 2, latents: 2, droppedSteps: 2, truncatedSteps: 0, png });
  expect(json.steps.length).toBe(4);
  expect(json.prompts.train).toMatch(/^\[Question\]:\{Start at/);
  expect(json.runs.map(({ kind }) => kind)).toEqual(['prompt', 'image', 'prompt', 'latent', 'trained']);
  expect(json.runs.at(-1)!.text.startsWith(json.steps[2]!)).toBe(true);
  expect(json.runs.reduce((sum, run) => sum + run.tokens, 0)).toBe(json.tokens.total);
  expect(json.tokens.trained).toBe(json.tokens.steps[2]! + json.tokens.steps[3]! + json.tokens.answer);
  expect(json.ids.length).toBe(json.tokens.total);
  // Official size for a folder that does not say how it was trained: 280x280, which is 10 x 10 tokens.
  expect(json.images).toEqual([{ width: 112, height: 112, tokenGrid: [10, 10] }]);
  const { width, height } = await sharp(readFileSync(png)).metadata();
  expect([width, height]).toEqual([560, 560]);
  vi.stubEnv('NO_COLOR', '1');
  const { out } = await ivtlr(...common, '--stage', '1', '--profile', 'consistent');
  expect(out).toContain('[latent, 1 token]\n[trained, ');
  expect(out).toContain('tokens, latent at this stage)');
  expect(out).not.toContain('\x1b');
  vi.stubEnv('NO_COLOR', '');
  vi.stubEnv('FORCE_COLOR', '1');
  expect((await ivtlr(...common)).out).toContain('\x1b[32m[trained, ');
});

test('inspect: control characters of the data stay text', () => {
  const sample = {
    id: 'x\x1b[2J',
    answer: 'A',
    meta: {},
    steps: [],
    tokens: { steps: [] },
    images: [{ tokenGrid: [1, 1] }],
    runs: [{ kind: 'trained', tokens: 2, text: 'a\x1b[0m\x07\u009b1mé\n' }],
  };
  for (const colour of [true, false]) {
    const text = describe(
      sample as unknown as InspectedSample,
      { profile: 'official', imageSize: '280x280', resize: 'pillow-11' },
      colour,
    );
    expect(text.includes('x\\x1b[2J'), `${colour}`).toBe(true);
    expect(text).toContain('a\\x1b[0m\\x07\\x9b1mé\n');
    expect(text.split('\x1b').length - 1).toBe(colour ? 2 : 0);
  }
});

test('inspect: fresh samples, and rows that are not there', async () => {
  const fresh = ['data', 'inspect', 'dominoes', '--model', model, '--png', join(folder, 'f.png'), '--json'];
  expect(JSON.parse((await ivtlr(...fresh, '--row', '5', '--seed', '9')).out).id).toBe(
    'dominoes-train-seed9-hops3-of7-5',
  );
  const at = (row: string, ...more: string[]) =>
    ivtlr(
      'data',
      'inspect',
      'm3cot',
      '--data',
      rows,
      '--model',
      model,
      '--png',
      join(folder, 'r.png'),
      '--row',
      row,
      ...more,
    );
  await expect(at('1')).rejects.toThrow(`row 1 of ${rows} has no image`);
  await expect(at('2')).rejects.toThrow(/broken\.png.*line 3.*cannot be decoded/);
  await expect(at('2', '--on-bad-row', 'skip')).rejects.toThrow(/has no image, or was skipped/);
  await expect(at('9')).rejects.toThrow(/no row 9 with an image in .*; the last one is row 3/);
  vi.stubEnv('HF_HUB_OFFLINE', '1');
  vi.stubEnv('HF_HUB_CACHE', join(folder, 'empty'));
  await expect(ivtlr('data', 'inspect', 'm3cot', '--model', model)).rejects.toThrow(
    /M3CoT at main is not in the cache/,
  );
  vi.unstubAllEnvs();
  await expect(ivtlr('data', 'inspect', 'dominoes', '--model', join(folder, 'none'))).rejects.toThrow(
    /no model folder/,
  );
});

test('stats: counts, lengths, groups; bad rows counted', async () => {
  const { out } = await ivtlr(
    'data',
    'stats',
    'dominoes',
    '--data',
    join(folder, 'dominoes'),
    '--model',
    model,
    '--max-steps',
    '4',
    '--json',
  );
  const stats = JSON.parse(out);
  expect(stats).toMatchObject({
    samples: 6,
    skipped: 0,
    groups: { steps: [['4', 6]], choices: [['4', 6]], topic: [['3 hops', 6]] },
  });
  expect(stats.lengths.step).toMatchObject({ count: 24 });
  expect(stats.lengths.answer.min).toBeGreaterThan(3);
  const table = await ivtlr('data', 'stats', 'm3cot', '--data', rows, '--on-bad-row', 'skip');
  expect(table.out).toMatch(/2 samples \(characters\)/);
  expect(table.out).toMatch(/│ u +│ +1 │/);
  expect(table.err).toMatch(/skipped: .*broken\.png[\s\S]*1 row was skipped/);
  const counted = JSON.parse(
    (await ivtlr('data', 'stats', 'm3cot', '--data', rows, '--on-bad-row', 'skip', '--json')).out,
  );
  expect(counted).toMatchObject({
    samples: 2,
    skipped: 1,
    groups: {
      steps: [
        ['0', 1],
        ['3', 1],
      ],
      'pieces before merging': [
        ['0', 1],
        ['4', 1],
      ],
    },
  });
  await expect(ivtlr('data', 'stats', 'scienceqa', '--data', rows)).rejects.toThrow(
    /line 1, column answer: should be a whole number/,
  );
});

test('get: into the cache of the environment or --dir, and from it when offline', async () => {
  const parquet = readFileSync(join(folder, 'dominoes', 'train-00000-of-00001.parquet'));
  const hub = await startHub({
    'data/train-00000-of-00001.parquet': parquet,
    'README.md': Buffer.from('x'),
    'more.bin': Buffer.from('y'),
  });
  hub.repo = 'LightChen2333/M3CoT';
  vi.stubEnv('HF_ENDPOINT', hub.url);
  vi.stubEnv('HF_HUB_CACHE', join(folder, 'hub'));
  vi.stubEnv('HF_TOKEN', 'secret');
  hub.trouble.token = 'secret';
  const { out, err } = await ivtlr('data', 'get', 'm3cot');
  const snapshot = out.trim();
  expect(snapshot.startsWith(join(folder, 'hub', 'datasets--LightChen2333--M3CoT', 'snapshots'))).toBe(true);
  expect(err).toContain('LightChen2333/M3CoT (CC BY-SA 4.0): 2 files');
  expect(existsSync(join(snapshot, 'more.bin'))).toBe(false);
  expect(
    JSON.parse((await ivtlr('data', 'stats', 'm3cot', '--data', snapshot, '--split', 'train', '--json')).out).samples,
  ).toBe(6);
  const json = JSON.parse((await ivtlr('data', 'get', 'm3cot', '--dir', join(folder, 'own'), '--json')).out);
  expect(json).toMatchObject({ task: 'm3cot', files: 2, fetched: parquet.length + 1 });
  await hub.close();
  vi.stubEnv('HF_HUB_OFFLINE', '1');
  expect((await ivtlr('data', 'get', 'm3cot')).out.trim()).toBe(snapshot);
  await expect(ivtlr('data', 'get', 'scienceqa')).rejects.toThrow(
    /derek-thomas\/ScienceQA at main is not in the cache/,
  );
  await expect(ivtlr('data', 'get', 'dominoes')).rejects.toThrow(/m3cot, scienceqa/);
});
