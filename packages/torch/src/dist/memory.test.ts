/** Memory that processes of one machine have in common: shared buffers, and sums of pieces. Where the system forbids it, all of it says so. */
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { runRanks } from '../../../../test/ranks.ts';

const script = fileURLToPath(new URL('./memory-ranks.mjs', import.meta.url));
const DTYPES = ['float64', 'float32', 'float16', 'bfloat16', 'int64', 'uint8'];

/** What each rank printed; empty where the system does not let them read each other's memory. */
async function results(world: number, name: string, payload: object = {}, env: Record<string, string> = {}) {
  const outcomes = await runRanks(world, script, { name, ...payload }, { env, timeout: 110 });
  for (const { code, stderr } of outcomes) expect([code, stderr]).toEqual([0, '']);
  const all = outcomes.map(({ stdout }) => JSON.parse(stdout));
  expect(new Set(all.map((result) => result === null)).size).toBe(1);
  return all.filter((result) => result !== null);
}

const yes = (count: number) => new Array(count).fill(true);

describe('shareMemory', () => {
  test.each([2, 3])('%i processes read in place what each has written, in every dtype', async (n) => {
    for (const result of await results(n, 'shared', { dtypes: DTYPES }))
      for (const dtype of DTYPES)
        expect(result[dtype], dtype).toEqual({
          fresh: yes(2),
          values: yes(n),
          smallValues: yes(n),
          changed: yes(n),
          kept: true,
          gone: expect.stringMatching(/the shared buffer is gone/),
          own: true,
          counted: (n - 1) * 4 * 4096,
        });
  });

  test('gives nothing for parts that are no pages, and refuses a part that is too long', async () => {
    for (const result of await results(2, 'refusals'))
      expect(result).toEqual({
        crooked: null,
        nothing: null,
        long: expect.stringMatching(/the part is not that long/),
        whole: [1024],
      });
  });

  test('leaves no file, no mapping and no tensor behind', async () => {
    for (const result of await results(2, 'sharedGrowth'))
      expect(result).toEqual({ files: 0, mappings: 0, tensors: 0 });
  });
});

describe('sumPiecesAsync', () => {
  test.each([2, 3, 4])('%i processes: pieces across the borders of the parts, in every dtype', async (n) => {
    for (const result of await results(n, 'pieces', { dtypes: DTYPES }))
      for (const dtype of DTYPES)
        expect(result[dtype], dtype).toEqual({ set: true, added: true, kept: true, inPlace: true });
  });

  test('says what is wrong with the pieces, and goes on', async () => {
    for (const result of await results(2, 'mistakes'))
      expect(result).toEqual({
        strided: expect.stringMatching(/a piece is not contiguous or has another length/),
        length: expect.stringMatching(/a piece is not contiguous or has another length/),
        out: expect.stringMatching(/the result should be as long as one part/),
        missing: expect.stringMatching(/a piece is missing that should get its sum/),
        after: new Array(8).fill(2),
      });
  });

  test('leaves nothing behind', async () => {
    for (const result of await results(2, 'pieceGrowth')) expect(result).toEqual({ files: 0, mappings: 0, tensors: 0 });
  });
});

test('processes that may not read each other share nothing', async () => {
  expect(await results(2, 'refusals', {}, { IVTLR_READ_PEERS: '0' })).toEqual([]);
});
