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
export function cudaAvailable(): boolean {
  return native.buildInfo()[2];
}
/** GPUs that `cuda:N` can name; 0 without CUDA. Sets none of them up. */
export function cudaDeviceCount(): number {
  return native.buildInfo()[4];
}
/** libtorch's own description of its threading. */
export function parallelInfo(): string {
  return native.buildInfo()[3];
}
