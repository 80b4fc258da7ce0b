import { expect, test } from 'vitest';
import {
  availableMemory,
  CudaEvent,
  CudaGraph,
  CudaStream,
  call,
  copyAhead,
  cudaAvailable,
  cudaDevice,
  cudaDeviceCount,
  cudaEmptyCache,
  cudaMemory,
  cudaResetPeakMemory,
  cudaSynchronize,
  empty,
  full,
  Generator,
  getRngState,
  keep,
  liveTensorCount,
  manualSeed,
  OutOfMemoryError,
  ones,
  pinnedEmpty,
  rand,
  scope,
  setAllowTf32,
  setDeterministic,
  setRngState,
  TorchError,
  tensor,
  zeros,
} from '../index.ts';

const gpu = cudaAvailable();

test('memory that the CPU lacks: how much was asked for, and the process goes on', () => {
  expect(() => zeros([2 ** 45])).toThrow(OutOfMemoryError);
  expect(() => zeros([2 ** 45])).toThrow(/^aten::zeros: .*tried to allocate 140737488355328 bytes/);
  expect(new OutOfMemoryError('', '')).toBeInstanceOf(TorchError);
  expect(scope(() => ones([3]).sum().item())).toBe(3);
});

test('memory of the CPU that can be had', () => {
  expect(availableMemory('cpu')).toBeGreaterThan(2 ** 20);
});

test('the switches take both positions', () => {
  const put = () => scope(() => void call('aten::put_', '', zeros([4]), tensor([1n]), ones([1]), false));
  try {
    setDeterministic(true);
    expect(process.env.CUBLAS_WORKSPACE_CONFIG).toBe(':4096:8');
    expect(put).toThrow(/put_ does not have a deterministic implementation/);
  } finally {
    setDeterministic(false);
  }
  put();
  setAllowTf32(true);
  setAllowTf32(false);
});

test.skipIf(gpu)('without a GPU everything says that there is none', () => {
  expect(cudaDeviceCount()).toBe(0);
  const attempts: [string, () => unknown][] = [
    ['cudaDevice', () => cudaDevice()],
    ['cudaMemory', () => cudaMemory()],
    ['cudaMemory', () => availableMemory('cuda:0')],
    ['cudaResetPeakMemory', () => cudaResetPeakMemory()],
    ['cudaEmptyCache', () => cudaEmptyCache()],
    ['cudaSynchronize', () => cudaSynchronize()],
    ['Stream', () => new CudaStream()],
    ['Event', () => new CudaEvent()],
    ['Graph', () => new CudaGraph()],
    ['aten::empty.memory_format', () => pinnedEmpty([2])],
  ];
  for (const [name, attempt] of attempts) {
    expect(attempt).toThrow(TorchError);
    expect(attempt, name).toThrow(new RegExp(`^${name}: .*(CUDA|NVIDIA)`, 'i'));
  }
});

test('copying ahead on the CPU copies', () => {
  scope(() => {
    const target = zeros([3]);
    copyAhead(target, tensor([1, 2, 3]));
    expect(target.toNumbers()).toEqual([1, 2, 3]);
  });
});

test.skipIf(!gpu)('device and memory', () => {
  const { name, capability } = cudaDevice();
  expect(name).toMatch(/\w/);
  expect(capability[0]).toBeGreaterThanOrEqual(5);
  expect(() => cudaDevice(cudaDeviceCount())).toThrow(/there is no cuda:/);
  cudaEmptyCache();
  cudaResetPeakMemory();
  const before = cudaMemory();
  expect(before.total).toBeGreaterThan(before.free);
  scope(() => {
    empty([2 ** 20], { device: 'cuda' });
    expect(cudaMemory().allocated - before.allocated).toBe(2 ** 22);
  });
  expect(cudaMemory().allocated).toBe(before.allocated);
  expect(cudaMemory().peakAllocated - before.allocated).toBeGreaterThanOrEqual(2 ** 22);
});

test.skipIf(!gpu)('memory that the GPU lacks: what was asked for and what was free, and the process goes on', () => {
  const attempt = () => empty([cudaMemory().total], { device: 'cuda' });
  expect(attempt).toThrow(OutOfMemoryError);
  expect(attempt).toThrow(/Tried to allocate .*is free\.$/);
  expect(scope(() => ones([3], { device: 'cuda' }).sum().item())).toBe(3);
});

test.skipIf(!gpu)('tensors that are dropped without a scope do not fill the GPU', () => {
  const { total } = cudaMemory();
  let most = 0;
  for (let given = 0; given < 3 * total; given += 2 ** 28) {
    empty([2 ** 26], { device: 'cuda' });
    most = Math.max(most, cudaMemory().allocated);
  }
  expect(most).toBeLessThan(3 * 2 ** 30);
});

test.skipIf(!gpu)('streams and events order work', () => {
  using stream = new CudaStream();
  using first = new CudaEvent({ timed: true });
  using last = new CudaEvent({ timed: true });
  scope(() => {
    const x = rand([1024, 1024], { device: 'cuda' });
    first.record();
    const y = stream.run(() => {
      first.holdStream();
      const product = x.matmul(x);
      last.record();
      return product;
    });
    last.holdStream();
    expect(y.sub(x.matmul(x)).abs().max().item()).toBe(0);
    stream.synchronize();
    last.synchronize();
    expect(last.done).toBe(true);
    expect(first.secondsUntil(last)).toBeGreaterThan(0);
  });
});

test.skipIf(!gpu)('pinned memory is copied while the CPU goes on', () => {
  using host = pinnedEmpty([1000]);
  using back = pinnedEmpty([1000]);
  using event = new CudaEvent();
  scope(() => {
    host.fill_(7);
    const device = empty([1000], { device: 'cuda' });
    copyAhead(device, host);
    copyAhead(back, device.add(1));
    event.record();
    event.synchronize();
    expect(back.sum().item()).toBe(8000);
  });
});

test.skipIf(!gpu)('a graph does again what was recorded, with what its inputs hold then', () => {
  const before = liveTensorCount();
  const x = keep(full([4], 1, { device: 'cuda' }));
  scope(() => x.mul(2).add(1)); // loads the kernels
  cudaSynchronize();
  {
    using graph = new CudaGraph();
    const y = keep(graph.capture(() => x.mul(2).add(1)));
    using second = new CudaGraph({ pool: graph });
    const z = keep(second.capture(() => y.mul(10)));
    for (const value of [1, 5, -3]) {
      x.fill_(value);
      graph.replay();
      second.replay();
      expect(y.toNumbers()).toEqual(new Array(4).fill(2 * value + 1));
      expect(z.toNumbers()).toEqual(new Array(4).fill(20 * value + 10));
    }
    y.dispose();
    z.dispose();
    // Reading a value cannot be recorded; the process goes on.
    using refused = new CudaGraph();
    expect(() => refused.capture(() => x.sum().item())).toThrow(TorchError);
  }
  expect(scope(() => x.sum().item())).toBe(-12);
  x.dispose();
  expect(liveTensorCount()).toBe(before);
});

test.skipIf(!gpu)('random numbers of the GPU go on from a saved state', () => {
  manualSeed(3);
  using state = getRngState('cuda:0');
  using first = rand([10], { device: 'cuda' });
  setRngState(state, 'cuda:0');
  using again = rand([10], { device: 'cuda' });
  expect(again.toNumbers()).toEqual(first.toNumbers());
  expect(new Generator(1).generatorId).toBeGreaterThan(0);
});
