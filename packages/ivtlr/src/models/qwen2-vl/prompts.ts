/** Prompt strings of Qwen2-VL (docs/method.md, prompts). The braces are literal. */
import {
  choiceLetter,
  type ProfileName,
  type PromptFormat,
  type PromptProfile,
  plainText,
  stripText,
} from '../../text/prompt.ts';

interface Wording {
  /** Text before a choice, made from its letter. */
  label(letter: string): string;
  /** The very end of the prompt. */
  ending: string;
  /** What stands for the options when a question has none. */
  emptyOptions: string;
}

function format(wording: Wording): PromptFormat {
  return {
    chat: true,
    text(question, choices) {
      const options = choices.map((choice, index) => `${wording.label(choiceLetter(index))}.{${stripText(choice)}}`);
      const block = choices.length > 0 ? `[Options]:\n${options.join('\n')}\n` : wording.emptyOptions;
      return `[Question]:{${stripText(question)}}\n${block}${wording.ending}`;
    },
  };
}

const bracketed = (letter: string) => `(${letter})`;
const bare = (letter: string) => letter;

/** Official training keeps the options' heading when there are no options; ScienceQA inference leaves it out. */
const officialTraining = format({ label: bracketed, ending: 'Answer:\n', emptyOptions: '[Options]:\n\n' });
const officialInference: Record<string, PromptFormat> = {
  m3cot: format({ label: bare, ending: 'Answer:', emptyOptions: '[Options]:\n\n' }),
  scienceqa: format({ label: bracketed, ending: 'Answer:', emptyOptions: '' }),
};
const consistent = format({ label: bracketed, ending: 'Answer:\n', emptyOptions: '' });
const plain: PromptFormat = { chat: true, text: plainText };

/**
 * `official`: what published checkpoints were trained and evaluated with, by task (a task the official code does not know takes M3CoT's).
 * `consistent`: one form for both phases, the official training form.
 * `plain`: the question itself, as Qwen2-VL is asked elsewhere.
 */
export function qwen2VlPrompts(profile: ProfileName, task = 'm3cot'): PromptProfile {
  if (profile === 'consistent') return { name: profile, train: consistent, infer: consistent };
  if (profile === 'plain') return { name: profile, train: plain, infer: plain };
  return {
    name: profile,
    train: officialTraining,
    infer: officialInference[task] ?? officialInference.m3cot!,
    oneImage: true,
  };
}
