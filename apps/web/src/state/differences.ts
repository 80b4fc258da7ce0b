/** What is different between two answers to the same question. */

export interface Words {
  text: string;
  /** Not in the other text, or elsewhere there. */
  changed: boolean;
}

/** The words of `text`, with those marked that a longest common subsequence with `other` leaves out. */
export function markWords(text: string, other: string): Words[] {
  const mine = text.match(/\s*\S+|\s+$/g) ?? [];
  const theirs = (other.match(/\S+/g) ?? []).slice(0, 400);
  const words = mine.map((word) => word.trim());
  // lengths[i][j]: of the longest common subsequence of words from i on and theirs from j on.
  const lengths = Array.from({ length: words.length + 1 }, () => new Uint16Array(theirs.length + 1));
  for (let i = words.length - 1; i >= 0; i--)
    for (let j = theirs.length - 1; j >= 0; j--)
      lengths[i]![j] =
        words[i] === theirs[j] ? lengths[i + 1]![j + 1]! + 1 : Math.max(lengths[i + 1]![j]!, lengths[i]![j + 1]!);
  let j = 0;
  return mine.map((word, i) => {
    while (j < theirs.length && words[i] !== theirs[j] && lengths[i]![j + 1]! >= lengths[i]![j]!) j++;
    const same = words[i] === '' || (j < theirs.length && words[i] === theirs[j]);
    if (same && words[i] !== '') j++;
    return { text: word, changed: !same };
  });
}

/** Tokens of `picked` that are not among `other`. */
export function onlyIn(picked: readonly number[], other: readonly number[]): number[] {
  return picked.filter((token) => !other.includes(token));
}
