import { native } from '../core/native.ts';

/** A queue of a GPU's work beside its default one; what different streams do runs in any order, unless an event orders it. */
export class CudaStream implements Disposable {
  #id: number;

  /** @param index N of `cuda:N` */
  constructor(index = 0) {
    this.#id = native.newStream(index);
  }

  /** Gives `body`'s work to this stream. `body` must be synchronous. */
  run<T>(body: () => T): T {
    const before = native.exchangeStream(this.#id);
    try {
      return body();
    } finally {
      native.freeStream(native.exchangeStream(before));
      native.freeStream(before);
    }
  }

  /** Waits until the stream has done all that it was given. */
  synchronize(): void {
    native.synchronizeStream(this.#id);
  }

  [Symbol.dispose](): void {
    native.freeStream(this.#id);
    this.#id = 0;
  }
}
