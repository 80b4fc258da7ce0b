/** Breaks text into lines that fit a width. */

/** What of a canvas context is needed here. */
export interface TextMeasure {
  measureText(text: string): { width: number };
}

/**
 * Keeps the text's own line breaks, breaks at spaces, and inside a word only if it alone is wider than `width`. After
 * `maxLines` the rest is dropped and the last line ends in an ellipsis.
 */
export function wrapText(
  measure: TextMeasure,
  text: string,
  width: number,
  maxLines = Number.POSITIVE_INFINITY,
): string[] {
  const fits = (line: string) => measure.measureText(line).width <= width;
  const lines: string[] = [];
  for (const paragraph of text === '' ? [] : text.split(/\r?\n/)) {
    let line = '';
    for (const word of paragraph.split(/\s+/).filter((part) => part !== '')) {
      const longer = line === '' ? word : `${line} ${word}`;
      if (fits(longer)) {
        line = longer;
        continue;
      }
      if (line !== '') lines.push(line);
      const pieces = splitWord(word, fits);
      lines.push(...pieces.slice(0, -1));
      line = pieces.at(-1)!;
    }
    lines.push(line);
  }
  if (lines.length <= maxLines) return lines;
  return [...lines.slice(0, maxLines - 1), `${lines[maxLines - 1]} …`];
}

function splitWord(word: string, fits: (line: string) => boolean): string[] {
  const pieces: string[] = [];
  let piece = '';
  for (const character of word) {
    if (piece !== '' && !fits(piece + character)) {
      pieces.push(piece);
      piece = '';
    }
    piece += character;
  }
  return [...pieces, piece];
}
