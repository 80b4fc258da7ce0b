/** Rules that read an answer out of text (docs/method.md, decoding and scoring). */
import { choiceLetter, stripText } from '../text/prompt.ts';
import type { Answered, Score } from './task.ts';

interface Gold {
  /** 'B', or '1' where the data set counts choices from 0. */
  answer: string;
  choices: readonly string[];
}

/** Both verdicts of a task whose answers are letters. */
export function scoreLetters(gold: Gold, answered: Answered): Score {
  const predicted = strictAnswer(answered.generated, gold);
  return {
    official: officialM3cot(gold.answer, answered),
    strict: predicted !== null && predicted === gold.answer,
    predicted,
  };
}

/**
 * M3CoT's official rule: every letter after "the answer is" or "Answer:" in prompt and output counts as an answer, and one of them must be right.
 * The letter may be the first of a word, and the prompt's own "Answer:" counts, so this rule can count an answer as right by accident.
 */
export function officialM3cot(answer: string, { prompt, generated }: Answered): boolean {
  // The turn marker of the chat template, which decodes to "assistant", would otherwise always count as A.
  const text = (prompt + generated).replace(/(?<=answer:)\s*assistant\b/gi, '');
  const found = [...text.matchAll(/(?:the\s+answer\s+is|Answer:)\s*([A-Z])/gi)].map((match) => match[1]!.toUpperCase());
  return found.includes(stripText(answer).toUpperCase());
}

/** ScienceQA's official rule: the 0-based choice the text names, by digit before letter and by strict before loose wording; -1 when none. */
export function officialScienceqa(generated: string): number {
  const wordings = ['Therefore,?\\s*the\\s+answer\\s+is\\s+', 'the\\s+answer\\s+is\\s+', 'answer\\s+is:?\\s*'];
  for (const wording of wordings) {
    const match = new RegExp(`${wording}(\\d)`, 'i').exec(generated);
    if (match) return Number(match[1]);
  }
  for (const wording of wordings) {
    const match = new RegExp(`${wording}([A-Z])`, 'i').exec(generated);
    if (match) return match[1]!.toUpperCase().charCodeAt(0) - 65;
  }
  return -1;
}

/**
 * The one choice the generated text names after "answer is", written as the gold answer is (a letter or a number) and standing alone; null when
 * the text names none, names several different ones, or names one that was not offered.
 */
export function strictAnswer(generated: string, { answer, choices }: Gold): string | null {
  const counted = /^\d+$/.test(answer);
  const form = counted ? '\\d+' : '[A-Z]';
  const pattern = new RegExp(`\\b[Aa]nswer\\s+is\\s*:?\\s*\\(?(${form})\\)?(?=\\s*(?:[.,;:!?\\n]|$))`, 'g');
  const named = new Set([...generated.matchAll(pattern)].map((match) => match[1]!));
  if (named.size !== 1) return null;
  const [only] = named;
  const offered = choices.map((_, index) => (counted ? String(index) : choiceLetter(index)));
  return choices.length === 0 || offered.includes(only!) ? only! : null;
}
