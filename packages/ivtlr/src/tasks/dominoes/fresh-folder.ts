/** The folder of a dominoes model that starts from random weights: everything but the weights. */
import { join } from 'node:path';
import { makeFolder, writeFileAtomic } from '../../files.ts';
import { Tokenizer } from '../../text/tokenizer.ts';
import { SPECIAL_TOKENS, writeDominoesTokenizer } from './vocabulary.ts';

/**
 * Writes tokenizer and image preprocessing into `folder`, which is made if need be.
 * @param config config.json without what follows from the vocabulary
 * @returns the whole config.json
 */
export function writeFreshFolder(folder: string, config: Record<string, unknown>): Record<string, unknown> {
  makeFolder(folder);
  writeDominoesTokenizer(folder);
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
