import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { curriculum } from '../latent/curriculum.ts';
import { qwen2VlPrompts } from '../models/qwen2-vl/prompts.ts';
import { parseChatTemplate } from '../text/chat-template.ts';
import {
  type RenderOptions,
  renderInference,
  renderSupervised,
  renderTraining,
  splitSteps,
  type TextEncoder,
  tokenizeSample,
} from './render.ts';
import type { RawImage, Sample } from './sample.ts';

/** Every character is its code point; IMG, LAT and EOS are single tokens. */
const EOS = 0;
const IMG = 1;
const LAT = 2;
const encoder: TextEncoder = {
  eosId: EOS,
  tokenToId: (token) => ({ '<img>': IMG, '<lat>': LAT })[token],
  idToToken: (id) => ['<eos>', '<img>', '<lat>'][id],
  isAdded: (id) => id <= LAT,
  encodeBatch: async (texts) =>
    texts.map((text) =>
      [...text.replaceAll('<eos>', '\0').replaceAll('<img>', '\u0001').replaceAll('<lat>', '\u0002')].map(
        (c) => c.codePointAt(0)!,
      ),
    ),
};
const chatTemplate = parseChatTemplate(
  "u:{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<img>{% else %}{{ part['text'] }}{% endif %}" +
    '{% endfor %}{% if add_generation_prompt %}|a:{% endif %}',
);
const options: RenderOptions = {
  tokenizer: encoder,
  profile: qwen2VlPrompts('consistent'),
  chatTemplate,
  imageToken: '<img>',
  latentToken: '<lat>',
};
const image: RawImage = { kind: 'rgb', width: 1, height: 1, data: new Uint8Array(3) };
const sample: Sample = {
  id: 's1',
  images: [image],
  question: ' q\n',
  choices: ['x ', 'y'],
  rationale: 'one. two. ',
  answer: 'B',
  meta: {},
};
const codes = (text: string) => [...text].map((c) => c.codePointAt(0)!);
const prompt = [...codes('u:'), IMG, IMG, IMG, ...codes('[Question]:{q}\n[Options]:\n(A).{x}\n(B).{y}\nAnswer:\n|a:')];
const answer = [...codes('Therefore, the answer is B'), EOS];

describe('splitSteps', () => {
  test('splits at ". ", turns newlines into spaces, drops an empty last piece', () => {
    expect(splitSteps('A.\nB b. ')).toEqual(['A', 'B b.']);
    expect(splitSteps('A. B')).toEqual(['A', 'B']);
    expect(splitSteps('A.  B')).toEqual(['A', ' B']);
    expect(splitSteps('A. . B')).toEqual(['A', '', 'B']);
    expect(splitSteps(' \n ')).toEqual([]);
    expect(splitSteps('')).toEqual([]);
  });

  test('merges more than three pieces into three runs, larger first', () => {
    expect(splitSteps('a. b. c. d')).toEqual(['a. b', 'c', 'd']);
    expect(splitSteps('a. b. c. d. e')).toEqual(['a. b', 'c. d', 'e']);
    expect(splitSteps('a. b. c. d. e. f. g')).toEqual(['a. b. c', 'd. e', 'f. g']);
    expect(splitSteps('a. b. c. d', 4)).toEqual(['a', 'b', 'c', 'd']);
    expect(splitSteps('a. b. c. d', 1)).toEqual(['a. b. c. d']);
  });

  test('merging keeps every piece once and in order, with run sizes that differ by at most one', () => {
    const word = fc.stringMatching(/^[a-z]{1,4}$/);
    fc.assert(
      fc.property(fc.array(word, { minLength: 1, maxLength: 20 }), fc.integer({ min: 1, max: 6 }), (pieces, max) => {
        const steps = splitSteps(pieces.join('. '), max);
        expect(steps.join('. ')).toBe(pieces.join('. '));
        expect(steps.length).toBe(Math.min(max, pieces.length));
        const sizes = steps.map((step) => step.split('. ').length);
        expect(sizes).toEqual([...sizes].sort((a, b) => b - a));
        expect(sizes[0]! - sizes.at(-1)!).toBeLessThanOrEqual(1);
      }),
    );
  });
});

describe('training rows', () => {
  test('stage 0 is prompt, steps, answer; labels on steps and answer only', async () => {
    const tokenized = await tokenizeSample(sample, [{ tokens: 3 }], 'train', options);
    const row = renderTraining(tokenized, curriculum(0, { maxLatentStage: 2, padLatentToMax: true }, 2));
    const rest = [...codes('one\ntwo.\n'), ...answer];
    expect(row).toEqual({
      ids: [...prompt, ...rest],
      labels: [...prompt.map(() => -100), ...rest],
      latentStart: prompt.length,
      latentSteps: 0,
      imageTokens: 3,
    });
  });

  test('stages replace first steps by latent slots, and keep T beyond the steps there are', async () => {
    const tokenized = await tokenizeSample(sample, [{ tokens: 3 }], 'train', options);
    const at = (stage: number) =>
      renderTraining(tokenized, curriculum(stage, { maxLatentStage: 3, padLatentToMax: true }, 2));
    expect(at(1).ids).toEqual([...prompt, LAT, ...codes('two.\n'), ...answer]);
    expect(at(1).labels.slice(prompt.length)).toEqual([-100, ...codes('two.\n'), ...answer]);
    expect(at(3).ids).toEqual([...prompt, LAT, LAT, LAT, ...answer]);
    expect(at(4).ids).toEqual(at(3).ids);
    // Baselines: the answer alone, and slots without dropped steps.
    expect(renderTraining(tokenized, { latentSteps: 0, droppedSteps: 2 }).ids).toEqual([...prompt, ...answer]);
    expect(renderTraining(tokenized, { latentSteps: 2, droppedSteps: 0 }).ids).toEqual([
      ...[...prompt, LAT, LAT],
      ...[...codes('one\ntwo.\n'), ...answer],
    ]);
  });

  test('long samples lose whole steps from the end, before any stage drops steps from the front', async () => {
    const total = prompt.length + 9 + answer.length;
    const fitting = await tokenizeSample(sample, [{ tokens: 3 }], 'train', { ...options, maxTokens: total });
    expect([fitting.stepIds.length, fitting.truncatedSteps]).toEqual([2, 0]);
    const short = await tokenizeSample(sample, [{ tokens: 3 }], 'train', { ...options, maxTokens: total - 1 });
    expect(short.stepIds).toEqual([codes('one\n')]);
    expect(short.truncatedSteps).toBe(1);
    expect(renderTraining(short, { latentSteps: 1, droppedSteps: 1 }).ids).toEqual([...prompt, LAT, ...answer]);
    const none = await tokenizeSample(sample, [{ tokens: 3 }], 'train', { ...options, maxTokens: 1 });
    expect(none.stepIds).toEqual([]);
    expect(none.answerIds).toEqual(answer);
  });

  test('pick targets follow the steps, merged steps have those of all their pieces', async () => {
    const four = { ...sample, rationale: 'a. b. c. d', pickTargets: [[5], [6, 5], [7], [8]] };
    const merged = await tokenizeSample(four, [{ tokens: 3 }], 'train', options);
    expect(merged.pickTargets).toEqual([[5, 6], [7], [8]]);
    expect(renderTraining(merged, { latentSteps: 2, droppedSteps: 2 }).pickTargets).toEqual([[5, 6], [7]]);
    const two = await tokenizeSample({ ...sample, pickTargets: [[4]] }, [{ tokens: 3 }], 'train', options);
    expect(renderTraining(two, { latentSteps: 3, droppedSteps: 3 }).pickTargets).toEqual([[4], [], []]);
  });

  test('what steps hand on follows them, too: of a merged step the last value, beyond the steps the last one', async () => {
    const carried = { targets: ['1', '2', '3', '1'], values: ['1', '2', '3'] };
    const four = { ...sample, rationale: 'a. b. c. d', carried };
    const merged = await tokenizeSample(four, [{ tokens: 3 }], 'train', options);
    const values = (await options.tokenizer.encodeBatch([' 1', ' 2', ' 3'])).map((ids) => ids.at(-1)!);
    expect(new Set(values).size).toBe(3);
    const [one, two, three] = values;
    expect(merged.carried).toEqual({ targets: [two, three, one], values });
    expect(renderTraining(merged, { latentSteps: 2, droppedSteps: 2 }).carried).toEqual({
      targets: [two, three],
      values,
    });
    const padded = renderTraining(merged, { latentSteps: 4, droppedSteps: 4 });
    expect(padded.carried!.targets).toEqual([two, three, one, one]);
  });

  test('an answer is needed', async () => {
    await expect(tokenizeSample({ ...sample, answer: '' }, [{ tokens: 3 }], 'train', options)).rejects.toThrow(
      /s1 has no answer/,
    );
  });
});

describe('inference rows', () => {
  test('latent slots follow the prompt, nothing is labelled, rationale and answer do not show', async () => {
    const tokenized = await tokenizeSample({ ...sample, answer: '' }, [{ tokens: 3 }], 'infer', options);
    const row = renderInference(tokenized, 2);
    expect(row.ids).toEqual([...prompt, LAT, LAT]);
    expect(row.labels.every((label) => label === -100)).toBe(true);
    expect(row.latentStart).toBe(prompt.length);
  });

  test('the official profile asks in other words than in training', async () => {
    const official = { ...options, profile: qwen2VlPrompts('official', 'm3cot') };
    const row = renderInference(await tokenizeSample(sample, [{ tokens: 1 }], 'infer', official), 1);
    expect(row.ids).toEqual([
      ...codes('u:'),
      IMG,
      ...codes('[Question]:{q}\n[Options]:\nA.{x}\nB.{y}\nAnswer:|a:'),
      LAT,
    ]);
  });

  test('a profile without chat is tokenised as it stands', async () => {
    const plain = { chat: false, text: (question: string) => `{<img>${question}}` };
    const own = { ...options, chatTemplate: undefined, profile: { name: 'own', train: plain, infer: plain } };
    expect((await tokenizeSample(sample, [{ tokens: 2 }], 'infer', own)).promptIds).toEqual([
      ...codes('{'),
      IMG,
      IMG,
      ...codes(' q\n}'),
    ]);
  });

  test('what stands behind the slots: in both phases, never labelled, before a begun answer, counted', async () => {
    const plain = { chat: false, text: () => '<img>', afterLatents: '#' };
    const own = { ...options, profile: { name: 'own', train: plain, infer: plain } };
    const asked = await tokenizeSample(sample, [{ tokens: 2 }], 'infer', own);
    expect(renderInference(asked, 2).ids).toEqual([IMG, IMG, LAT, LAT, ...codes('#')]);
    expect(renderInference(asked, 0, codes('So')).ids).toEqual([IMG, IMG, ...codes('#So')]);
    expect(renderInference(asked, 2).latentStart).toBe(2);
    const row = renderTraining(await tokenizeSample(sample, [{ tokens: 2 }], 'train', own), {
      latentSteps: 1,
      droppedSteps: 2,
    });
    expect(row.ids).toEqual([IMG, IMG, LAT, ...codes('#'), ...answer]);
    expect(row.labels).toEqual([-100, -100, -100, -100, ...answer]);
    const total = row.ids.length - 1 + codes('one\ntwo.\n').length;
    const fits = async (maxTokens: number) => tokenizeSample(sample, [{ tokens: 2 }], 'train', { ...own, maxTokens });
    expect((await fits(total)).truncatedSteps).toBe(0);
    expect((await fits(total - 1)).truncatedSteps).toBe(1);
  });

  test('tokens of the prompt in a text are refused, by name and place', async () => {
    for (const token of ['<img>', '<lat>', '<eos>']) {
      const text = `a ${token} b`;
      const refused = (place: string) =>
        new UserError(
          `sample s1: ${place} spells ${token}, a token that only the prompt may put in; write it otherwise`,
        );
      const render = (more: Partial<Sample>, phase: 'train' | 'infer') =>
        tokenizeSample({ ...sample, ...more }, [{ tokens: 3 }], phase, options);
      await expect(render({ question: text }, 'infer')).rejects.toThrow(refused('the question'));
      await expect(render({ choices: ['x', text] }, 'infer')).rejects.toThrow(refused('choice B'));
      await expect(render({ choices: ['x', text] }, 'train')).rejects.toThrow(refused('choice B'));
      await expect(render({ rationale: `one. ${text}` }, 'train')).rejects.toThrow(refused('the rationale'));
      await expect(render({ answer: text }, 'train')).rejects.toThrow(refused('the answer'));
      const segments = [{ text, loss: true }];
      await expect(renderSupervised({ segments }, null, options)).rejects.toThrow(`a text to train on spells ${token}`);
    }
    const rationale = 'one. a <lat> b';
    await expect(tokenizeSample({ ...sample, rationale }, [{ tokens: 3 }], 'train', options)).rejects.toThrow(
      /the rationale/,
    );
    await expect(tokenizeSample({ ...sample, rationale }, [{ tokens: 3 }], 'infer', options)).resolves.toBeDefined();
    await expect(
      tokenizeSample(sample, [{ tokens: 3 }], 'infer', { ...options, latentToken: '<none>' }),
    ).rejects.toThrow(/does not know <none>/);
  });
});

test('a chat template without an image marker, or with two, is named', async () => {
  for (const marks of ['', '<img><img>']) {
    const template = parseChatTemplate(`${marks}{{ messages[0]['content'][1]['text'] }}`, 'a/chat_template.jinja');
    await expect(
      tokenizeSample(sample, [{ tokens: 3 }], 'infer', { ...options, chatTemplate: template }),
    ).rejects.toThrow(
      `the chat template in a/chat_template.jinja should put <img> once for the image of a user's message, but does so ${marks.length / 5} times`,
    );
  }
});

test('supervised text: loss on the chosen segments', async () => {
  const segments = [
    { text: 'red to ', loss: false },
    { text: 'blue', loss: true },
    { text: '\n', loss: false },
  ];
  const row = await renderSupervised({ image, segments }, { tokens: 2 }, options);
  expect(row.ids).toEqual([...codes('u:'), IMG, IMG, ...codes('|a:'), ...codes('red to blue\n')]);
  expect(row.labels).toEqual([...new Array(7 + 7).fill(-100), ...codes('blue'), -100]);
  expect([row.latentSteps, row.latentStart, row.imageTokens]).toEqual([0, 7, 2]);
  const text = await renderSupervised({ segments }, null, options);
  expect(text.ids).toEqual(codes('u:|a:red to blue\n'));
  expect(text.imageTokens).toBe(0);
});
