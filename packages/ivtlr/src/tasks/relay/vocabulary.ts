/** The words of relay. */
import { COLOURS } from '../dominoes/image.ts';
import type { Vocabulary } from '../task.ts';

export const RELAY_VOCABULARY: Vocabulary = {
  frame: ['[Question]:{', '}\n', 'Answer:\n'],
  words: [
    ...['\n', ',', '.', ':', '?', 'Start', 'at', 'with', 'follow', 'dominoes', 'which', 'digit'],
    ...['0', '1', '2', '3', '4', '5', '6', '7', '8', 'to', 'plus', 'is', 'Therefore', 'the', 'answer'],
    ...COLOURS.map(([name]) => name),
  ],
};
