/** Names of the hub where a model or data folder is asked for. Needs the compiled package, which `npm test` builds first. */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount } from '@ivtlr/torch';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { type Hub, startHub } from '../../../../test/hub-server.ts';
import { checkpointFile, dataFolder, modelFolder } from '../cli/hub-folders.ts';
import { openModelFolder, saveAdapterFolder } from '../engine/loaded-model.ts';
import { injectLora } from '../lora/inject.ts';
import { makeDominoes } from '../tasks/dominoes/make.ts';

const bundled = join(import.meta.dirname, '../../models/dominoes');
const tensors = liveTensorCount();
let folder = '';
let hub: Hub;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-from-hub-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(tensors);
});
beforeEach(async () => {
  hub = await startHub({});
  vi.stubEnv('HF_ENDPOINT', hub.url);
  vi.stubEnv('HF_HUB_CACHE', mkdtempSync(join(folder, 'cache-')));
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
});
afterEach(async () => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  await hub.close();
});

function serve(repo: string, files: Record<string, Buffer>): void {
  hub.repo = repo;
  hub.files = new Map(Object.entries(files));
}
const modelFiles = () =>
  Object.fromEntries(readdirSync(bundled).map((name) => [name, readFileSync(join(bundled, name))]));

test('a model: only what loading needs, then from the cache, also when the hub is gone', async () => {
  serve('some/dominoes', {
    ...modelFiles(),
    'pytorch_model.bin': Buffer.from('x'),
    'onnx/model.json': Buffer.from('x'),
  });
  const path = await modelFolder('some/dominoes');
  expect(path).toContain(join('models--some--dominoes', 'snapshots'));
  expect(readdirSync(path).sort()).toEqual(
    readdirSync(bundled)
      .filter((name) => !name.endsWith('.jsonl'))
      .sort(),
  );
  const opened = openModelFolder(path);
  expect(opened.settings.task).toBe('dominoes');
  opened.model.module.dispose();
  const asked = hub.log.length;
  expect(await modelFolder('some/dominoes')).toBe(path);
  expect(hub.log.slice(asked).filter((line) => line.includes('/resolve/'))).toEqual([]);
  await hub.close();
  expect(await modelFolder('some/dominoes')).toBe(path);
  expect(String(vi.mocked(process.stderr.write).mock.lastCall?.[0])).toContain(`going on with ${path}`);
});

test('the base of an adapter comes along', async () => {
  serve('some/dominoes', modelFiles());
  const base = openModelFolder(bundled);
  injectLora(base.model.module, { rank: 2, alpha: 4, dropout: 0, targets: ['q_proj'] });
  const adapter = join(folder, 'adapter');
  mkdirSync(adapter);
  saveAdapterFolder(base, { rank: 2, alpha: 4, dropout: 0, targets: ['q_proj'] }, adapter);
  base.model.module.dispose();
  const file = join(adapter, 'adapter_config.json');
  const config = { ...JSON.parse(readFileSync(file, 'utf8')), base_model_name_or_path: 'some/dominoes' };
  writeFileSync(file, JSON.stringify(config));
  expect(() => openModelFolder(adapter)).toThrow(/some\/dominoes is no folder .* not in the cache/);
  expect(await modelFolder(adapter)).toBe(adapter);
  const opened = openModelFolder(adapter);
  expect(opened.adapter?.rank).toBe(2);
  opened.model.module.dispose();
});

test('the base that lies beside an adapter is not asked for', async () => {
  const adapter = join(folder, 'beside/adapter');
  mkdirSync(adapter, { recursive: true });
  cpSync(bundled, join(folder, 'beside/its/base'), { recursive: true });
  const config = { peft_type: 'LORA', r: 2, lora_alpha: 4, base_model_name_or_path: 'its/base' };
  writeFileSync(join(adapter, 'adapter_config.json'), JSON.stringify(config));
  expect(await modelFolder(adapter)).toBe(adapter);
  expect(hub.log).toEqual([]);
});

test('data, and the .pth of a repository', async () => {
  const source = join(folder, 'made');
  const parquet = readFileSync(await makeDominoes({ rows: 2, out: source }));
  serve('some/data', { 'data/train-00000-of-00001.parquet': parquet, 'big.tar': Buffer.from('x') });
  const path = await dataFolder('some/data');
  expect(existsSync(join(path, 'data/train-00000-of-00001.parquet'))).toBe(true);
  expect(existsSync(join(path, 'big.tar'))).toBe(false);
  serve('some/checkpoint', {
    'other.pth': Buffer.from('1'),
    'model.pth': Buffer.from('2'),
    'README.md': Buffer.from('x'),
  });
  expect(readFileSync(await checkpointFile('some/checkpoint'), 'utf8')).toBe('2');
  serve('some/readme', { 'README.md': Buffer.from('x') });
  await expect(checkpointFile('some/readme')).rejects.toThrow(/has none of the files looked for/);
});

test('what exists on disk is never asked for, and what is nowhere says both', async () => {
  mkdirSync(join(folder, 'here/model'), { recursive: true });
  const before = process.cwd();
  process.chdir(folder);
  try {
    expect(await modelFolder('here/model')).toBe('here/model');
    expect(await dataFolder('nowhere')).toBe('nowhere');
    expect(hub.log).toEqual([]);
    serve('some/dominoes', {});
    await expect(modelFolder('runs/mine')).rejects.toThrow(/there is no folder runs\/mine, and as a name of the hub: /);
    hub.log.length = 0;
    for (const path of ['./modles/x', 'a/b/c', '/no/model', '../x/y', 'modles/x.pth', 'data/rows.jsonl', 'x/'])
      expect(await modelFolder(path)).toBe(path);
    await expect(dataFolder('here/modle')).rejects.toThrow(
      /^there is no folder here\/modle: here is here and has none of that name \(if here\/modle is a name of the hub/,
    );
    expect(hub.log).toEqual([]);
  } finally {
    process.chdir(before);
  }
});
