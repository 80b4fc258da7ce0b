/** bfloat16 beside transformers on the same device: PYTHON names a Python with torch and transformers, IVTLR_TEST_DEVICE the device. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { scope } from '@ivtlr/torch';
import { afterAll, expect, test } from 'vitest';
import { embedPrompt, Sequence } from '../../packages/ivtlr/src/latent/sequence.ts';
import { loadModel } from '../../packages/ivtlr/src/models/registry.ts';
import { TEST_DEVICE } from '../device.ts';
import { QWEN2_VL, writeTinyQwen } from '../tiny-qwen.ts';
import { makeBatch, relativeError } from './model.ts';

const python = process.env.PYTHON;
const hasPeer = python !== undefined && spawnSync(python, ['-c', 'import torch, transformers']).status === 0;
const folder = fs.mkdtempSync(join(tmpdir(), 'ivtlr-bfloat16-'));
afterAll(() => fs.rmSync(folder, { recursive: true }));

const ROWS = [Array.from({ length: 7 }, (_, i) => 3 + i), Array.from({ length: 40 }, (_, i) => 5 + ((i * 7) % 50))];

test.skipIf(!hasPeer)(
  `logits${hasPeer ? '' : ' (skipped: PYTHON names no Python with torch and transformers)'}`,
  () => {
    const model = join(folder, 'model');
    writeTinyQwen(model, QWEN2_VL);
    const file = join(folder, 'ids.json');
    fs.writeFileSync(file, JSON.stringify(ROWS));
    const script = fileURLToPath(new URL('python/bfloat16_logits.py', import.meta.url));
    const { status, stdout, stderr } = spawnSync(python!, [script, model, TEST_DEVICE, file], { encoding: 'utf8' });
    expect(status, stderr).toBe(0);
    const wanted = JSON.parse(stdout.slice(stdout.indexOf('{'))) as Record<'bfloat16' | 'float32', number[][]>;
    for (const [dtype, bound] of [
      ['float32', 1e-4],
      ['bfloat16', 0],
    ] as const) {
      const made = loadModel(model, { dtype, device: TEST_DEVICE });
      made.module.eval();
      for (const [i, ids] of ROWS.entries())
        scope(() => {
          const batch = makeBatch([ids], [ids.map(() => 1)], [], { image: -1, latent: -2 });
          const { hidden } = new Sequence(made, embedPrompt(made, batch, 'sequential'), null).run();
          const logits = made
            .logits(hidden)
            .select(0, 0)
            .select(0, ids.length - 1)
            .toNumbers();
          // In bfloat16 both round as they go, kernels that add in another order too: ours may be twice as far from theirs as theirs are from float32.
          const rounding = relativeError(wanted.bfloat16[i]!, wanted.float32[i]!);
          expect(relativeError(logits, wanted[dtype][i]!)).toBeLessThan(bound || 2 * rounding);
        });
      made.module.dispose();
    }
  },
);
