/** The folder of a model that learns a task of few words from random weights: everything but the weights. */
import { join } from 'node:path';
import { makeFolder, writeFileAtomic } from '../files.ts';
import { Tokenizer } from '../text/tokenizer.ts';
import type { Vocabulary } from './task.ts';
import { SPECIAL_TOKENS, writeWordTokenizer } from './word-tokenizer.ts';

/**
 * Writes tokenizer and image preprocessing into `folder`, which is made if need be.
 * @param vocabulary of the task
 * @param config config.json without what follows from the vocabulary
 * @returns the whole config.json
 */
export function writeFreshFolder(
  folder: string,
  vocabulary: Vocabulary,
  config: Record<string, unknown>,
): Record<string, unknown> {
  makeFolder(folder);
  writeWordTokenizer(folder, vocabulary);
  const tokenizer = Tokenizer.fromFolder(folder);
  const [endOfText, visionStart, visionEnd, imagePad] = SPECIAL_TOKENS.map((token) => tokenizer.tokenToId(token)!);
  const preprocessor = {
    min_pixels: 28 * 28,
    max_pixels: 28 * 28 * 64,
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.5, 0.5, 0.5],
  };
  writeFileAtomic(join(folder, 'preprocessor_config.json'), `${JSON.stringify(preprocessor, null, 2)}\n`);
  return {
    ...config,
    vocab_size: tokenizer.vocabSize,
    eos_token_id: endOfText,
    vision_start_token_id: visionStart,
    vision_end_token_id: visionEnd,
    image_token_id: imagePad,
  };
}
