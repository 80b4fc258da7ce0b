/** What is different between two answers to the same question. */

export interface Part {
  text: string;
  /** Not in the other text, or elsewhere there. */
  changed: boolean;
}

/** `text` in parts, with the words marked that a longest common subsequence with `other` leaves out. White space is never marked. */
export function markWords(text: string, other: string): Part[] {
  const mine = text.match(/\S+|\s+/g) ?? [];
  const theirs = (other.match(/\S+/g) ?? []).slice(0, 400);
  const words = mine.filter((part) => part.trim() !== '');
  // lengths[i][j]: of the longest common subsequence of words from i on and theirs from j on.
  const lengths = Array.from({ length: words.length + 1 }, () => new Uint16Array(theirs.length + 1));
  for (let i = words.length - 1; i >= 0; i--)
    for (let j = theirs.length - 1; j >= 0; j--)
      lengths[i]![j] =
        words[i] === theirs[j] ? lengths[i + 1]![j + 1]! + 1 : Math.max(lengths[i + 1]![j]!, lengths[i]![j + 1]!);
  let i = 0;
  let j = 0;
  return mine.map((part) => {
    if (part.trim() === '') return { text: part, changed: false };
    while (j < theirs.length && words[i] !== theirs[j] && lengths[i]![j + 1]! >= lengths[i]![j]!) j++;
    const same = j < theirs.length && words[i] === theirs[j];
    if (same) j++;
    i++;
    return { text: part, changed: !same };
  });
}

/** Tokens of `picked` that are not among `other`. */
export function onlyIn(picked: readonly number[], other: readonly number[]): number[] {
  return picked.filter((token) => !other.includes(token));
}

type Picks = readonly { picked: readonly number[] }[];

/** Indices of the steps whose picks are others than those of the same step in `base`. */
export function otherSteps(steps: Picks, base: Picks): number[] {
  return steps.flatMap(({ picked }, index) => {
    const there = base[index]?.picked ?? [];
    return onlyIn(picked, there).length + onlyIn(there, picked).length > 0 ? [index] : [];
  });
}

/** One sentence on what an answer's latent steps picked, held against the base's. */
export function pickSummary(steps: Picks, base: Picks): string {
  if (base.length === 0) return 'The answer as trained has no latent steps.';
  if (steps.every(({ picked }) => picked.length === 0)) return 'No patches picked.';
  const others = otherSteps(steps, base);
  if (others.length === 0) return 'The same patches picked.';
  return `Other patches picked in ${others.length === 1 ? 'step' : 'steps'} ${others.map((index) => index + 1).join(', ')}.`;
}
