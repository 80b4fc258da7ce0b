/** A small generator of random numbers, so that a sample depends on its seed and index alone: not on the machine, nor on what was drawn before. */

/** xoshiro128** 1.1 (D. Blackman, S. Vigna, 2018), seeded through the finaliser of MurmurHash3. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  /** Any whole numbers up to 2^53 as key: two different keys give unrelated streams. */
  constructor(...key: number[]) {
    const state = [0x9e3779b9, 0x243f6a88, 0xb7e15162, 0x85a308d3];
    let carry = key.length;
    const absorb = (word: number) => {
      for (let i = 0; i < 4; i++) {
        carry = mix((carry + Math.imul(word ^ state[i]!, 0x9e3779b1) + 0x7f4a7c15) | 0);
        state[i] = state[i]! ^ carry;
      }
    };
    for (const value of key) {
      absorb(value | 0);
      absorb(Math.floor(value / 2 ** 32) | 0);
    }
    absorb(key.length);
    this.#a = state[0]! | 0;
    this.#b = state[1]! | 0;
    this.#c = state[2]! | 0;
    this.#d = state[3]! | 1; // never all zero
  }

  /** A whole number in [0, 2^32). */
  next(): number {
    const product = Math.imul(this.#b, 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const shifted = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= shifted;
    this.#d = (this.#d << 11) | (this.#d >>> 21);
    return result;
  }

  /** A whole number in [0, n), each equally likely. */
  below(n: number): number {
    const limit = 2 ** 32 - (2 ** 32 % n);
    let value = this.next();
    while (value >= limit) value = this.next();
    return value % n;
  }

  /** A number in [low, high). */
  between(low: number, high: number): number {
    return low + (this.next() / 2 ** 32) * (high - low);
  }

  /** Brings items into random order, in place. */
  shuffle<T>(items: T[]): T[] {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      const kept = items[i]!;
      items[i] = items[j]!;
      items[j] = kept;
    }
    return items;
  }

  /** 0..n-1 in random order. */
  permutation(n: number): number[] {
    return this.shuffle(Array.from({ length: n }, (_, index) => index));
  }
}

function mix(value: number): number {
  let x = value;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return x ^ (x >>> 16);
}
