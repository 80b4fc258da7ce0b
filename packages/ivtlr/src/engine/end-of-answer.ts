/** Which tokens end an answer. */
import { join } from 'node:path';
import { z } from 'zod';
import { UserError } from '../errors.ts';
import { isListed, readJson } from '../files.ts';
import type { LoadedModel } from './loaded-model.ts';

/** The tokenizer's end-of-text and those of generation_config.json: chat models end a turn with another token than a text. */
export function endOfAnswerIds(opened: LoadedModel): number[] {
  const path = join(opened.folder, 'generation_config.json');
  if (!isListed(path)) return [opened.tokenizer.eosId];
  const id = z
    .int()
    .min(0)
    .max(opened.model.vocabularySize - 1);
  const schema = z.object({ eos_token_id: z.union([id, z.array(id)]).nullish() });
  const parsed = schema.safeParse(readJson(path, 'generation config'));
  if (!parsed.success) {
    throw new UserError(
      parsed.error.issues[0]!.path.length === 0
        ? `${path} should hold an object`
        : `${path}: eos_token_id should be a token id below ${opened.model.vocabularySize}, or a list of them`,
    );
  }
  return [...new Set([opened.tokenizer.eosId, ...[parsed.data.eos_token_id ?? []].flat()])];
}
