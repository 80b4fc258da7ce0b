import type { Device } from '../core/dtype.ts';
import { keep, scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import { CudaEvent } from './event.ts';
import { copyAhead, pinnedEmpty } from './pinned.ts';

/** Memory on the CPU that pieces leave from, and the mark that says when the GPU has read it. */
export interface Stage {
  /** uint8, one-dimensional */
  memory: Tensor;
  read: Pick<CudaEvent, 'record' | 'synchronize'> & Disposable;
}

export type MakeStage = (bytes: number, device: Device) => Stage;

const pinnedStage: MakeStage = (bytes, device) => ({
  memory: keep(pinnedEmpty([bytes], 'uint8')),
  read: new CudaEvent({ index: Number(device.split(':')[1] ?? 0) }),
});

const STAGES = 2;

/**
 * Copies of large pieces from the CPU to a GPU, of which the next one can be read from its file while the last one is on its way: each goes by way of
 * one of two pinned pieces of memory, in turn. What was copied may be changed at once; the targets are complete for whatever the current stream does
 * afterwards.
 */
export class StagedCopies implements Disposable {
  readonly #device: Device;
  readonly #bytes: number;
  readonly #make: MakeStage;
  readonly #stages: Stage[] = [];
  #copies = 0;

  /** @param bytes of the largest piece; memory is taken with the first one */
  constructor(device: Device, bytes: number, make: MakeStage = pinnedStage) {
    this.#device = device;
    this.#bytes = bytes;
    this.#make = make;
  }

  /** Fills `target`, contiguous and of any dtype, with `source`, contiguous, on the CPU and of as many elements. @throws RangeError for more bytes than a piece has */
  copy(target: Tensor, source: Tensor): void {
    if (source.nbytes > this.#bytes)
      throw new RangeError(`a piece has at most ${this.#bytes} bytes, not ${source.nbytes}`);
    if (source.nbytes === 0) return;
    const at = this.#copies++ % STAGES;
    let stage = this.#stages[at];
    if (stage) stage.read.synchronize();
    else {
      stage = this.#make(this.#bytes, this.#device);
      this.#stages[at] = stage;
    }
    const { memory, read } = stage;
    scope(() => {
      const staged = memory.narrow(0, 0, source.nbytes).viewAs(source.dtype).view(source.shape);
      staged.copy_(source);
      copyAhead(target, staged);
    });
    read.record();
  }

  /** Waits for what is on its way. */
  [Symbol.dispose](): void {
    for (const { memory, read } of this.#stages.splice(0)) {
      read.synchronize();
      read[Symbol.dispose]();
      memory.dispose();
    }
  }
}
