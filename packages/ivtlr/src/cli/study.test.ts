/** A study through the built program, as a user would run it: killed, stopped, with a run that fails; `npm test` builds it first. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ABLATIONS } from '../latent/options.ts';
import type { StudyReport } from '../study/report.ts';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));

const common = `
task: dominoes
maxSteps: 4
threads: 1
optimizer: { lr: 1.0e-3 }
globalBatch: 2
microBatch: 2
checkpoint: { everySteps: 2, stageModels: true }
`;
const latent = `${common}
model:
  config:
    model_type: qwen2_vl
    hidden_size: 16
    intermediate_size: 16
    num_hidden_layers: 1
    num_attention_heads: 1
    num_key_value_heads: 1
    rope_scaling: { type: mrope, mrope_section: [2, 3, 3] }
    tie_word_embeddings: true
    vision_config: { depth: 1, embed_dim: 16, num_heads: 1, mlp_ratio: 1, hidden_size: 16 }
pretrain: [{ name: read, steps: 4, mix: [{ task: picture, batch: 2 }], lr: 1.0e-3 }]
latent: { patches: 1, maxLatentStage: 2, epochsPerStage: 1 }
numEpochs: 3
data: { source: fresh, samplesPerEpoch: 20 }
out: runs/base
`;
/** Starts from what the other one has pretrained. */
const written = `${common}
mode: cot
model: runs/base/models/read
latent: { patches: 1, maxLatentStage: 0, epochsPerStage: 1 }
numEpochs: 1
data: { source: fresh, samplesPerEpoch: 6 }
out: runs/elsewhere
`;
const broken = `${latent.replace('source: fresh, samplesPerEpoch: 20', 'source: folder, folder: no-such-data')}`;

let folder: string;
let out: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-study-'));
  out = join(folder, 'study');
  for (const [name, text] of Object.entries({ latent, written, broken }))
    writeFileSync(join(folder, `${name}.yaml`), text);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

function start(names: readonly string[], ...more: string[]): { child: ChildProcess; ended: Promise<Ended> } {
  const recipes = names.map((name) => `${name}.yaml`);
  const flags = ['--seeds', '2', '--processes', '2', '--limit', '6', '--max-new-tokens', '4', '--out', 'study'];
  const child = spawn(process.execPath, [program, 'study', ...recipes, ...flags, ...more], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const text = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    child[name].on('data', (data) => {
      text[name] += data;
    });
  return { child, ended: new Promise((resolve) => child.on('close', (code) => resolve({ code, ...text }))) };
}

const all = ['written', 'latent', 'broken'];

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** Process ids that the logs name. */
function workers(): number[] {
  const logs = ['latent', 'written', 'broken'].flatMap((name) =>
    [1, 2].map((seed) => join(out, name, `seed-${seed}`, 'study.log')),
  );
  return logs
    .filter(existsSync)
    .flatMap((log) => [...readFileSync(log, 'utf8').matchAll(/pid (\d+)/g)].map((m) => Number(m[1])));
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

const measured = (name: string, seed: number) => join(out, name, `seed-${seed}`, 'ablations.json');

it('goes on after a kill and an interruption, names a run that fails, and writes the table', async () => {
  // Killed as soon as something has been trained.
  const killed = start(all);
  await until(
    () => killed.child.exitCode !== null || existsSync(join(out, 'latent', 'seed-1', 'checkpoints', 'latest')),
  );
  killed.child.kill('SIGKILL');
  await killed.ended;
  await until(() => !workers().some(isAlive));

  // Interrupted as soon as a run is done.
  const stopped = start(all);
  await until(() => stopped.child.exitCode !== null || existsSync(measured('latent', 1)));
  stopped.child.kill('SIGINT');
  const interrupted = await stopped.ended;
  expect(interrupted.code, interrupted.stderr).toBe(130);
  expect(interrupted.stderr).toContain('stopped by SIGINT; go on with: ivtlr study written.yaml latent.yaml');
  expect(workers().some(isAlive)).toBe(false);
  const before = statSync(measured('latent', 1)).mtimeMs;

  const third = await start(all).ended;
  expect(third.code, third.stderr).toBe(1);
  expect(statSync(measured('latent', 1)).mtimeMs).toBe(before);
  const log = join('study', 'broken', 'seed-2', 'study.log');
  expect(third.stderr).toMatch(new RegExp(`2 of 6 runs failed.*\n.*broken seed 2: .*no-such-data.*log: ${log}`, 's'));
  expect(readFileSync(join(folder, log), 'utf8')).toContain('no-such-data');
  expect(readFileSync(join(out, 'study.md'), 'utf8')).toMatch(/\| broken \| 2 \| .*no-such-data/);

  // Nothing is left to do for the others.
  const whole = await start(['written', 'latent'], '--json').ended;
  expect(whole.code, whole.stderr).toBe(0);
  expect(whole.stderr).toContain('4 runs (recipes: 2, seeds 1 to 2), 4 of them done already; 2 at a time');
  const report = JSON.parse(whole.stdout) as StudyReport;
  expect(report).toEqual(JSON.parse(readFileSync(join(out, 'study.json'), 'utf8')));
  expect(report).toMatchObject({ runs: 4, finished: 4, samples: 6, failed: [] });
  expect(readdirSync(out).sort()).toEqual(['broken', 'latent', 'study.json', 'study.md', 'study.png', 'written']);

  // The base's pretrained model was taken, seed by seed.
  for (const seed of [1, 2]) {
    const { recipe } = JSON.parse(readFileSync(join(out, 'written', `seed-${seed}`, 'run.json'), 'utf8'));
    expect(recipe).toMatchObject({
      seed,
      model: { folder: join('study', 'latent', `seed-${seed}`, 'models', 'read') },
    });
  }
  // The table is what the ablations of each run are, and these are what `ivtlr eval` gives.
  const [cot, ours] = report.recipes;
  expect(cot).toMatchObject({ recipe: 'written', seeds: [1, 2] });
  expect(Object.keys(cot!.accuracy)).toEqual(['full']);
  expect(Object.keys(ours!.accuracy)).toEqual(report.ablations);
  const keys = report.ablations.flatMap((key) => ['--ablation', key]);
  const again = await new Promise<string>((resolve) => {
    const args = [
      'eval',
      '--model',
      join(out, 'latent', 'seed-1', 'model'),
      '--limit',
      '6',
      '--max-new-tokens',
      '4',
      ...keys,
    ];
    const child = spawn(process.execPath, [program, ...args, '--threads', '1', '--json']);
    let text = '';
    child.stdout.on('data', (data) => {
      text += data;
    });
    child.on('close', () => resolve(text));
  });
  const stored = JSON.parse(readFileSync(measured('latent', 1), 'utf8'));
  const evaluated = JSON.parse(again).results as { name: string; correctStrict: number; autoregressiveSteps: number }[];
  for (const key of report.ablations) {
    const { result } = stored.results.find((row: { key: string }) => row.key === key);
    const { correctStrict, autoregressiveSteps } = evaluated.find(({ name }) => name === ABLATIONS[key]!.title)!;
    expect([result.correctStrict, result.autoregressiveSteps], key).toEqual([correctStrict, autoregressiveSteps]);
    const { mean, values, interval95 } = ours!.accuracy[key]!;
    expect(values[1]).toBe(correctStrict / 6);
    expect(mean).toBeCloseTo((values[1]! + values[2]!) / 2);
    expect(interval95[0]).toBeLessThanOrEqual(mean);
    expect(interval95[1]).toBeGreaterThanOrEqual(mean);
  }
  expect(readFileSync(join(out, 'study.png')).subarray(1, 4).toString()).toBe('PNG');

  // A recipe that is not the same any more is refused by name.
  const changed = await start(['latent'], '--set', 'optimizer.lr=1e-4').ended;
  expect(changed.code).toBe(2);
  expect(changed.stderr).toContain('optimizer.lr (was 0.001, now 0.0001); undo the change, or begin another study');
});

it('says in a sentence what is wrong with what it is given', async () => {
  for (const [names, message] of [
    [['written'], 'the recipe written starts from the model runs/base/models/read, which is not there'],
    [['latent', 'latent'], 'two recipes are called latent'],
    [['nowhere'], 'no recipe nowhere.yaml'],
  ] as const) {
    const { code, stderr } = await start([...names], '--out', 'other').ended;
    expect(code, stderr).toBe(2);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(stderr).toContain(message);
  }
  expect(existsSync(join(folder, 'other'))).toBe(false);
});
