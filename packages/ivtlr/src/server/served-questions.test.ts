/** Which questions are prepared when, inside the process with the model. */
import { expect, test, vi } from 'vitest';
import { bundledModel } from '../engine/bundled-model.ts';
import { openModelFolder } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import type { EngineQuestion, FromEngine } from './engine-messages.ts';
import { ServedQuestions } from './served-questions.ts';

const told = vi.hoisted(() => [] as FromEngine[]);
vi.mock('../pool/worker-inside.ts', async (original) => ({
  ...(await original<object>()),
  tellParent: (message: FromEngine) => told.push(message),
}));

const asked = (question: string): EngineQuestion => ({
  ...{ pictures: [], other: null, question, choices: [], messages: null, stream: false },
  options: { maxNewTokens: 1, trace: 'none' },
});

test('long texts are cut into tokens one after the other, and not those that were cancelled before their turn', async () => {
  const opened = openModelFolder(bundledModel('dominoes'));
  const limits = { rows: 4, pieceTokens: 16, cacheBytes: 2 ** 28, maxPixels: 1000 };
  let wake = () => {};
  const serving = await ServedQuestions.open(opened, limits, () => wake());
  const encode = opened.tokenizer.encodeBatch.bind(opened.tokenizer);
  const encoded: string[] = [];
  let under = 0;
  let most = 0;
  vi.spyOn(opened.tokenizer, 'encodeBatch').mockImplementation(async (texts) => {
    encoded.push(/first|second|third|short/.exec(texts.join())![0]);
    most = Math.max(most, ++under);
    const ids = await encode(texts);
    under--;
    return ids;
  });
  const long = (name: string) => asked(`${name} ${'which '.repeat(20_000)}`);
  serving.take(1, long('first'));
  serving.take(2, long('second'));
  serving.take(3, long('third'));
  serving.take(4, asked('short'));
  serving.cancel(2);
  while (serving.takesIn)
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
  serving.step();
  expect([encoded, most]).toEqual([['first', 'third', 'short'], 1]);
  vi.restoreAllMocks();
});

test('an error does not tell where the model lies on this machine', async () => {
  const opened = openModelFolder(bundledModel('dominoes'));
  const limits = { rows: 4, pieceTokens: 16, cacheBytes: 2 ** 28, maxPixels: 1000 };
  let wake = () => {};
  const serving = await ServedQuestions.open(opened, limits, () => wake());
  const file = `${opened.folder}/chat_template.json`;
  vi.spyOn(opened.tokenizer, 'encodeBatch').mockRejectedValue(new UserError(`chat template in ${file} failed: no`));
  const woken = new Promise<void>((resolve) => {
    wake = resolve;
  });
  told.length = 0;
  serving.take(1, asked('short'));
  await woken;
  serving.step();
  const error = { type: 'error', message: 'chat template in chat_template.json failed: no', user: true };
  expect(told).toMatchObject([{ type: 'events', events: [{ id: 1, event: error }] }]);
  vi.restoreAllMocks();
});
