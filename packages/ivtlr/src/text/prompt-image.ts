/** The places of images in a prompt: a marker each in the text, which becomes the image's tokens. */
import { UserError } from '../errors.ts';
import type { ChatTemplate } from './chat-template.ts';
import type { PromptProfile } from './prompt.ts';

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

/** The text of a prompt with what is written for each image in place of its marker. */
export function writeImages(text: string, images: readonly PromptImage[], marker: string): string {
  let at = 0;
  return text.replaceAll(marker, () => images[at++]?.written ?? marker);
}

/** The ids of such a text with every marker repeated, so that there are as many as the images have tokens. */
export function expandImages(
  ids: readonly number[],
  imageId: number,
  images: readonly PromptImage[],
  marker: string,
): number[] {
  const runs = images.flatMap((image) => {
    const count = runsOf(image, marker);
    return new Array<number>(count).fill(image.tokens / count);
  });
  let at = 0;
  return ids.flatMap((id) => (id === imageId ? new Array<number>(runs[at++]!).fill(imageId) : [id]));
}

/** @throws UserError for a prompt, without its texts, that does not have each image's marker once */
export function requireImages(
  ids: readonly number[],
  imageId: number,
  images: readonly PromptImage[],
  chat: boolean,
  { imageToken, chatTemplate }: { imageToken: string; chatTemplate?: ChatTemplate | undefined },
): void {
  const found = ids.filter((id) => id === imageId).length;
  const runs = images.reduce((sum, image) => sum + runsOf(image, imageToken), 0);
  if (found === runs) return;
  const where = chat ? `the chat template in ${chatTemplate?.source}` : 'the prompt profile';
  if (images.length === 1)
    throw new UserError(
      `${where} should put ${imageToken} once for the image of a user's message, but does so ${found < runs ? found : found - runs + 1} times`,
    );
  throw new UserError(
    `${where} should put ${imageToken} once for each of the ${images.length} images, ${runs} times in all, but does so ${found} times`,
  );
}

/** Runs of tokens that an image becomes. */
function runsOf({ written }: PromptImage, marker: string): number {
  return written === undefined ? 1 : written.split(marker).length - 1;
}

/** @throws UserError for a number of images that a profile's prompts do not take */
export function requireImageCount({ name, oneImage }: PromptProfile, count: number): void {
  if (!oneImage || count === 1) return;
  throw new UserError(
    `prompts of the profile ${name} of this model have one image, but the question has ${count === 0 ? 'none' : count}`,
  );
}
