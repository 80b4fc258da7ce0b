import { noteUpload } from '../core/crossings.ts';
import type { Device } from '../core/dtype.ts';
import { op } from '../core/op.ts';
import { keep } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import { CudaEvent } from './event.ts';
import { copyAhead, pinnedEmpty } from './pinned.ts';

/** Pinned memory of one upload at a time. */
interface Stage {
  /** uint8 */
  memory: Tensor;
  /** Comes when the GPU has read the memory, which may then be written again. */
  read: CudaEvent;
}

/** Ids, positions and masks of a step are smaller; larger uploads are rare enough to wait for. */
const STAGE_BYTES = 1 << 16;
const STAGES = 16;

/** Of each device, the longest unused first. */
const stages = new Map<Device, Stage[]>();

const empty = () => op('aten::empty', 'memory_format');

/**
 * A tensor that was made on the CPU, on `device`: itself on the CPU. To a GPU small ones go by way of kept pinned memory, so that nobody waits for
 * what the GPU was given before.
 */
export function toDevice(made: Tensor, device: Device): Tensor {
  noteUpload();
  if (device === 'cpu') return made;
  const bytes = made.nbytes;
  if (bytes === 0 || bytes > STAGE_BYTES) return op('aten::to', 'dtype_layout')(made, null, null, device) as Tensor;
  const { memory, read } = takeStage(device);
  const { dtype, shape } = made;
  const staged = memory.narrow(0, 0, bytes).viewAs(dtype).view(shape);
  staged.copy_(made);
  const sent = empty()(shape, dtype, null, device) as Tensor;
  copyAhead(sent, staged);
  read.record();
  return sent;
}

function takeStage(device: Device): Stage {
  const own = stages.get(device) ?? [];
  stages.set(device, own);
  const oldest = own[0];
  let stage: Stage;
  if (oldest && (oldest.read.done || own.length === STAGES)) {
    stage = own.shift()!;
    stage.read.synchronize();
  } else {
    const index = Number(device.split(':')[1] ?? 0);
    stage = { memory: keep(pinnedEmpty([STAGE_BYTES], 'uint8')), read: new CudaEvent({ index }) };
  }
  own.push(stage);
  return stage;
}
