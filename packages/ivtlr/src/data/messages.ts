/**
 * Conversations as LLaMA-Factory and ms-swift store them: `messages` of a user and an assistant, and `images`. A question with its choices and
 * its answer is read out of them.
 */
import { UserError } from '../errors.ts';
import type { Row } from './row.ts';

/** What marks the place of an image in a user's text; prompts have images where the model's format puts them. */
const IMAGE_MARK = '<image>';
/** A choice on a line of its own: `A. text`, `A) text`, `(A) text`, `A: text`. */
const CHOICE = /^\(?([A-Z])[.):]\)?\s*(\S.*)$/;
/** Characters at the end of a text in which its answer is looked for. */
const MOST_ANSWER = 200;
/** `answer is B`, `Answer: (B)`, at the very end or as all there is. */
const ANSWER = /(?:^|answer(?:\s+is)?\s*:?\s*)\(?([A-Z]|\d+)\)?\s*\.?\s*$/i;

/**
 * The row with the columns question, choices, answer, rationale and image. Columns that the row has besides its messages stay as they are. The
 * choices are the lettered lines from A on; the answer is the letter (or number) that ends the assistant's text, the rationale what stands before
 * it. Messages of the system are left out: prompts have the wording the model was trained with.
 * @throws UserError naming the place when there is more than one question, or no answer
 */
export function columnsFromMessages(row: Row, place: string): Row {
  const messages = (row.messages as unknown[]).map((message) => readMessage(message, place));
  const said = (role: string) => messages.filter((message) => message.role === role).map(({ content }) => content);
  const unknown = messages.find(({ role }) => !['system', 'user', 'assistant'].includes(role));
  if (unknown) throw new UserError(`${place}, column messages: the role ${JSON.stringify(unknown.role)} is not known`);
  const [asked, answered] = [said('user'), said('assistant')];
  if (asked.length !== 1 || answered.length !== 1) {
    throw new UserError(
      `${place}, column messages: one message of the user and one of the assistant are wanted, not ${asked.length} and ${answered.length}`,
    );
  }
  return { ...fromQuestion(asked[0]!), ...fromAnswer(answered[0]!, row, place), image: oneImage(row), ...row };
}

function readMessage(message: unknown, place: string): { role: string; content: string } {
  const { role, content } = (message ?? {}) as { role?: unknown; content?: unknown };
  if (typeof role !== 'string' || typeof content !== 'string') {
    throw new UserError(`${place}, column messages: each should be {"role": .., "content": ..} with texts`);
  }
  return { role, content };
}

function fromQuestion(text: string): { question: string; choices: string[] } {
  const lines = text.replaceAll(IMAGE_MARK, '').split('\n');
  const question: string[] = [];
  const choices: string[] = [];
  for (const line of lines) {
    const [, letter, choice] = CHOICE.exec(line.trim()) ?? [];
    if (letter !== undefined && letter.charCodeAt(0) - 65 === choices.length) choices.push(choice!);
    else question.push(line);
  }
  // One lettered line alone is a sentence that begins so.
  if (choices.length < 2) return { question: lines.join('\n').trim(), choices: [] };
  return { question: question.join('\n').trim(), choices };
}

function fromAnswer(text: string, row: Row, place: string): { answer: unknown; rationale: string } {
  const whole = text.trimEnd();
  // A pattern that is tried from every place of a long text would take for ever.
  const end = whole.slice(-MOST_ANSWER);
  const found = ANSWER.exec(end);
  if (!found) {
    if (Object.hasOwn(row, 'answer')) return { answer: row.answer, rationale: text };
    throw new UserError(
      `${place}, column messages: the assistant's text names no answer; it should end with one, as in "The answer is B", or the row have a column answer`,
    );
  }
  const answer = found[1]!;
  // The sentence that names the answer is no step of the reasoning.
  const before = whole.slice(0, whole.length - end.length + found.index);
  const sentence = Math.max(...['.', '!', '?', '\n'].map((mark) => before.lastIndexOf(mark)));
  return { answer: /^\d+$/.test(answer) ? Number(answer) : answer, rationale: before.slice(0, sentence + 1).trim() };
}

/** Where `images` is no list but one image; a list stays as it is. */
function oneImage({ images = null }: Row): unknown {
  return Array.isArray(images) ? null : images;
}
