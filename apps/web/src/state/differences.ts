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
