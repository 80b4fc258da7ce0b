import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { liveTensorCount, manualSeed, noGrad, randn, scope } from '@ivtlr/torch';
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest';
import { type Answer, answer } from '../engine/ask.ts';
import { openModelFolder, saveAdapterFolder } from '../engine/loaded-model.ts';
import { injectLora, loraLayers } from '../lora/inject.ts';
import { dominoes } from '../tasks/dominoes/dominoes.ts';
import { run } from './main.ts';

const base = fileURLToPath(new URL('../../models/dominoes', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'ivtlr-merge-'));
const adapter = join(folder, 'adapter');
const out = join(folder, 'merged');
const baseline = liveTensorCount();

beforeAll(() => {
  mkdirSync(adapter);
  const opened = openModelFolder(base);
  const lora = { rank: 4, alpha: 8, dropout: 0, targets: ['q_proj', 'v_proj', 'down_proj'] };
  injectLora(opened.model.module, lora);
  manualSeed(3);
  // Fresh adapters do nothing: B is zero.
  noGrad(() =>
    scope(() => {
      for (const { lora_B } of loraLayers(opened.model.module).values())
        lora_B.weight.copy_(randn(lora_B.weight.shape).mul(0.1));
    }),
  );
  saveAdapterFolder({ ...opened, settings: { ...opened.settings, latents: 2 } }, lora, adapter);
  opened.model.module.dispose();
});
let printed = '';
let err = '';
afterEach(() => {
  vi.restoreAllMocks();
  printed = '';
  err = '';
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

function merge(...args: string[]): Promise<number> {
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += text;
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    err += text;
    return true;
  });
  return run(['merge', ...args]);
}

it('refuses weights that are not finite, and leaves nothing behind', async () => {
  const bad = join(folder, 'bad');
  const opened = openModelFolder(adapter, { mergeAdapters: false });
  const [path, layer] = [...loraLayers(opened.model.module)][0]!;
  noGrad(() => scope(() => layer.lora_A.weight.fill_(Number.POSITIVE_INFINITY)));
  mkdirSync(bad);
  saveAdapterFolder(
    { ...opened, folder: base },
    { rank: 4, alpha: 8, dropout: 0, targets: ['q_proj', 'v_proj', 'down_proj'] },
    bad,
  );
  opened.model.module.dispose();
  expect(await merge(bad, join(folder, 'none'))).toBe(2);
  expect(err).toBe(
    `error: ${bad}: ${path}.weight holds numbers that are not finite: the weights are damaged, or too large for float32\n`,
  );
  expect(readdirSync(folder).sort()).toEqual(['adapter', 'bad']);
  rmSync(bad, { recursive: true });
});

async function answerOf(path: string): Promise<Answer> {
  const opened = openModelFolder(path, { mergeAdapters: false });
  opened.model.module.eval();
  try {
    for await (const event of answer(opened, dominoes.generator!.sample(1, 'test', 0), {
      maxNewTokens: 20,
      trace: true,
    }))
      if (event.type === 'end') return event.answer;
  } finally {
    opened.model.module.dispose();
  }
  throw new Error('no answer');
}

it('makes one plain folder that answers as base and adapter do', async () => {
  expect(await merge(adapter, out, '--json'), err).toBe(0);
  expect(JSON.parse(printed)).toMatchObject({ out, adapter, base, rank: 4, alpha: 8 });
  expect(readdirSync(folder).sort()).toEqual(['adapter', 'merged']);
  expect(existsSync(join(out, 'adapter_config.json'))).toBe(false);
  expect(JSON.parse(readFileSync(join(out, 'ivtlr.json'), 'utf8'))).toMatchObject({ latents: 2, task: 'dominoes' });
  const [merged, apart, plain] = [await answerOf(out), await answerOf(adapter), await answerOf(base)];
  expect(merged.tokens).toEqual(apart.tokens);
  expect(merged.picked).toEqual(apart.picked);
  for (const [step, { scores }] of merged.trace.entries())
    for (const [token, score] of scores.entries()) expect(score).toBeCloseTo(apart.trace[step]!.scores[token]!, 2);
  expect(plain.picked).not.toEqual(apart.picked);
});

it('refuses what is there, what is no adapter and what cannot be written, and leaves nothing', async () => {
  for (const [args, message] of [
    [[adapter, adapter], /is there already; give a folder that does not exist yet/],
    [[base, join(folder, 'b')], /holds no adapter \(adapter_config\.json\); there is nothing to merge/],
    [[join(folder, 'none'), join(folder, 'b')], /none/],
    [[adapter, '/proc/nothing/b'], /^error: cannot make the folder \/proc\/nothing\//],
    [[adapter, '/dev/null/b'], /^error: cannot make the folder \/dev\/null/],
  ] as const) {
    err = '';
    expect(await merge(...args), args.join(' ')).toBe(2);
    expect(err).toMatch(message);
    expect(err.trim().split('\n')).toHaveLength(1);
  }
  expect(readdirSync(folder).filter((name) => name.endsWith('.tmp') || name === 'b')).toEqual([]);
});
