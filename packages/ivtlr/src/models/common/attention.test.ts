import { cudaAvailable, fromBytes, liveTensorCount, manualSeed, randn, scope, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { attend } from './attention.ts';
import { batchMask } from './batch-attention.ts';
import { attendOnGpu, attentionKernel, headsOfRows } from './gpu-attention.ts';
import { PreallocatedCache } from './kv-cache.ts';

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

/** softmax(q k^T / sqrt(E)) v in float32, heads repeated, written out. */
function reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | null): Tensor {
  const [B, H, S, E] = q.shape as [number, number, number, number];
  const each = H / k.shape[1]!;
  const [keys, values] = [k, v].map((x) => x.to('float32').repeatInterleave(each, 1));
  let logits = q.to('float32').matmul(keys!.transpose(2, 3)).div(Math.sqrt(E));
  if (mask) logits = logits.maskedFill(mask.not(), Number.NEGATIVE_INFINITY);
  return logits
    .softmax(-1)
    .matmul(values!)
    .transpose(1, 2)
    .reshape([B, S, H * E]);
}

const largestError = (got: Tensor, wanted: Tensor) => ops.max(got.to('float32').sub(wanted).abs()).item();

describe.each([
  { rows: 1, past: 40, padded: false },
  { rows: 1, past: 40, padded: true },
  { rows: 7, past: 30, padded: false },
  { rows: 33, past: 20, padded: true },
  { rows: 64, past: 3, padded: false },
  { rows: 70, past: 3, padded: true },
  { rows: 12, past: 0, padded: false },
])('attend: $rows rows after $past, padded $padded', ({ rows, past, padded }) => {
  test.each([
    ['bfloat16', 0.02],
    ['float32', 1e-5],
  ] as const)('%s', (dtype, tolerance) => {
    scope(() => {
      manualSeed(rows + past);
      const [B, H, G, E] = [2, 6, 2, 16];
      const total = past + rows;
      const q = randn([B, H, rows, E]).to(dtype);
      // Keys and values as the cache gives them: views into more room.
      const [k, v] = [0, 1].map(() =>
        randn([B, G, total + 5, E])
          .to(dtype)
          .narrow(2, 0, total),
      ) as [Tensor, Tensor];
      const cache = new PreallocatedCache({ layers: 1, batch: B, heads: G, headSize: E, dtype, device: 'cpu' }, total);
      try {
        const bits = new Uint8Array(B * past).fill(1);
        if (padded) bits.fill(0, 0, 5);
        if (past > 0) cache.advance(past, padded ? fromBytes(bits, 'bool', [B, past]) : null);
        const mask = batchMask(B, rows, cache, null, null, 'cpu');
        const causal = ops.tril(ops.ones([rows, total], 'bool'), past).view([1, 1, rows, total]);
        const keys = padded
          ? ops.cat([fromBytes(bits, 'bool', [B, past]), ops.ones([B, rows], 'bool')], 1).view([B, 1, 1, total])
          : null;
        const wanted = reference(q, k, v, keys ? causal.and(keys) : causal);
        expect(largestError(attend(q, k, v, mask), wanted)).toBeLessThan(tolerance);
        // The form for GPUs is plain arithmetic, which a CPU can do, too.
        expect(largestError(attendOnGpu(q, k, v, mask), wanted)).toBeLessThan(tolerance);
        const own = [k, v].map((x) => x.repeatInterleave(H / G, 1)) as [Tensor, Tensor];
        expect(largestError(attendOnGpu(q, own[0], own[1], mask), wanted)).toBeLessThan(tolerance);
      } finally {
        cache.dispose();
      }
    });
  });
});

test.each([1, 33])('heads are found in the order in which a GPU gives them: %i rows', (S) => {
  scope(() => {
    const [B, G, H, E] = [2, 2, 12, 16];
    const given = randn([B, (H / G) * S, G, E]).transpose(1, 2);
    const wanted = given.contiguous().view([B, H, S, E]);
    expect(largestError(headsOfRows(given, H, S), wanted)).toBe(0);
  });
});

test('the kernel that torch would choose has a name', () => {
  scope(() => {
    const [q, k] = [randn([1, 4, 3, 16]), randn([1, 4, 3, 16])];
    expect(attentionKernel(q, k, k, { mask: null, isCausal: true })).toBe('flash');
    // Two key heads for four query heads.
    expect(attentionKernel(q, k.narrow(1, 0, 2), k.narrow(1, 0, 2), { mask: null, isCausal: true })).not.toBe('none');
  });
});

test.runIf(cudaAvailable())('attention on a GPU gives what it gives on the CPU', () => {
  scope(() => {
    for (const rows of [1, 33]) {
      const q = randn([2, 12, rows, 128]);
      const [k, v] = [randn([2, 2, 77, 128]), randn([2, 2, 77, 128])];
      const mask = ops.tril(ops.ones([rows, 77], 'bool'), 77 - rows).view([1, 1, rows, 77]);
      const seen = { mask, isCausal: false };
      const there = (x: Tensor) => x.to({ device: 'cuda:0' });
      const got = attend(there(q), there(k), there(v), { mask: there(mask), isCausal: false });
      expect(largestError(got.to({ device: 'cpu' }), attend(q, k, v, seen))).toBeLessThan(1e-4);
    }
  });
});

test.runIf(cudaAvailable())('no attention over a cache falls to plain products on a GPU', () => {
  scope(() => {
    const on = (x: Tensor, dtype: 'bfloat16' | 'float32') => x.to({ device: 'cuda:0', dtype });
    for (const dtype of ['bfloat16', 'float32'] as const)
      for (const rows of [1, 33]) {
        const folded = on(randn([2, 2, 6 * rows, 128]), dtype);
        const k = on(randn([2, 2, 77, 128]), dtype);
        const mask = ops.ones([2, 1, 6 * rows, 77], 'bool', null, 'cuda:0');
        expect(attentionKernel(folded, k, k, { mask, isCausal: false })).toBe('memory-efficient');
      }
    const q = on(randn([1, 12, 40, 128]), 'bfloat16');
    const k = on(randn([1, 2, 40, 128]), 'bfloat16');
    expect(['flash', 'cudnn']).toContain(attentionKernel(q, k, k, { mask: null, isCausal: true }));
  });
});
