/** How many questions may be under way, by the bytes of their keys and values. */
import { UserError } from '../errors.ts';

/** Room is made for a little more than is asked for, so that the next question, a little longer, fits as well. */
const BLOCK = 64;

export type Admission =
  /** It may begin. */
  | 'fits'
  /** It may begin when others have ended. */
  | 'wait'
  /** It may begin once the cache is made anew with so much room. */
  | { slots: number; positions: number };

export class CacheBudget {
  readonly bytes: number;
  readonly #perPosition: number;
  readonly #rows: number;
  #slots = 0;
  #positions = 0;

  /**
   * @param bytes that keys and values may take, those of a cache that is being made larger included
   * @param perPosition bytes of one position of one question
   * @param rows questions under way at most
   */
  constructor(bytes: number, perPosition: number, rows: number) {
    this.bytes = bytes;
    this.#perPosition = perPosition;
    this.#rows = rows;
  }

  /** Bytes that so many questions of the present room take. */
  used(running: number): number {
    return running * this.#positions * this.#perPosition;
  }

  /**
   * Whether a question that fills up to `positions` may begin beside those that run; then it is counted on that it does.
   * @param rows questions of that size that begin together
   * @throws UserError when they would not fit alone
   */
  admit(running: number, positions: number, rows = 1): Admission {
    const needed = rows * positions * this.#perPosition;
    if (needed > this.bytes) {
      const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
      throw new UserError(
        `the question with its latent steps and its longest answer needs ${mebibytes(needed)} for keys and values, but the server has ${mebibytes(this.bytes)}; ask for fewer tokens, latent steps or patches`,
      );
    }
    const roomy = this.#slots < this.#rows && positions <= this.#positions / 2;
    if (running === 0 && (positions > this.#positions || rows > this.#slots || roomy))
      return this.#anew(positions, rows);
    if (running + rows > this.#slots) return 'wait';
    if (positions <= this.#positions) return 'fits';
    // The cache is copied into a larger one, and both are there for a moment.
    const larger = Math.ceil(positions / BLOCK) * BLOCK;
    if (this.#slots * (this.#positions + larger) * this.#perPosition > this.bytes) return 'wait';
    this.#positions = positions;
    return 'fits';
  }

  #anew(positions: number, rows: number): Admission {
    const most = Math.floor(this.bytes / this.#perPosition);
    this.#positions = Math.min(Math.floor(most / rows), Math.ceil(positions / BLOCK) * BLOCK);
    this.#slots = Math.max(rows, Math.min(this.#rows, Math.floor(most / this.#positions)));
    return { slots: this.#slots, positions: this.#positions };
  }
}
