import { native } from './native.ts';

/** Threads that one op may use. */
export function getNumThreads(): number {
  return native.threads();
}
export function setNumThreads(count: number): void {
  native.threads(count);
}

/** Treats denormal floats as zero on this CPU; returns whether the CPU can. */
export function setFlushDenormal(on: boolean): boolean {
  return native.flushDenormal(on);
}

/** Version the addon was built against, e.g. `2.13.0`. */
export function torchVersion(): string {
  return native.buildInfo()[0];
}
/** The widest vector instructions ATen uses here, e.g. `AVX512`. */
export function cpuCapability(): string {
  return native.buildInfo()[1];
}
/**
 * Lets products of float32 matrices on a GPU round their factors to 10 bits (TF32), several times as fast on cards that have it. Off at first for
 * products, on for convolutions, as in PyTorch; this sets both. No effect on the CPU.
 */
export function setAllowTf32(on: boolean): void {
  native.allowTf32(on);
}

/**
 * With `on`, an op gives the same bits each time it is given the same, and one that has no such form on the device throws. On a GPU cuBLAS needs the
 * environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8 for it, which this sets when nobody has, and which works before the GPU is first used.
 */
export function setDeterministic(on: boolean): void {
  if (on) process.env.CUBLAS_WORKSPACE_CONFIG ??= ':4096:8';
  native.deterministic(on);
}

/** libtorch's own description of its threading. */
export function parallelInfo(): string {
  return native.buildInfo()[3];
}
