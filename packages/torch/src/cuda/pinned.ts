import type { DType } from '../core/dtype.ts';
import { op } from '../core/op.ts';
import type { Tensor } from '../core/tensor.ts';

const empty = () => op('aten::empty', 'memory_format');
const copy = () => op('aten::copy_');

/**
 * A CPU tensor in memory that the system keeps in its place, which GPUs read and write while the CPU goes on. Taking and giving back such memory is
 * slow: keep it. The values are whatever was there.
 */
export function pinnedEmpty(shape: readonly number[], dtype: DType = 'float32'): Tensor {
  return empty()(shape, dtype, null, 'cpu', true) as Tensor;
}

/**
 * Starts copying and returns at once where one side is a GPU and the other pinned memory; elsewhere the same as `target.copy_(source)`. Neither
 * may be changed, nor a copy on the CPU read, before an event recorded afterwards has come.
 */
export function copyAhead(target: Tensor, source: Tensor): void {
  copy()(target, source, true);
}
