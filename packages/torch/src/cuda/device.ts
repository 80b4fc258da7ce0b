/** The GPUs: what each is and what its memory holds. Every function but the first two throws a TorchError where there is no such GPU. */
import type { Device } from '../core/dtype.ts';
import { native } from '../core/native.ts';

/** Whether this libtorch has CUDA and a GPU to use. */
export function cudaAvailable(): boolean {
  return native.buildInfo()[2];
}

/** GPUs that `cuda:N` can name; 0 without CUDA. Sets none of them up. */
export function cudaDeviceCount(): number {
  return native.buildInfo()[4];
}

export interface CudaDevice {
  /** As the driver names it, e.g. `NVIDIA H100 80GB HBM3`. */
  name: string;
  /** Compute capability, e.g. [9, 0]. */
  capability: [major: number, minor: number];
}

/** @param index N of `cuda:N` */
export function cudaDevice(index = 0): CudaDevice {
  const [name, major, minor] = native.cudaDevice(index);
  return { name, capability: [major, minor] };
}

/** Bytes of a GPU's memory. */
export interface CudaMemory {
  /** That no process holds. */
  free: number;
  /** Of the whole device. */
  total: number;
  /** Of this process's tensors. */
  allocated: number;
  /** What this process has taken from the device: tensors, and memory of freed ones that is kept for the next. */
  reserved: number;
  /** The most of both since the start, or since cudaResetPeakMemory(). */
  peakAllocated: number;
  peakReserved: number;
}

export function cudaMemory(index = 0): CudaMemory {
  const [free, total, allocated, reserved, peakAllocated, peakReserved] = native.cudaMemory(index);
  return { free, total, allocated, reserved, peakAllocated, peakReserved };
}

export function cudaResetPeakMemory(index = 0): void {
  native.cudaResetPeak(index);
}

/** Gives memory of freed tensors back to the devices, for other processes. */
export function cudaEmptyCache(): void {
  native.cudaEmptyCache();
}

/** Waits until a GPU has done all that it was given. */
export function cudaSynchronize(index = 0): void {
  native.cudaSynchronize(index);
}

/** Bytes that new tensors can take on a device: what nobody holds, and on a GPU what this process keeps of freed ones. */
export function availableMemory(device: Device): number {
  if (device === 'cpu') return process.availableMemory();
  const { free, allocated, reserved } = cudaMemory(Number(device.split(':')[1] ?? 0));
  return free + reserved - allocated;
}
