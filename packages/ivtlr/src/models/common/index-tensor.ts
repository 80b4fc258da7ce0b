import { type Device, type Tensor, tensor, toDevice } from '@ivtlr/torch';

/** (n) int64 on `device`: ids, positions or indices. */
export function indexTensor(values: readonly number[], device: Device): Tensor {
  return toDevice(tensor(BigInt64Array.from(values, BigInt)), device);
}
