/** Files for the reader to keep. */
import type { Answer } from '../state/answer.ts';
import { drawStrip } from './strip.ts';

export function downloadJson(answer: Answer): void {
  const { asked, text, finish, images, steps, settings, seconds, usage, status } = answer;
  const { question, model, options } = asked;
  const content = {
    ...{
      model,
      question: question.text,
      choices: question.choices,
      gold: question.gold,
      pictures: question.pictures.map(({ name }) => name),
    },
    ...{ request: options, answer: text, status, finish, images, steps, settings, seconds, usage },
  };
  save(new Blob([`${JSON.stringify(content, null, 2)}\n`], { type: 'application/json' }), 'ivtlr-answer.json');
}

/** @param tooLarge is called instead when it is larger than the browser can draw */
export function downloadStrip(answer: Answer, tooLarge: () => void): void {
  drawStrip(answer).toBlob((blob) => (blob ? save(blob, 'ivtlr-steps.png') : tooLarge()), 'image/png');
}

function save(blob: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser has taken hold of the file by then.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
