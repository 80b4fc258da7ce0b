/** What the engine tells of a question, and when. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Puzzle, puzzle, serveDominoes } from '../../../../test/served-model.ts';
import type { TicketEvent } from './engine.ts';
import type { Serving } from './serve.ts';

let served: Serving;
let asked: Puzzle;
beforeAll(async () => {
  served = await serveDominoes();
  asked = await puzzle(3);
});
afterAll(() => served.stop(0));

/** All events of a question, each with the number of passes that the engine had made. */
function ask(stream: boolean): Promise<{ event: TicketEvent; passes: number }[]> {
  const [engine] = served.engines;
  const bytes = Buffer.from(asked.image.split(',')[1]!, 'base64');
  const told: { event: TicketEvent; passes: number }[] = [];
  return new Promise((resolve) => {
    const question = {
      ...{ pictures: [{ bytes, name: 'picture' }], other: null, messages: null, stream },
      ...{ question: asked.question, choices: asked.choices, options: { maxNewTokens: 8, trace: 'picks' as const } },
    };
    engine!.ask(question, (event) => {
      told.push({ event, passes: engine!.stats.passes });
      if (event.type === 'end' || event.type === 'error') resolve(told);
    });
  });
}

test('a streamed question is told as it happens; of another one all but its beginning comes with its end', async () => {
  const streamed = await ask(true);
  const whole = await ask(false);
  const said = (told: typeof whole) =>
    told.map(({ event }) => event).filter(({ type }) => type === 'step' || type === 'text');
  const texts = (told: typeof whole) => said(told).map((event) => (event.type === 'text' ? event.text : ''));
  const picks = (told: typeof whole) => said(told).flatMap((event) => (event.type === 'step' ? event.step.picked : []));
  expect(texts(whole).join('')).toBe(texts(streamed).join(''));
  expect(picks(whole)).toEqual(picks(streamed));
  expect(picks(whole).length).toBeGreaterThan(0);

  const passes = (told: typeof whole, ofType: string) =>
    told.filter(({ event: { type } }) => type === ofType).map((each) => each.passes);
  // Each latent step of the stream in a pass of its own, and text after text.
  expect(new Set(passes(streamed, 'step')).size).toBe(3);
  expect(new Set(passes(streamed, 'text')).size).toBe(passes(streamed, 'text').length);
  const [end] = passes(whole, 'end');
  expect(new Set(passes(whole, 'step'))).toEqual(new Set([end]));
  const [first, ...later] = passes(whole, 'text');
  expect(first).toBeLessThan(end!);
  expect(later.length).toBeGreaterThan(2);
  expect(new Set(later)).toEqual(new Set([end]));
  for (const told of [streamed, whole]) expect(told[0]!.event.type).toBe('start');
});
