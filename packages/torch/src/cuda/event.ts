import { native } from '../core/native.ts';

/** A mark in a GPU's work: comes when all that the current stream was given before record() is done. */
export class CudaEvent implements Disposable {
  #id: number;
  readonly #device: number;

  /** @param index N of `cuda:N`; `timed` events can be compared by secondsUntil() */
  constructor({ index = 0, timed = false }: { index?: number; timed?: boolean } = {}) {
    this.#device = index;
    this.#id = native.newEvent(timed);
  }

  /** Puts the mark at the end of what the current stream has been given. */
  record(): void {
    native.recordEvent(this.#id, this.#device);
  }
  /** Lets the current stream go on only when the event has come; does not wait itself. */
  holdStream(): void {
    native.waitForEvent(this.#id, this.#device);
  }
  /** Whether it has come; also true of one that was never recorded. */
  get done(): boolean {
    return native.eventDone(this.#id);
  }
  /** Waits until it has come. */
  synchronize(): void {
    native.synchronizeEvent(this.#id);
  }
  /** Seconds of the device from this to a later event; both timed, and come. */
  secondsUntil(later: CudaEvent): number {
    return native.eventSeconds(this.#id, later.#id);
  }

  [Symbol.dispose](): void {
    native.freeEvent(this.#id);
    this.#id = 0;
  }
}
