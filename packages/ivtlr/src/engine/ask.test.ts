/** Questions with options of their own, asked together, of the bundled model. */
import { fileURLToPath } from 'node:url';
import { liveTensorCount, setNumThreads } from '@ivtlr/torch';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { dominoes } from '../tasks/dominoes/dominoes.ts';
import { type Answer, type AskOptions, ask, type Question, type QuestionAskOptions } from './ask.ts';
import { type LoadedModel, openModelFolder } from './loaded-model.ts';

setNumThreads(1);
let opened: LoadedModel;
const before = liveTensorCount();
beforeAll(() => {
  opened = openModelFolder(fileURLToPath(new URL('../../models/dominoes-cot', import.meta.url)));
});
afterAll(() => {
  opened.model.module.dispose();
  expect(liveTensorCount()).toBe(before);
});

type Asked = Question & { own: QuestionAskOptions };

function asked(index: number, own: QuestionAskOptions = {}): Asked {
  const { images, question, choices } = dominoes.generator!.sample(11, 'test', index);
  return { images, question, choices, own };
}

interface Outcome {
  answer: Answer | null;
  error: string | null;
  deltas: string[];
  tokens: number[];
}

async function outcomes(questions: readonly Asked[], options: AskOptions<Asked> = {}): Promise<Outcome[]> {
  const made = questions.map((): Outcome => ({ answer: null, error: null, deltas: [], tokens: [] }));
  const groups = questions.map((question) => [question]);
  const all = { rows: questions.length, maxNewTokens: 40, of: ({ own }: Asked) => own, ...options };
  for await (const event of ask(opened, groups, all)) {
    const one = made[questions.indexOf(event.question)]!;
    if (event.type === 'end') one.answer = event.answer;
    else if (event.type === 'error') one.error = event.error.message;
    else if (event.type === 'text-delta') one.deltas.push(event.text);
    else if (event.type === 'token') one.tokens.push(event.id);
  }
  return made;
}

const only = async (question: Asked, options: AskOptions<Asked> = {}) => (await outcomes([question], options))[0]!;
const told = ({ answer }: Outcome) => {
  const { text, tokens, picked, finishReason, stopString } = answer!;
  return { text, tokens, picked, finishReason, stopString };
};

test('a question has what it says of itself, else what is said of all, and is answered as alone', async () => {
  const hot = { temperature: 3, topP: 0.95 };
  const own: QuestionAskOptions[] = [
    {},
    { sampling: hot, seed: 4 },
    { sampling: hot, seed: 5, latentSteps: 2, latent: { patches: 3 }, logprobs: 2 },
    { sampling: { ...hot, repetitionPenalty: 1.4 }, seed: 4, maxNewTokens: 5 },
    { latentSteps: 1, latent: { patches: 2, latentVision: 'random' }, seed: 6, stop: [' '] },
    { latentSteps: 2, latent: { patches: 2 }, forcePatches: [[3, 1], [0]], forbidPatches: [[], [2, 4]] },
  ];
  const together = await outcomes(own.map((options) => asked(1, options)));
  for (const [i, options] of own.entries()) {
    const { seed, ...more } = options;
    expect(told(together[i]!)).toEqual(told(await only(asked(1, options))));
    // The same, said of all questions.
    expect(told(together[i]!)).toEqual(told(await only(asked(1), { ...more, seed: () => seed })));
    expect(together[i]!.deltas.join('')).toBe(together[i]!.answer!.text);
  }
  const texts = together.map(({ answer }) => answer!.text);
  expect(new Set(texts).size).toBe(6);
  expect(together.map(({ answer }) => answer!.picked.length)).toEqual([0, 0, 2, 0, 1, 2]);
  expect(together[3]!.answer).toMatchObject({ finishReason: 'length', stopString: null });
  expect(together[4]!.answer).toMatchObject({ finishReason: 'stop', stopString: ' ' });
  expect(together[5]!.answer!.picked.map((picked) => picked.slice(0, 2))).toEqual([
    [3, 1],
    [0, expect.any(Number)],
  ]);
  expect(together[0]!.answer).toMatchObject({ finishReason: 'stop', stopString: null, logprobs: [] });
  // A seed for all is overruled by a question's own.
  const seeded = await only(asked(1, { sampling: hot, seed: 4 }), { seed: () => 9 });
  expect(told(seeded)).toEqual(told(together[1]!));
});

test('log-probabilities come with every token, the greedy one first', async () => {
  const { answer, tokens } = await only(asked(2, { logprobs: 3 }));
  expect(tokens).toEqual(answer!.tokens);
  expect(answer!.logprobs.map(({ id }) => id)).toEqual(answer!.tokens);
  for (const { id, logprob, top } of answer!.logprobs) {
    expect(top).toHaveLength(3);
    expect(top[0]).toEqual({ id, logprob });
    expect(top.map((one) => one.logprob)).toEqual(top.map((one) => one.logprob).sort((a, b) => b - a));
    expect(logprob).toBeLessThanOrEqual(0);
  }
  const none = await only(asked(2, { logprobs: 0 }));
  expect(none.answer!.logprobs.map(({ top }) => top.length)).toEqual(answer!.tokens.map(() => 0));
});

describe('stop strings', () => {
  test('every piece of the answer, wherever it stands', async () => {
    const whole = (await only(asked(3))).answer!;
    const { text } = whole;
    const stops = [...new Set([1, 3, 6].flatMap((length) => [...text].map((_, at) => text.slice(at, at + length))))];
    const results = await outcomes(stops.map((stop) => asked(3, { stop: ['never', stop] })));
    expect(stops.length).toBeGreaterThan(40);
    results.forEach(({ answer, deltas }, i) => {
      expect(answer!.text).toBe(text.slice(0, text.indexOf(stops[i]!)));
      expect(deltas.join('')).toBe(answer!.text);
      expect(answer).toMatchObject({ finishReason: 'stop', stopString: stops[i]! });
      expect(answer!.tokens).toEqual(whole.tokens.slice(0, answer!.tokens.length));
    });
    expect(results.some(({ answer }) => answer!.tokens.length < whole.tokens.length / 2)).toBe(true);
  });

  test('are found without deltas too', async () => {
    const { text } = (await only(asked(3))).answer!;
    const { answer, deltas } = await only(asked(3, { stop: [text.slice(5, 9)] }), { textDeltas: false });
    expect([answer!.text, deltas]).toEqual([text.slice(0, text.indexOf(text.slice(5, 9))), []]);
  });
});

test('a question that is asked wrongly is said, and the others are answered', async () => {
  const tokens = (await only(asked(0, { latentSteps: 1 }))).answer!.images[0]!.tokenGrid.reduce((a, b) => a * b);
  const wrong: [QuestionAskOptions, string][] = [
    [{ sampling: { topP: 2 } }, 'topP should be a number from 0 to 1, not 2'],
    [{ stop: [''] }, 'a stop string is empty; give at least one character'],
    [{ forcePatches: [[1]] }, 'forcePatches has lists for 1 latent steps, but 0 are taken'],
    [
      { latentSteps: 1, forcePatches: [[tokens]] },
      `forcePatches of latent step 1: there is no image token ${tokens}; the image has tokens 0 to ${tokens - 1}`,
    ],
    [
      { latentSteps: 2, forbidPatches: [[], [-1]] },
      `forbidPatches of latent step 2: there is no image token -1; the image has tokens 0 to ${tokens - 1}`,
    ],
  ];
  const results = await outcomes([asked(0), ...wrong.map(([options]) => asked(0, options))]);
  expect(results.slice(1).map(({ error }) => error)).toEqual(wrong.map(([, message]) => message));
  expect(told(results[0]!)).toEqual(told(await only(asked(0))));
  await expect(async () => {
    for await (const event of ask(opened, [[asked(0)]], { answerStart: 'The', of: () => ({ latentSteps: 1 }) }))
      if (event.type === 'error') throw event.error;
  }).rejects.toThrow(UserError);
});
