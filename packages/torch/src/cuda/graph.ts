import { native } from '../core/native.ts';
import { CudaStream } from './stream.ts';

/**
 * Work of a GPU that was recorded once and is given to it again in one call. It reads and writes the same memory each time: inputs are copied into the
 * tensors that were read while it was recorded, outputs are found in those that were made then.
 */
export class CudaGraph implements Disposable {
  #id: number;
  readonly #stream: CudaStream;
  readonly #pool: CudaGraph | null;

  /**
   * @param index N of `cuda:N`
   * @param pool a graph whose memory for results in between is used too: right where the two never run at the same time
   */
  constructor({ index = 0, pool = null }: { index?: number; pool?: CudaGraph | null } = {}) {
    this.#id = native.newGraph(index);
    this.#stream = new CudaStream(index);
    this.#pool = pool;
  }

  /**
   * Records what `body` gives to the GPU, which does none of it. `body` must be synchronous, have run before (kernels are loaded by their first run),
   * and neither read a tensor nor move one to or from the CPU. Tensors that it returns keep their memory; it may not free ones made before.
   * @throws TorchError for what cannot be recorded; the graph is then of no use
   */
  capture<T>(body: () => T): T {
    return this.#stream.run(() => {
      native.beginCapture(this.#id, this.#pool ? this.#pool.#id : 0);
      let result: T;
      try {
        result = body();
      } catch (error) {
        try {
          native.endCapture(this.#id);
        } catch {
          // A recording that failed says so again when it ends.
        }
        throw error;
      }
      native.endCapture(this.#id);
      return result;
    });
  }

  /** Gives the recorded work to the current stream. */
  replay(): void {
    native.replayGraph(this.#id);
  }

  [Symbol.dispose](): void {
    native.freeGraph(this.#id);
    this.#id = 0;
    this.#stream[Symbol.dispose]();
  }
}
