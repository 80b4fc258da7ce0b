/** The words of dominoes. */
import { choiceLetter } from '../../text/prompt.ts';
import type { Vocabulary } from '../task.ts';
import { wordTokens, writeWordTokenizer } from '../word-tokenizer.ts';
import { COLOURS } from './image.ts';

const LETTERS = [0, 1, 2, 3].map(choiceLetter);

export const DOMINOES_VOCABULARY: Vocabulary = {
  frame: ['[Question]:{', '}\n[Options]:\n', '}\n', ...LETTERS.map((letter) => `(${letter}).{`), 'Answer:\n'],
  words: [
    ...['\n', ',', '.', ':', '?', 'Start', 'at', 'follow', 'domino', 'dominoes', 'which', 'colour'],
    ...['1', '2', '3', '4', '5', '6', '7', 'to', 'is', 'Therefore', 'the', 'answer'],
    ...LETTERS,
    ...COLOURS.map(([name]) => name),
  ],
};

/** All tokens, by id. */
export function dominoesTokens(): string[] {
  return wordTokens(DOMINOES_VOCABULARY);
}

/** See writeWordTokenizer. */
export function writeDominoesTokenizer(folder: string): number {
  return writeWordTokenizer(folder, DOMINOES_VOCABULARY);
}
