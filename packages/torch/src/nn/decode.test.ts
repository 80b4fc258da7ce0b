import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  cat,
  fromBytes,
  grad,
  liveTensorCount,
  manualSeed,
  noGrad,
  randn,
  scope,
  type Tensor,
  TorchError,
  tensor,
  zeros,
} from '../core/index.ts';
import * as ops from '../ops.gen.ts';
import { argmaxLast, attendRow, rmsNorm, rotateHalves } from './functional.ts';

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
  manualSeed(11);
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

const inScope = (body: () => void) => noGrad(() => scope(body));
const largest = (x: Tensor) => ops.max(x.to('float64').abs()).item();

describe('rmsNorm', () => {
  const composed = (x: Tensor, weight: Tensor) => weight.mul(ops.rms_norm(x, [weight.numel], null, 1e-6));

  test.each([
    [1, 1536],
    [3, 64],
    [200, 100],
    [2, 7],
  ])('%i rows of %i in bfloat16', (rows, size) => {
    inScope(() => {
      const x = randn([rows, size]).mul(3).to('bfloat16');
      const weight = randn([size]).to('bfloat16');
      const got = rmsNorm(x.view([1, rows, size]), weight, 1e-6).view([rows, size]);
      const wanted = composed(x, weight);
      // Sums in another order move a result by at most a rounding, and few of them.
      expect(largest(got.sub(wanted).div(wanted.abs().add(1e-3)))).toBeLessThan(0.01);
      expect(got.ne(wanted).to('float32').mean().item()).toBeLessThan(0.01);
    });
  });

  test('float32 is ATen to the bit, rows may be strided', () => {
    inScope(() => {
      const [x, weight] = [randn([5, 32]), randn([32])];
      expect(rmsNorm(x, weight, 1e-6).toNumbers()).toEqual(ops.rms_norm(x, [32], weight, 1e-6).toNumbers());
      const strided = randn([64, 3]).to('bfloat16').transpose(0, 1);
      const half = randn([64]).to('bfloat16');
      expect(rmsNorm(strided, half, 1e-6).toNumbers()).toEqual(rmsNorm(strided.contiguous(), half, 1e-6).toNumbers());
      expect(() => rmsNorm(x, randn([31]), 1e-6)).toThrow(TorchError);
    });
  });

  test('inside a graph it has gradients', () => {
    scope(() => {
      const x = randn([2, 32]).to('bfloat16');
      x.requiresGrad = true;
      const weight = randn([32]).to('bfloat16');
      const [got] = grad([rmsNorm(x, weight, 1e-6).sum()], [x]);
      expect(got!.shape).toEqual([2, 32]);
    });
  });
});

describe('rotateHalves', () => {
  const composed = (x: Tensor, cos: Tensor, sin: Tensor) => {
    const half = x.shape[3]! / 2;
    return x.mul(cos).add(cat([x.slice(3, half).neg(), x.slice(3, 0, half)], 3).mul(sin));
  };

  test.each([
    ['bfloat16', 128, 1],
    ['bfloat16', 128, 2],
    ['bfloat16', 80, 1],
    ['bfloat16', 6, 2],
    ['float32', 64, 2],
  ] as const)('%s, heads of %i, angles of %i rows: equal to the bit', (dtype, size, batch) => {
    inScope(() => {
      // As the decoder has it: heads split off a projection, positions second.
      const x = randn([2, 5, 3, size]).to(dtype).transpose(1, 2);
      const angles = randn([batch, 1, 5, size]);
      const [cos, sin] = [ops.cos(angles).to(dtype), ops.sin(angles).to(dtype)];
      const got = rotateHalves(x, cos, sin);
      expect(got.shape).toEqual([2, 3, 5, size]);
      expect(got.toNumbers()).toEqual(composed(x, cos, sin).toNumbers());
    });
  });

  test.each([1, 3])('float32 angles of %i rows: computed in float32, rounded once', (batch) => {
    inScope(() => {
      const x = randn([3, 4, 2, 80]).to('bfloat16').transpose(1, 2);
      const angles = randn([batch, 1, 4, 80]);
      const [cos, sin] = [ops.cos(angles), ops.sin(angles)];
      const got = rotateHalves(x, cos, sin);
      expect(got.dtype).toBe('bfloat16');
      expect(got.toNumbers()).toEqual(composed(x.to('float32'), cos, sin).to('bfloat16').toNumbers());
    });
  });

  test('odd heads are refused', () => {
    inScope(() => {
      const x = randn([1, 1, 1, 5]);
      expect(() => rotateHalves(x, x, x)).toThrow(/E even/);
      const even = randn([1, 2, 3, 4]);
      expect(() => rotateHalves(even, even, even)).toThrow(
        'cos and sin should be (B or 1, 1, S, E) for x [1, 2, 3, 4]',
      );
    });
  });
});

describe('attendRow', () => {
  function exact(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | null): Tensor {
    const [B, H, , E] = q.shape as [number, number, number, number];
    const each = H / k.shape[1]!;
    const [queries, keys, values] = [
      q.to('float64'),
      k.to('float64').repeatInterleave(each, 1),
      v.to('float64').repeatInterleave(each, 1),
    ];
    let logits = queries.matmul(keys.transpose(2, 3)).div(Math.sqrt(E));
    if (mask) logits = logits.maskedFill(mask.not(), Number.NEGATIVE_INFINITY);
    return logits
      .softmax(-1)
      .matmul(values)
      .reshape([B, 1, H * E]);
  }

  test.each([
    ['bfloat16', 128, 12, 2, 270, 0.01],
    ['bfloat16', 256, 4, 4, 17, 0.01],
    ['bfloat16', 32, 6, 1, 1, 0.01],
    ['bfloat16', 48, 6, 2, 40, 0.02],
    ['float32', 64, 6, 2, 40, 1e-5],
  ] as const)('%s, heads of %i, %i over %i, %i positions', (dtype, size, heads, groups, positions, tolerance) => {
    inScope(() => {
      const q = randn([2, 1, heads, size]).to(dtype).transpose(1, 2);
      // Keys and values as the cache gives them: views into more room.
      const [k, v] = [0, 1].map(() =>
        randn([2, groups, positions + 9, size])
          .to(dtype)
          .narrow(2, 0, positions),
      ) as [Tensor, Tensor];
      expect(
        largest(
          attendRow(q, k, v)
            .to('float64')
            .sub(exact(q, k, v, null)),
        ),
      ).toBeLessThan(tolerance);
      const bytes = Uint8Array.from({ length: 2 * positions }, (_, i) => (i % 3 === 1 ? 0 : 1));
      const mask = fromBytes(bytes, 'bool', [2, 1, 1, positions]);
      if (positions > 1)
        expect(
          largest(
            attendRow(q, k, v, mask)
              .to('float64')
              .sub(exact(q, k, v, mask)),
          ),
        ).toBeLessThan(tolerance);
    });
  });

  test('more than one query row is refused', () => {
    inScope(() => {
      const x = randn([1, 2, 2, 32]);
      expect(() => attendRow(x, x, x)).toThrow(/attend_row/);
    });
  });

  // Without their own checks ATen divides by the number of key heads.
  test.each([
    ['no key heads', [1, 2, 1, 32], [1, 0, 3, 32], '2 query heads cannot share 0 key heads evenly'],
    ['key heads that do not divide', [1, 3, 1, 32], [1, 2, 3, 32], '3 query heads cannot share 2 key heads evenly'],
    ['no keys', [1, 2, 1, 32], [1, 2, 0, 32], 'there is nothing to attend to in keys [1, 2, 0, 32]'],
    ['empty heads', [1, 2, 1, 0], [1, 2, 3, 0], 'there is nothing to attend to in keys [1, 2, 3, 0]'],
    ['another batch', [2, 2, 1, 32], [1, 2, 3, 32], 'do not go with the query [2, 2, 1, 32]'],
    ['another head size', [1, 2, 1, 32], [1, 2, 3, 64], 'do not go with the query [1, 2, 1, 32]'],
  ])('%s', (_, query, keys, message) => {
    for (const dtype of ['bfloat16', 'float32'] as const)
      inScope(() => {
        const k = zeros(keys, { dtype });
        expect(() => attendRow(zeros(query, { dtype }), k, k)).toThrow(message);
      });
  });

  test('values of another length than the keys', () => {
    inScope(() => {
      const [q, k, v] = [zeros([1, 2, 1, 32]), zeros([1, 2, 3, 32]), zeros([1, 2, 4, 32])];
      expect(() => attendRow(q, k, v)).toThrow('keys [1, 2, 3, 32] and values [1, 2, 4, 32]');
    });
  });
});

describe('argmaxLast', () => {
  test.each(['bfloat16', 'float32'] as const)('%s: as ATen has it', (dtype) => {
    inScope(() => {
      for (const shape of [[1], [7], [3, 16], [2, 3, 33], [5, 70_001]]) {
        const x = randn(shape).to(dtype);
        expect(argmaxLast(x).toNumbers()).toEqual(x.argmax(-1).toNumbers());
        expect(argmaxLast(x).shape).toEqual(shape.slice(0, -1));
      }
      // Of equal ones the first; NaN before everything; infinities; views with gaps.
      for (const row of [
        [1, 3, 3, 2],
        [3, Number.NaN, Number.POSITIVE_INFINITY, Number.NaN],
        [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY],
        [Number.NEGATIVE_INFINITY, -1e30],
        [-0, 0],
      ]) {
        const x = tensor(row, { dtype });
        expect(argmaxLast(x).item()).toBe(x.argmax(-1).item());
      }
      const gaps = randn([4, 40]).to(dtype).transpose(0, 1);
      expect(argmaxLast(gaps).toNumbers()).toEqual(gaps.argmax(-1).toNumbers());
    });
  });

  test('nothing to choose from', () => {
    inScope(() => {
      for (const shape of [[], [3, 0]]) expect(() => argmaxLast(zeros(shape))).toThrow('argmax: x should have');
    });
  });
});
