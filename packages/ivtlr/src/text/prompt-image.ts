/** The place of an image in a prompt: one marker in the text that becomes the image's tokens. */
import { UserError } from '../errors.ts';
import type { ChatTemplate } from './chat-template.ts';

/** What of an image its prompt needs. */
export interface PromptImage {
  /** Image tokens. */
  tokens: number;
  /**
   * What is written in place of the marker, where the tokens do not all stand together: a text that holds the marker once for each run of them.
   * All runs are equally long.
   */
  written?: string | undefined;
}

/** The text of a prompt with what is written for the image in place of its marker. */
export function writeImage(text: string, { written }: PromptImage, marker: string): string {
  return written === undefined ? text : text.replace(marker, () => written);
}

/** The ids of such a text with every marker repeated, so that there are as many as the image has tokens. */
export function expandImage(ids: readonly number[], imageId: number, { tokens }: PromptImage): number[] {
  const runs = ids.filter((id) => id === imageId).length;
  const run = new Array<number>(tokens / runs).fill(imageId);
  return ids.flatMap((id) => (id === imageId ? run : [id]));
}

/** @throws UserError for a prompt, without its texts, that does not have the image's marker once */
export function requireOneImage(
  ids: readonly number[],
  imageId: number,
  { written }: PromptImage,
  chat: boolean,
  { imageToken, chatTemplate }: { imageToken: string; chatTemplate?: ChatTemplate | undefined },
): void {
  const found = ids.filter((id) => id === imageId).length;
  const runs = written === undefined ? 1 : written.split(imageToken).length - 1;
  if (found === runs) return;
  const times = found < runs ? found : found - runs + 1;
  const where = chat ? `the chat template in ${chatTemplate?.source}` : 'the prompt profile';
  throw new UserError(
    `${where} should put ${imageToken} once for the image of a user's message, but does so ${times} times`,
  );
}
