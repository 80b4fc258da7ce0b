/** The shape of a prompt, apart from any model family; each family has its own table of them. */
import { UserError } from '../errors.ts';

/** How question and choices become text in one phase. */
export interface PromptFormat {
  /**
   * True: the text is the user's message of the chat template, after the image.
   * False: the text is tokenised as it stands and holds the image marker itself.
   */
  chat: boolean;
  /** Question and choices as the data set has them; which white space is stripped is part of the wording. */
  text(question: string, choices: readonly string[]): string;
  /** Special tokens that stand between the latent slots and the written text; never trained. */
  afterLatents?: string;
}

/** The prompts of one (model family, task): published checkpoints saw other strings in training than at inference. */
export interface PromptProfile {
  readonly name: string;
  readonly train: PromptFormat;
  readonly infer: PromptFormat;
  /** Every question has exactly one image; else any number, or none. */
  readonly oneImage?: boolean;
}

export type Phase = 'train' | 'infer';

/** `plain` is for models that were not trained to reason in latent steps: they get the question as their makers document it. */
export const PROFILES = ['official', 'consistent', 'plain'] as const;
export type ProfileName = (typeof PROFILES)[number];

/** A question without any profile's markers; choices get letters, and the model is told how to name one, so that it can be scored. */
export function plainText(question: string, choices: readonly string[]): string {
  if (choices.length === 0) return question;
  const options = choices.map((choice, index) => `(${choiceLetter(index)}) ${choice}`);
  return `${question}\n${options.join('\n')}\nEnd with "The answer is" and the letter of the right choice.`;
}

/** Choices that a question may have: as many as there are letters for them. */
export const MAX_CHOICES = 26;

/** A, B, C, ... by choice index. @throws UserError beyond Z */
export function choiceLetter(index: number): string {
  if (index >= MAX_CHOICES) throw new UserError(`a question may have at most ${MAX_CHOICES} choices, A to Z`);
  return String.fromCharCode(65 + index);
}

/** Strips white space exactly as Python's `str.strip`; JavaScript's `trim` differs at U+001C..U+001F, U+0085 and U+FEFF. */
export function stripText(text: string): string {
  let start = 0;
  let end = text.length;
  while (start < end && isPythonSpace(text.charCodeAt(start))) start++;
  while (end > start && isPythonSpace(text.charCodeAt(end - 1))) end--;
  return text.slice(start, end);
}

/** Strips white space at the end only, as Python's `str.rstrip`. */
export function stripEnd(text: string): string {
  let end = text.length;
  while (end > 0 && isPythonSpace(text.charCodeAt(end - 1))) end--;
  return text.slice(0, end);
}

function isPythonSpace(code: number): boolean {
  if (code <= 0x20) return code === 0x20 || (code >= 0x09 && code <= 0x0d) || code >= 0x1c;
  if (code === 0x85 || code === 0xa0) return true;
  return code >= 0x1680 && code !== 0xfeff && /\s/.test(String.fromCharCode(code));
}
