import { type Device, type Tensor, tensor } from '@ivtlr/torch';

/** (n) int64 on `device`: ids, positions or indices. */
export function indexTensor(values: readonly number[], device: Device): Tensor {
  const made = tensor(BigInt64Array.from(values, BigInt));
  return device === 'cpu' ? made : made.to({ device });
}
