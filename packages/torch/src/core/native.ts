import { createRequire } from 'node:module';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import {
  explainLoading,
  findAddon,
  findLibtorch,
  type Libtorch,
  SetupError,
  setupCommand,
} from '../../native/setup.mjs';
import { makeError } from './errors.ts';

/** Anything with a handle number; tensors carry `id`. */
interface Handle {
  id: number;
}

/** The functions of native/addon.cpp. Handle numbers go out and come back; nothing here owns a tensor. */
interface Native {
  init(make: typeof makeError, collectGarbage: () => void): void;
  findOp(name: string, overload: string): [index: number, schema: string, kinds: string];
  callOp(index: number, ...args: unknown[]): unknown;
  allOps(): string[];
  tensorInfo(tensor: Handle, field: number): string | number;
  tensorShape(tensor: Handle, which: 0 | 1): number[];
  fromBytes(bytes: Uint8Array, dtype: string, shape: readonly number[]): number;
  shareBuffer(bytes: Uint8Array, dtype: string, shape: readonly number[]): number;
  copyBytes(tensor: Handle, into: Uint8Array): void;
  release(ids: Int32Array, count: number): void;
  watch(owner: Handle, id: number): void;
  sweep(): number;
  live(): [count: number, bytes: number];
  setRequiresGrad(tensor: Handle, value: boolean): void;
  getGrad(tensor: Handle): number;
  setGrad(tensor: Handle, grad: Handle | null): void;
  backward(tensors: Handle[], gradients: (Handle | null)[], retain: boolean, create: boolean): void;
  gradients(
    outputs: Handle[],
    inputs: Handle[],
    gradients: (Handle | null)[],
    retain: boolean,
    create: boolean,
    allowUnused: boolean,
  ): number[];
  setGradEnabled(value: boolean): boolean;
  inferenceMode(enter: boolean, on?: boolean): void;
  manualSeed(seed: number | bigint): void;
  rngState(which: string | number, state?: Handle): number | undefined;
  newGenerator(seed: number | bigint): number;
  freeGenerator(id: number): void;
  threads(count?: number): number;
  flushDenormal(value: boolean): boolean;
  cudaDevice(index: number): [name: string, major: number, minor: number];
  cudaMemory(
    index: number,
  ): [free: number, total: number, allocated: number, reserved: number, peakAllocated: number, peakReserved: number];
  cudaResetPeak(index: number): void;
  cudaEmptyCache(): void;
  cudaSynchronize(index: number): void;
  newStream(index: number): number;
  exchangeStream(id: number): number;
  synchronizeStream(id: number): void;
  freeStream(id: number): void;
  newEvent(timed: boolean): number;
  recordEvent(id: number, index: number): void;
  waitForEvent(id: number, index: number): void;
  eventDone(id: number): boolean;
  synchronizeEvent(id: number): void;
  eventSeconds(first: number, second: number): number;
  freeEvent(id: number): void;
  newGraph(index: number): number;
  beginCapture(id: number, poolOf: number): void;
  endCapture(id: number): void;
  replayGraph(id: number): void;
  freeGraph(id: number): void;
  allowTf32(on: boolean): void;
  deterministic(on: boolean): void;
  openStore(
    host: string,
    port: number,
    isServer: boolean,
    processes: number,
    timeout: number,
    prefix: string,
  ): [id: number, port: number];
  closeStore(id: number): void;
  storeSet(id: number, key: string, value: Uint8Array, timeout: number): void;
  storeGet(id: number, key: string, timeout: number): Uint8Array;
  storeAdd(id: number, key: string, amount: number): number;
  storeWait(id: number, keys: readonly string[], timeout: number): void;
  storeCheck(id: number, keys: readonly string[], timeout: number): boolean;
  storeDelete(id: number, key: string): boolean;
  openGroup(
    store: number,
    name: string,
    rank: number,
    size: number,
    backend: string,
    timeout: number,
    masterAddress: string,
    severalMachines: boolean,
  ): void;
  closeGroup(name: string, timeout: number): void;
  startGather(group: string, out: Handle, tensor: Handle, exchange: number, timeout: number): number;
  startReduceScatter(group: string, out: Handle, tensor: Handle, exchange: number, timeout: number): number;
  finishExchange(id: number): void;
  startSumOfPieces(
    group: string,
    tensors: readonly (Handle | null)[],
    offsets: readonly number[],
    lengths: readonly number[],
    part: number,
    out: Handle | null,
    add: boolean,
    exchange: number,
    timeout: number,
  ): number;
  finishSumOfPieces(id: number): void;
  newSharedMemory(bytes: number): number;
  mapSharedMemory(group: string, rank: number, files: readonly number[], partBytes: readonly number[]): number[] | null;
  closeSharedMemory(file: number): void;
  dropSharedBuffer(id: number): void;
  sharedPart(id: number, dtype: string, elements: number): number;
  attachSharedBuffer(id: number, tensor: Handle): void;
  startCopies(into: readonly Handle[], from: readonly Handle[]): number;
  copiesMade(id: number): boolean;
  finishCopies(id: number): void;
  describeMemory(group: string): string;
  canReadMemory(pid: number, address: string, number: string): boolean;
  setPeers(
    group: string,
    peers: readonly (readonly [pid: number, mailbox: string, reads: boolean, readsMine: boolean])[],
  ): void;
  bytesRead(): number;
  dieWithParent(parent: number): boolean;
  hasInput(fd: number): boolean;
  setBlocksFromSystem(on: boolean): void;
  setStorageBytes(tensor: Handle, bytes: number): void;
  setBlockPool(on: boolean, waitingBytes: number): void;
  buildInfo(): [version: string, cpuCapability: string, cuda: boolean, parallel: string, cudaDevices: number];
}

/**
 * How long OpenMP's threads spin while they wait for each other, before they sleep. Left alone, GNU's runtime (which PyTorch's wheels bring)
 * spins some ten milliseconds and Intel's 200: on a machine with other work the spinning takes the cores from the threads it waits for.
 * Not spinning at all makes an idle machine slower; bench/wait-policy.mjs measures both. The runtimes read this once, when they are loaded.
 */
function setWaitPolicy(): void {
  const { env } = process;
  if (env.OMP_WAIT_POLICY ?? env.GOMP_SPINCOUNT ?? env.KMP_BLOCKTIME) return;
  env.GOMP_SPINCOUNT = '3000'; // about a tenth of a millisecond
  env.KMP_BLOCKTIME = '1'; // milliseconds
}

function open(file: string, libtorch: Libtorch): Native {
  try {
    return createRequire(import.meta.url)(file) as Native;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_DLOPEN_FAILED') throw error;
    const reason = explainLoading((error as Error).message.split('\n')[0]!, libtorch.folder);
    throw new SetupError(
      `the addon does not load (${reason}): run \`${setupCommand()}\`, which looks for a libtorch that does`,
    );
  }
}

function addon(): { file: string; libtorch: Libtorch } {
  const found = findAddon();
  if (found) return found;
  const reason = findLibtorch() ? 'the addon is not built for this libtorch' : 'libtorch was not found';
  throw new SetupError(`${reason}: run \`${setupCommand()}\` once (it finds or fetches libtorch and builds the addon)`);
}

let gc: (() => void) | null = null;

/** V8 offers this to programs that were started with --expose-gc; the flag can be set later, too. */
function collectGarbage(): void {
  if (!gc) {
    setFlagsFromString('--expose-gc');
    gc = runInNewContext('gc') as () => void;
    setFlagsFromString('--no-expose-gc');
  }
  gc();
}

/** Loads the addon and replaces the placeholder in `native`, whose first use led here, by the addon's functions. */
function load(): Native {
  const { file, libtorch } = addon();
  setWaitPolicy();
  const loaded = open(file, libtorch);
  loaded.init(makeError, collectGarbage);
  Object.setPrototypeOf(native, Object.prototype);
  return Object.assign(native, loaded);
}

/** Loaded when one of its functions is first asked for, so that a program without libtorch can still do what needs no tensors. */
export const native: Native = Object.create(new Proxy({}, { get: (_, name) => Reflect.get(load(), name) }));

/** Where the libtorch in use was found. @throws SetupError when there is none */
export function libtorchSource(): Libtorch {
  return addon().libtorch;
}
