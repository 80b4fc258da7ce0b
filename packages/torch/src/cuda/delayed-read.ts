import type { DType } from '../core/dtype.ts';
import { keep } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import { CudaEvent } from './event.ts';
import { copyAhead, pinnedEmpty } from './pinned.ts';

/** Pinned memory that a GPU writes one read into. */
interface Landing {
  memory: Tensor;
  written: CudaEvent;
}

/** Not in use now, by device and dtype. */
const idle = new Map<string, Landing[]>();

/**
 * A read that was asked for: a GPU copies the values to kept pinned memory when it comes to it, and goes on. `finish` waits for that copy alone, not
 * for what the GPU was given since.
 */
export class DelayedRead {
  readonly #size: number;
  readonly #key: string = '';
  /** On the CPU. */
  #values: Tensor | null = null;
  #landing: Landing | null = null;

  /** @param values_n one-dimensional; on the CPU it must stay as it is until it is read */
  constructor(values_n: Tensor) {
    const { device, dtype } = values_n;
    this.#size = values_n.numel;
    if (device === 'cpu') {
      this.#values = keep(values_n.slice(0));
      return;
    }
    this.#key = `${device} ${dtype}`;
    this.#landing = takeLanding(this.#key, device, dtype, this.#size);
    copyAhead(this.#landing.memory.narrow(0, 0, this.#size), values_n);
    this.#landing.written.record();
  }

  /** The values, as Tensor.toNumbers gives them. Once. */
  finish(): number[] {
    this.#landing?.written.synchronize();
    using landed = this.#landing?.memory.narrow(0, 0, this.#size);
    const numbers = (landed ?? this.#values!).toNumbers();
    this.dispose();
    return numbers;
  }

  dispose(): void {
    this.#values?.dispose();
    this.#values = null;
    if (!this.#landing) return;
    // A copy that is still to come must not meet the next read's.
    this.#landing.written.synchronize();
    const others = idle.get(this.#key);
    if (others) others.push(this.#landing);
    else idle.set(this.#key, [this.#landing]);
    this.#landing = null;
  }
}

function takeLanding(key: string, device: string, dtype: DType, size: number): Landing {
  const others = idle.get(key) ?? [];
  const fits = others.findIndex(({ memory }) => memory.numel >= size);
  if (fits >= 0) return others.splice(fits, 1)[0]!;
  // In place of one that has become too small.
  const small = others.pop();
  small?.memory.dispose();
  const written = small?.written ?? new CudaEvent({ index: Number(device.split(':')[1] ?? 0) });
  return { memory: keep(pinnedEmpty([2 ** Math.ceil(Math.log2(Math.max(size, 256)))], dtype)), written };
}
