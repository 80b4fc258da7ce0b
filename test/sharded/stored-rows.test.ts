/** Training on stored rows by several processes, as other launchers than ours start them; `npm test` builds the program first. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { dominoesSample } from '../../packages/ivtlr/src/tasks/dominoes/generator.ts';
import { encodePng } from '../../packages/ivtlr/src/tasks/make-file.ts';
import type { RgbImage } from '../../packages/ivtlr/src/vision/image.ts';
import { freePort } from '../ranks.ts';
import { Launching } from './launching.ts';

const ROWS = 20;
const runs = new Launching();
const data = runs.out('data');
beforeAll(async () => {
  mkdirSync(data);
  for (const split of ['train', 'validation'] as const) {
    const lines = Array.from({ length: ROWS }, async (_, i) => {
      const { images, meta, ...row } = dominoesSample(3, split, i);
      const bytes = await encodePng({ kind: 'rgb', ...(images[0] as RgbImage) });
      return JSON.stringify({ ...row, ...meta, image: { bytes: Buffer.from(bytes).toString('base64') } });
    });
    const all = await Promise.all(lines);
    // Of two processes, the second one reads the fourth row.
    if (split === 'train') all[3] = '{"id":';
    writeFileSync(join(data, `${split}.jsonl`), all.join('\n'));
  }
});
afterAll(() => runs[Symbol.dispose]());

const settings = ['data.source=folder', `data.folder=${data}`, 'data.samplesPerEpoch=null', 'numEpochs=2'];
const train = (out: string, ...more: string[]) =>
  runs.train(out, ...[...settings, ...more].flatMap((setting) => ['--set', setting]));

async function byTwo(command: string[], more: NodeJS.ProcessEnv = {}) {
  const port = await freePort();
  const both = [0, 1].map((rank) =>
    runs.start(command, {
      ...{ RANK: String(rank), WORLD_SIZE: '2', LOCAL_RANK: String(rank), LOCAL_WORLD_SIZE: '2' },
      ...{ MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(port) },
      ...more,
    }),
  );
  return Promise.all(both.map(({ ended }) => ended));
}

test('a bad row that another process finds is told once, by the first one; losses are those of one process', async () => {
  const skip = 'data.onBadRow=skip';
  const alone = await runs.start(train('alone', skip)).ended;
  expect(alone.code, alone.stderr).toBe(0);
  // Where they are of different machines as far as they know, each reads all.
  for (const [out, local] of [
    ['machine', {}],
    ['machines', { LOCAL_RANK: '0', LOCAL_WORLD_SIZE: '1', GLOO_SOCKET_IFNAME: 'lo' }],
  ] as const) {
    const [first, second] = await byTwo(train(out, skip), local);
    for (const { code, stderr } of [first!, second!]) expect(code, stderr).toBe(0);
    expect(first!.stderr.match(/train\.jsonl line 4: left out 1 row: .* is not JSON/g)).toHaveLength(1);
    expect(second!.stderr).not.toContain('left out');
    expect(runs.difference(out, 'alone')).toBeLessThan(1e-5);
  }
});

test('without that it ends both', async () => {
  const both = await byTwo(train('ends'));
  for (const { code, stderr } of both) {
    expect(code, stderr).toBe(2);
    expect(stderr).toMatch(/^error: process 1 of 2: .*train\.jsonl line 4 is not JSON/m);
  }
});
