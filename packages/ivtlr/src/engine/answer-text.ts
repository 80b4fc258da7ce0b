/** The text of an answer while it is written: it ends before the first stop string, whatever tokens that falls into. */
import { UserError } from '../errors.ts';
import type { Tokenizer, TokenStream } from '../text/tokenizer.ts';

export class AnswerText {
  readonly #stream: TokenStream;
  readonly #stops: readonly string[];
  readonly #longest: number;
  #text = '';
  /** Where in `#text` stop strings may begin, and how much of it has been given out. */
  readonly #from: number;
  #shown: number;
  #stop: string | null = null;

  /**
   * @param start tokens that the answer starts with: part of the text, but neither given out nor searched
   * @throws UserError for an empty stop string
   */
  constructor(tokenizer: Pick<Tokenizer, 'stream'>, start: readonly number[], stops: readonly string[]) {
    if (stops.includes('')) throw new UserError('a stop string is empty; give at least one character');
    this.#stream = tokenizer.stream();
    this.#stops = stops;
    this.#longest = Math.max(0, ...stops.map(({ length }) => length));
    for (const id of start) this.#text += this.#stream.push(id);
    this.#from = this.#text.length;
    this.#shown = this.#from;
  }

  /** The stop string that has come. */
  get stop(): string | null {
    return this.#stop;
  }

  /** What is certain of the text so far, with its start. */
  get whole(): string {
    return this.#text;
  }

  /** The text that became certain with this token. */
  push(id: number): string {
    return this.#take(this.#stream.push(id), false);
  }

  /** The rest. */
  end(): string {
    return this.#take(this.#stream.end(), true);
  }

  #take(piece: string, last: boolean): string {
    const before = this.#text.length;
    this.#text += piece;
    const found = this.#find(Math.max(this.#from, before - this.#longest + 1));
    if (found) {
      this.#stop = found.stop;
      this.#text = this.#text.slice(0, found.at);
    }
    const certain = this.#text.length - (last || found ? 0 : this.#held());
    const shown = this.#text.slice(this.#shown, certain);
    this.#shown = certain;
    return shown;
  }

  /** Of several stop strings the one that is complete first, as if characters came one by one; of those the longest. */
  #find(from: number): { stop: string; at: number } | null {
    let best: { stop: string; at: number; end: number } | null = null;
    for (const stop of this.#stops) {
      const at = this.#text.indexOf(stop, from);
      const end = at + stop.length;
      if (at >= 0 && (!best || end < best.end || (end === best.end && at < best.at))) best = { stop, at, end };
    }
    return best;
  }

  /** Characters at the end of the text that may be the beginning of a stop string. */
  #held(): number {
    const most = Math.min(this.#longest - 1, this.#text.length - this.#shown);
    for (let length = most; length > 0; length--) {
      const tail = this.#text.slice(-length);
      if (this.#stops.some((stop) => stop.length > length && stop.startsWith(tail))) return length;
    }
    return 0;
  }
}
