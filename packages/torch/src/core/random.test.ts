/** Random numbers and process-wide settings. */
import { afterAll, afterEach, expect, test } from 'vitest';
import { cudaAvailable } from '../cuda/index.ts';
import * as ops from '../ops.gen.ts';
import {
  cpuCapability,
  Generator,
  getNumThreads,
  getRngState,
  libtorchSource,
  liveTensorCount,
  manualSeed,
  parallelInfo,
  rand,
  randn,
  randperm,
  scope,
  setNumThreads,
  setRngState,
  type Tensor,
  torchVersion,
  zeros,
} from './index.ts';

const threads = getNumThreads();
setNumThreads(1);
afterAll(() => setNumThreads(threads));
const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

const check = (body: () => void) => () => scope(body);

test(
  'the same numbers as Python after the same seed',
  check(() => {
    manualSeed(0);
    // torch.manual_seed(0); torch.randn(3)
    randn([3])
      .toNumbers()
      .forEach((value, i) => {
        expect(value).toBeCloseTo([1.5409960746765137, -0.293428897857666, -2.1787893772125244][i]!, 6);
      });
    manualSeed(2n ** 62n);
    const first = rand([5]).toNumbers();
    manualSeed(2n ** 62n);
    expect(rand([5]).toNumbers()).toEqual(first);
    manualSeed(1);
    expect(rand([5]).toNumbers()).not.toEqual(first);
  }),
);

test(
  'a saved state goes on bit by bit',
  check(() => {
    manualSeed(5);
    randn([7]); // an odd count: half of a pair of normal numbers stays in the state
    const state = getRngState();
    expect(state.dtype).toBe('uint8');
    const draw = () => [...randn([3]).toNumbers(), ...rand([20]).toNumbers(), ...randperm(9).toNumbers()];
    const first = draw();
    const second = draw();
    setRngState(state);
    expect(draw()).toEqual(first);
    expect(draw()).toEqual(second);
  }),
);

test(
  'generators of their own',
  check(() => {
    const draw = (generator: Generator) => (ops.rand_generator([4], generator) as Tensor).toNumbers();
    const a = new Generator(3);
    const b = new Generator(3);
    manualSeed(11);
    const global = rand([4]).toNumbers();
    manualSeed(11);
    const first = draw(a);
    expect(rand([4]).toNumbers()).toEqual(global); // the default generator did not move
    expect(draw(b)).toEqual(first);
    const state = a.state;
    const second = draw(a);
    expect(second).not.toEqual(first);
    b.state = state;
    expect(draw(b)).toEqual(second);
    expect(draw(new Generator(4))).not.toEqual(first);
  }),
);

test(
  'wrong states, devices and seeds',
  check(() => {
    expect(() => setRngState(zeros([3]))).toThrow(/rngState: .*ByteTensor/);
    expect(() => setRngState(zeros([3], { dtype: 'uint8' }))).toThrow(/rngState: /);
    expect(() => getRngState('nowhere')).toThrow(/rngState: .*nowhere/);
    expect(() => manualSeed('x' as unknown as number)).toThrow('manualSeed: expected an integer, got a string');
    expect(() => manualSeed(1.5)).toThrow(/manualSeed: expected an integer/);
    expect(() => ops.rand_generator([4], {} as Generator)).toThrow(/argument 'generator'.*expected a Generator/);
    if (!cudaAvailable()) expect(() => getRngState('cuda')).toThrow(/rngState: .*(CUDA|NVIDIA)/);
    manualSeed(1); // still alive
  }),
);

test('thread count', () => {
  setNumThreads(2);
  expect(getNumThreads()).toBe(2);
  setNumThreads(1);
  expect(getNumThreads()).toBe(1);
  expect(() => setNumThreads(0)).toThrow('setNumThreads: the thread count is 1 to 4096');
  expect(() => setNumThreads(1.5)).toThrow(/expected an integer/);
  expect(getNumThreads()).toBe(1);
});

test('what this libtorch is', () => {
  expect(torchVersion()).toMatch(/^2\.1[1-4]\.\d/);
  expect(libtorchSource().version).toBe(torchVersion().replace(/[a+].*$/, ''));
  expect(cpuCapability()).toMatch(/^\w+/);
  expect(parallelInfo()).toContain('threads');
});
