/** How a row's tokens are chosen: options alone, without a tensor. */
import { UserError } from '../errors.ts';

/** In the order in which they are applied. */
export interface Sampling {
  /** Logits of tokens that the prompt or the answer has already are divided by it when positive and multiplied when negative; 1 for off. */
  repetitionPenalty: number;
  /** Logits are divided by it. 0, and what is below 1e-5, is greedy: the highest logit after the penalty, whatever the options below say. */
  temperature: number;
  /** Only the k highest logits, and those equal to the k-th, may be drawn; 0 for off. */
  topK: number;
  /** Only the likeliest tokens that together reach this probability, the one that reaches it included; 1 for off. */
  topP: number;
  /** Only tokens at least this many times as likely as the likeliest; 0 for off. */
  minP: number;
}

export const GREEDY: Sampling = { repetitionPenalty: 1, temperature: 0, topK: 0, topP: 1, minP: 0 };

/** What each option may be. The bounds of temperature and penalty are far outside of what is of use, and keep logits finite. */
export const SAMPLING_LIMITS: Readonly<Record<keyof Sampling, { least: number; most: number; whole?: true }>> = {
  repetitionPenalty: { least: 0.01, most: 100 },
  temperature: { least: 0, most: 100 },
  topK: { least: 0, most: 1e9, whole: true },
  topP: { least: 0, most: 1 },
  minP: { least: 0, most: 1 },
};

/** @throws UserError for an option that is out of its bounds */
export function completeSampling(given: Partial<Sampling> = {}): Sampling {
  const made = { ...GREEDY };
  for (const [name, { least, most, whole }] of Object.entries(SAMPLING_LIMITS)) {
    const key = name as keyof Sampling;
    const value = given[key] ?? GREEDY[key];
    if (!(value >= least && value <= most) || (whole && !Number.isInteger(value)))
      throw new UserError(
        `${name} should be a ${whole ? 'whole number' : 'number'} from ${least} to ${most}, not ${value}`,
      );
    made[key] = value;
  }
  return made;
}

export function isGreedy({ temperature }: Pick<Sampling, 'temperature'>): boolean {
  return temperature < 1e-5;
}
