/** Several processes make the model that one makes, bit for bit, and with stage 3 none of them ever holds all of it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runRanks } from '../ranks.ts';
import { writeTinyChameleon } from '../tiny-chameleon.ts';
import { QWEN25_VL, writeTinyQwen } from '../tiny-qwen.ts';

const script = fileURLToPath(new URL('loading.mjs', import.meta.url));

/** 2 MB in float32, no parameter of which is more than a tenth. */
const config = (tied: boolean) => ({
  model_type: 'qwen2_vl',
  vocab_size: 600,
  image_token_id: 599,
  hidden_size: 64,
  intermediate_size: 192,
  num_hidden_layers: 8,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  rope_theta: 10000,
  rope_scaling: { type: 'mrope', mrope_section: [2, 3, 3] },
  tie_word_embeddings: tied,
  vision_config: { depth: 2, embed_dim: 32, num_heads: 2, mlp_ratio: 2, hidden_size: 64 },
});

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-loading-'));
  writeTinyChameleon(join(folder, 'chameleon'));
  writeTinyQwen(join(folder, 'qwen'), { ...QWEN25_VL, num_hidden_layers: 12 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const models = () => [
  { name: 'drawn', config: config(false) },
  { name: 'drawn, tied', config: config(true) },
  { name: 'loaded', folder: join(folder, 'qwen') },
  { name: 'loaded Chameleon', folder: join(folder, 'chameleon') },
];

/** What it takes beyond parameters: the state of a generator, and shards that are rounded up to pages of memory. */
const SLACK = 2 ** 16;

test.each([
  ['reads the others', undefined],
  ['is told by the others', '0'],
])('a process that %s', async (_, IVTLR_READ_PEERS) => {
  const cases = models().flatMap((model) =>
    [0, 1, 2, 3].flatMap((zero) => [false, true].map((lora) => ({ ...model, zero, lora }))),
  );
  const outcomes = await runRanks(3, script, { cases }, { timeout: 110, env: { IVTLR_READ_PEERS } });
  for (const { code, stdout, stderr } of outcomes) {
    expect(code, stderr).toBe(0);
    const results: { wanted: string; found: string; most: number; held: number; largest: number }[] =
      JSON.parse(stdout);
    results.forEach(({ wanted, found, most, held, largest }, i) => {
      const { name, zero, lora } = cases[i]!;
      const what = `${name}, zero ${zero}${lora ? ', LoRA' : ''}`;
      expect(found, what).toBe(wanted);
      if (zero === 3) expect(most, what).toBeLessThan(held + largest + SLACK);
    });
    // With stage 0 a process has the whole drawn model: the limit above is less than that.
    const [whole, sharded] = [results[0]!, results[6]!];
    expect(sharded.held + sharded.largest + SLACK).toBeLessThan(0.6 * whole.held);
  }
});
