/** The generated functions: complete, up to date, quick to compile, and each argument where the schema has it. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { afterEach, expect, test } from 'vitest';
import {
  arange,
  liveTensorCount,
  ones,
  operatorSchemas,
  scope,
  setNumThreads,
  Tensor,
  tensor,
  torchVersion,
  zeros,
} from './index.ts';
import * as ops from './ops.gen.ts';

setNumThreads(1);
const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

const folder = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const functions = ops as unknown as Record<string, unknown>;

/** `aten::add.Tensor(...)` -> `add_Tensor` */
function functionName(schema: string): string {
  const [namespace, rest] = schema.slice(0, schema.indexOf('(')).split('::') as [string, string];
  const flat = rest.replace('.', '_');
  return namespace === 'aten' ? flat : `${namespace}__${flat}`;
}

test('ops.gen.ts is what the generator writes from the schemas', () => {
  const result = spawnSync(process.execPath, [folder('../codegen/generate.mjs'), '--check'], { encoding: 'utf8' });
  expect(result.stderr).toBe('');
  expect(result.status).toBe(0);
});

test.runIf(torchVersion() === '2.13.0')('the schemas are those of the linked libtorch', () => {
  const stored = readFileSync(folder('../schemas/libtorch-2.13.0.txt'), 'utf8').trim().split('\n');
  expect(operatorSchemas()).toEqual(stored);
});

test('every op with a fixed number of arguments has a function', () => {
  const fixed = operatorSchemas().filter((schema) => !schema.includes('...'));
  expect(fixed.length).toBeGreaterThan(3000);
  const known = (name: string) => typeof functions[name] === 'function' || typeof functions[`${name}$`] === 'function';
  const missing = fixed.map(functionName).filter((name) => !known(name));
  // Another libtorch may have a few ops more.
  expect(torchVersion() === '2.13.0' ? missing : missing.slice(200)).toEqual([]);
});

test('the types compile in less than 20 seconds of processor time', () => {
  // In this process, so that a busy machine does not count: only time spent on it does.
  const started = process.cpuUsage();
  const program = ts.createProgram([folder('ops.gen.ts')], {
    noEmit: true,
    strict: true,
    skipLibCheck: true,
    allowImportingTsExtensions: true,
    module: ts.ModuleKind.NodeNext,
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'],
    types: ['node'],
  });
  const problems = ts
    .getPreEmitDiagnostics(program)
    .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, ' '));
  const { user, system } = process.cpuUsage(started);
  expect(problems).toEqual([]);
  expect((user + system) / 1e6).toBeLessThan(20);
});

const x = () => tensor([1, -2, 3, -4], { shape: [2, 2] });
const long = (...values: number[]) => tensor(values, { dtype: 'int64' });

const SAMPLE: [string, () => unknown, unknown][] = [
  [
    'add.Tensor with alpha',
    () => ops.add_Tensor(x(), x(), 0.5),
    [
      [1.5, -3],
      [4.5, -6],
    ],
  ],
  [
    'relu',
    () => ops.relu(x()),
    [
      [1, 0],
      [3, 0],
    ],
  ],
  [
    'clamp with one bound',
    () => ops.clamp(x(), null, 0),
    [
      [0, -2],
      [0, -4],
    ],
  ],
  ['round, half to even', () => ops.round(tensor([0.5, 1.5, -0.5, 2.5])), [0, 2, -0, 2]],
  ['lerp', () => ops.lerp_Scalar(zeros([2]), ones([2]), 0.25), [0.25, 0.25]],
  [
    'addmm with beta and alpha',
    () => ops.addmm(ones([2, 2]), x(), x(), 2, 10),
    [
      [-48, 62],
      [-88, 102],
    ],
  ],
  [
    'einsum: string and list',
    () => ops.einsum('ij,jk->ik', [x(), x()]),
    [
      [-5, 6],
      [-9, 10],
    ],
  ],
  [
    'outer',
    () => ops.outer(tensor([1, 2]), tensor([3, 4])),
    [
      [3, 4],
      [6, 8],
    ],
  ],
  [
    'kron',
    () => ops.kron(tensor([[1, 2]]), tensor([[1], [3]])),
    [
      [1, 2],
      [3, 6],
    ],
  ],
  ['trace', () => ops.trace(x()), -3],
  ['bincount with weights', () => ops.bincount(long(0, 2, 2), tensor([1, 2, 3]), 4), [1, 0, 5, 0]],
  [
    'one_hot',
    () => ops.one_hot(long(2, 0), 3),
    [
      [0, 0, 1],
      [1, 0, 0],
    ],
  ],
  ['nonzero', () => ops.nonzero(tensor([0, 5, 0, 7])), [[1], [3]]],
  ['index: a list with nulls', () => ops.index_Tensor(x(), [null, long(1)]), [[-2], [-4]]],
  ['index_put, accumulating', () => ops.index_put(zeros([3]), [long(1, 1)], tensor([2, 3]), true), [0, 5, 0]],
  ['masked_select', () => ops.masked_select(x(), x().lt(0)), [-2, -4]],
  [
    'where',
    () => ops.where_self(x().gt(0), x(), zeros([1])),
    [
      [1, 0],
      [3, 0],
    ],
  ],
  ['searchsorted, right', () => ops.searchsorted_Tensor(tensor([1, 3, 5]), tensor([3, 6]), false, true), [2, 3]],
  ['sum over a list of dims, into another dtype', () => ops.sum_dim_IntList(x(), [0, 1], true, 'int64'), [[-2]]],
  [
    'sort, two results',
    () => ops.sort(x(), 1, true),
    [
      [
        [1, -2],
        [3, -4],
      ],
      [
        [0, 1],
        [0, 1],
      ],
    ],
  ],
  [
    'max along a dim',
    () => ops.max_dim(x(), 1),
    [
      [1, 3],
      [0, 0],
    ],
  ],
  ['aminmax', () => ops.aminmax(x()), [-4, 3]],
  [
    'var_mean without correction',
    () => ops.var_mean_correction(x(), [1], 0),
    [
      [2.25, 12.25],
      [-0.5, -0.5],
    ],
  ],
  [
    'unique_consecutive, three results',
    () => ops.unique_consecutive(long(1, 1, 2, 1), true, true),
    [
      [1, 2, 1],
      [0, 0, 1, 2],
      [2, 1, 1],
    ],
  ],
  [
    'native_layer_norm',
    () => ops.native_layer_norm(tensor([[1, 3]]), [2], null, null, 0).map((t) => t.tolist()),
    [[[-1, 1]], [[2]], [[1]]],
  ],
  ['split: a list of tensors', () => ops.split_Tensor(arange(0, 5, 1), 2), [[0, 1], [2, 3], [4]]],
  [
    'unbind',
    () => ops.unbind_int(x(), 1),
    [
      [1, 3],
      [-2, -4],
    ],
  ],
  ['meshgrid: string argument', () => ops.meshgrid_indexing([long(1, 2), long(3)], 'xy'), [[[1, 2]], [[3, 3]]]],
  ['pad: string with default', () => ops.pad(tensor([1, 2]), [1, 0], 'constant', 9), [9, 1, 2]],
  ['conv1d: one number for a list', () => ops.conv1d(ones([1, 1, 5]), ones([1, 1, 3]), null, 2, 1), [[[2, 3, 2]]]],
  ['layer_norm: default eps', () => ops.layer_norm(zeros([1, 2]), [2], null, ones([2])), [[1, 1]]],
  [
    'upsample_bilinear2d: a required boolean',
    () => ops.upsample_bilinear2d(tensor([[[[0, 1]]]]), [1, 3], true),
    [[[[0, 0.5, 1]]]],
  ],
  ['cdist', () => ops.cdist(tensor([[0, 0]]), tensor([[3, 4]])), [[5]]],
  [
    'linalg_solve',
    () =>
      ops.linalg_solve(
        tensor([
          [2, 0],
          [0, 4],
        ]),
        tensor([1, 1]),
      ),
    [0.5, 0.25],
  ],
  ['hann_window: dtype by keyword', () => ops.hann_window(2, 'float64'), [0, 1]],
  ['promote_types: a dtype comes back by name', () => ops.promote_types('int32', 'float16'), 'float16'],
  [
    'can_cast: booleans come back',
    () => [ops.can_cast('float32', 'int64'), ops.can_cast('int64', 'float32')],
    [false, true],
  ],
  ['equal and allclose', () => [ops.equal(x(), x()), ops.allclose(x(), x().add(0.1), 0, 0.2)], [true, true]],
  ['size: an integer comes back', () => ops.size_int(zeros([3, 7]), -1), 7],
  ['item: a number comes back', () => ops.item(tensor([2.5])), 2.5],
];

/** Tensors as nested numbers, lists and tuples as lists of them. */
function plain(value: unknown): unknown {
  if (value instanceof Tensor) return value.tolist();
  return Array.isArray(value) ? value.map(plain) : value;
}

test.each(SAMPLE)('%s', (_, run, wanted) => {
  scope(() => expect(plain(run())).toEqual(wanted));
});

test('in-place and out variants return the tensor they wrote', () => {
  scope(() => {
    const target = zeros([2]);
    expect(ops.add__Tensor(target, ones([2]), 3)).toBe(target);
    expect(ops.add_out(ones([2]), ones([2]), undefined, target)).toBe(target);
    expect(target.tolist()).toEqual([2, 2]);
  });
});

test('results that depend on rounding', () => {
  scope(() => {
    expect(ops.logsumexp(zeros([4]), 0).item()).toBeCloseTo(Math.log(4), 6);
    const [u, s, v] = ops.linalg_svd(x(), false);
    const back = u.mul(s).matmul(v);
    back.toNumbers().forEach((value, i) => {
      expect(value).toBeCloseTo([1, -2, 3, -4][i]!, 5);
    });
    const spectrum = ops.view_as_real(ops.fft_rfft(tensor([1, 0, 0, 0])));
    expect(spectrum.tolist()).toEqual(Array.from({ length: 3 }, () => [1, 0]));
  });
});
