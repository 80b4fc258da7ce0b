/** Numbers as values of flags. */
import { InvalidArgumentError } from 'commander';
import { MAX_LATENT_STEPS, MAX_PATCHES } from '../latent/options.ts';

/** For commander: a whole number from `least` to `most`. */
export function wholeNumberWithin(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < least || value > most) {
      throw new InvalidArgumentError(`It should be a whole number from ${least} to ${most}.`);
    }
    return value;
  };
}

/** For commander: a number from `least` to `most`. */
export function numberWithin(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d*\.?\d+(e-?\d+)?$/i.test(text) || !(value >= least && value <= most)) {
      throw new InvalidArgumentError(`It should be a number from ${least} to ${most}.`);
    }
    return value;
  };
}

/** What one machine can be asked for. Larger numbers are slips, which would take memory or time without end. */
export const MAX = {
  rows: 1e9,
  batch: 4096,
  threads: 1024,
  processes: 1024,
  latents: MAX_LATENT_STEPS,
  patches: MAX_PATCHES,
  newTokens: 131072,
} as const;

/** 0 to 2^32 - 1: what every generator of random numbers here takes whole. */
export const seedNumber = wholeNumberWithin(0, 2 ** 32 - 1);
export const threadCount = wholeNumberWithin(1, MAX.threads);
export const rowCount = wholeNumberWithin(1, MAX.rows);
export const latentStepCount = wholeNumberWithin(0, MAX.latents);
export const newTokenCount = wholeNumberWithin(1, MAX.newTokens);
