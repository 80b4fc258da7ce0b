import { expect, it } from 'vitest';
import type { ChatChunk, IvtlrResponse, SeenStep } from '../../../../packages/ivtlr/src/server/protocol.ts';
import {
  type Answer,
  type Asked,
  chosenLetter,
  endAnswer,
  isRight,
  latentSteps,
  newAnswer,
  takeChunk,
  toRequest,
} from './answer.ts';
import type { Picture } from './picture.ts';

const picture = { url: 'data:image/png;base64,AA==', name: 'a' } as Picture;
const asked = (more: Partial<Asked['question']> = {}): Asked => ({
  question: { pictures: [picture], text: 'Which?', choices: ['red', 'blue'], gold: 'B', ...more },
  model: 'dominoes',
  maxTokens: 32,
  options: { latents: 2 },
});

const step = (kind: SeenStep['kind'], number: number): SeenStep => ({
  ...{ step: number, kind, picked: [number], pickedScores: [0.5], scores: [0.5, 0.1] },
  ...{ attentionRatio: 0.2, focus: 3, seconds: 0.01 },
});

function chunk(content: string | null, ivtlr?: IvtlrResponse, finish: 'stop' | null = null): ChatChunk {
  const delta = content === null ? {} : { content };
  const choice = { index: 0, delta, finish_reason: finish, logprobs: null, ...(ivtlr && { ivtlr }) };
  return { id: '1', object: 'chat.completion.chunk', created: 0, model: 'dominoes', choices: [choice] };
}

it('asks for choices and a full trace', () => {
  const request = toRequest(asked());
  expect(request.ivtlr).toEqual({ latents: 2, choices: ['red', 'blue'], trace: 'full' });
  expect(request.messages[0]!.content).toContainEqual({ type: 'image_url', image_url: { url: picture.url } });
  expect(toRequest(asked({ choices: [] })).ivtlr).toEqual({ latents: 2, trace: 'full' });
});

it('grows by chunks: steps in order, each text with its written token, whether it comes with the step or after it', () => {
  const image = { tokenGrid: [1, 2], width: 56, height: 28, crop: { x: 0, y: 0, width: 56, height: 28 } } as const;
  const chunks = [
    chunk('', { image }),
    chunk(null, { steps: [step('latent', 0)] }),
    chunk(null, { steps: [step('latent', 1)] }),
    chunk(null, { steps: [step('token', 0)] }),
    chunk('The answer'),
    chunk(' is B', { steps: [step('token', 1)] }),
    chunk(null, { settings: { latents: 2, patches: 1, task: 'dominoes', ablation: null } }, 'stop'),
  ];
  let now = 100;
  const answer = chunks.reduce<Answer>((grown, next) => takeChunk(grown, next, now++), newAnswer(asked(), 99));
  expect(answer).toMatchObject({
    status: 'streaming',
    text: 'The answer is B',
    finish: 'stop',
    firstText: 104,
    images: [image],
  });
  expect(answer.steps.map(({ kind, text }) => [kind, text])).toEqual([
    ['latent', ''],
    ['latent', ''],
    ['token', 'The answer'],
    ['token', ' is B'],
  ]);
  expect(latentSteps(answer)).toHaveLength(2);
  expect(isRight(answer)).toBeNull();
  expect(isRight(endAnswer(answer, 'done', null, 200))).toBe(true);
});

it.each([
  ['blue is A; Therefore, the answer is A', 'A'],
  ['The answer is (c).', 'C'],
  ['The answer is B, no: the answer is D', 'D'],
  ['(B)', 'B'],
  ['B.', 'B'],
  ['Because it is blue', null],
  ['A dog', null],
  ['', null],
])('finds the letter of %j', (text, letter) => {
  expect(chosenLetter(text)).toBe(letter);
});

it('takes the right answer as a letter or as the text of a choice', () => {
  const done = (gold: string | null, text: string, finish: Answer['finish'] = 'stop') =>
    isRight({ ...newAnswer(asked({ gold }), 0), status: 'done', text, finish });
  expect(done('blue', 'the answer is B')).toBe(true);
  expect(done('red', 'the answer is B')).toBe(false);
  expect(done('A', 'no letter here')).toBe(false);
  // One that was cut is judged by its letter, and not at all before that.
  expect(done('A', 'no letter here', 'length')).toBeNull();
  expect(done('A', 'the answer is A; and so', 'length')).toBe(true);
  expect(done(null, 'the answer is B')).toBeNull();
});
