import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  type RenderOptions,
  renderInference,
  renderPrompt,
  renderSupervised,
  renderTraining,
  tokenizeSample,
} from '../../data/render.ts';
import { qwen2VlPrompts } from '../../models/qwen2-vl/prompts.ts';
import { loadChatTemplate } from '../../text/chat-template.ts';
import { LATENT_TOKENS, Tokenizer } from '../../text/tokenizer.ts';
import { SPECIAL_TOKENS, UNKNOWN } from '../word-tokenizer.ts';
import { checkOptions, dominoesSample, imageReading, optionReading } from './generator.ts';
import { COLOURS } from './image.ts';
import { dominoesTokens, writeDominoesTokenizer } from './vocabulary.ts';

let folder = '';
let tokenizer: Tokenizer;
let options: RenderOptions;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-vocabulary-'));
  writeDominoesTokenizer(folder);
  tokenizer = Tokenizer.fromFolder(folder);
  options = {
    tokenizer,
    chatTemplate: loadChatTemplate(folder),
    profile: qwen2VlPrompts('consistent'),
    imageToken: '<|image_pad|>',
    latentToken: '<|latent|>',
    maxSteps: 4,
  };
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const names = (ids: readonly number[]) => ids.map((id) => tokenizer.idToToken(id));

test('ids are the places in the list, and the latent tokens are there already', () => {
  const tokens = dominoesTokens();
  expect(new Set(tokens).size).toBe(tokens.length);
  expect(tokenizer.vocabSize).toBe(tokens.length);
  expect(tokens.length).toBeLessThanOrEqual(60);
  expect(tokens.map((token) => tokenizer.tokenToId(token))).toEqual(tokens.map((_, id) => id));
  expect(tokenizer.addSpecialTokens(LATENT_TOKENS)).toEqual([tokens.length - 3, tokens.length - 2, tokens.length - 1]);
  expect(tokenizer.idToToken(tokenizer.eosId)).toBe('<|endoftext|>');
  expect(SPECIAL_TOKENS.every((token) => tokenizer.isAdded(tokenizer.tokenToId(token)!))).toBe(true);
});

test('the prompt is cut into its frame and words', async () => {
  const text =
    '[Question]:{Start at red, follow 3 dominoes: which colour?}\n[Options]:\n(A).{pink}\n(B).{cyan}\n(C).{white}\n(D).{blue}\nAnswer:\n';
  const ids = await tokenizer.encode(text);
  expect(names(ids)).toEqual([
    ...['[Question]:{', 'Start', 'at', 'red', ',', 'follow', '3', 'dominoes', ':', 'which', 'colour', '?'],
    ...['}\n[Options]:\n', '(A).{', 'pink', '}\n', '(B).{', 'cyan', '}\n', '(C).{', 'white', '}\n', '(D).{', 'blue'],
    ...['}\n', 'Answer:\n'],
  ]);
  expect(tokenizer.decode(ids)).toBe(text);
});

test('a colour is the same token with and without a space before it', async () => {
  for (const [name] of COLOURS) {
    const id = tokenizer.tokenToId(name)!;
    expect(await tokenizer.encode(name)).toEqual([id]);
    expect(await tokenizer.encode(` ${name}`)).toEqual([id]);
    expect(await tokenizer.encode(`{${name}}`)).toEqual([
      tokenizer.tokenToId(UNKNOWN),
      id,
      tokenizer.tokenToId(UNKNOWN),
    ]);
  }
});

test('a whole training row, stage 0 and stage 3', async () => {
  const sample = dominoesSample(1, 'train', 0);
  const tokenized = await tokenizeSample(sample, [{ tokens: 16 }], 'train', options);
  const [start] = sample.question.match(/(?<=at )\w+/)!;
  const hops = sample.rationale.split('. ').map((step) => step.split(' '));
  const row = renderTraining(tokenized, { latentSteps: 0, droppedSteps: 0 });
  const written = [
    ...hops.flatMap((words) => [...words, '\n']),
    ...['Therefore', ',', 'the', 'answer', 'is', sample.answer, '<|endoftext|>'],
  ];
  expect(written.length).toBe(23);
  expect(names(row.ids.slice(row.latentStart))).toEqual(written);
  expect(names(row.ids.slice(0, 2))).toEqual(['<|vision_start|>', '<|image_pad|>']);
  expect(names(row.ids.slice(16, 22))).toEqual([
    '<|image_pad|>',
    '<|vision_end|>',
    '[Question]:{',
    'Start',
    'at',
    start,
  ]);
  expect(row.ids).not.toContain(tokenizer.tokenToId(UNKNOWN));
  const last = renderTraining(tokenized, { latentSteps: 3, droppedSteps: 3 });
  expect(last.ids.length - last.latentStart - 3).toBe(11);
  expect(last.pickTargets).toEqual(sample.pickTargets!.slice(0, 3));
  const asked = renderInference(await tokenizeSample(sample, [{ tokens: 16 }], 'infer', options), 3);
  expect(asked.ids).toEqual(last.ids.slice(0, last.latentStart + 3));
});

test('no sample of any size has a word the tokenizer does not know, and decoding gives the texts back', async () => {
  const unknown = tokenizer.tokenToId(UNKNOWN)!;
  for (let hops = 1; hops <= 7; hops++) {
    const sample = dominoesSample(hops, 'test', hops, checkOptions({ hops, dominoes: Math.min(8, hops + 2) }));
    const prompt = renderPrompt(sample, options.profile, 'train');
    const texts = [prompt, `${sample.rationale}\n`, `Therefore, the answer is ${sample.answer}`];
    for (const text of texts) {
      const ids = await tokenizer.encode(text);
      expect(ids).not.toContain(unknown);
      expect(tokenizer.decode(ids)).toBe(text);
    }
  }
});

test('generated tokens stream as readable text', async () => {
  const text = 'pink is B\nTherefore, the answer is B';
  const ids = [...(await tokenizer.encode(text)), tokenizer.eosId];
  const stream = tokenizer.stream();
  expect(ids.map((id) => stream.push(id))).toEqual([
    ...['pink', ' is', ' B', '\n', 'Therefore', ',', ' the', ' answer', ' is', ' B', ''],
  ]);
});

test('pretraining rows predict one token a line', async () => {
  const seen = await renderSupervised(imageReading(3, 'train', 0, 5), { tokens: 16 }, options);
  const labelled = (labels: number[]) => labels.filter((label) => label !== -100);
  expect(seen.ids.length).toBe(18 + 5 * 4);
  expect(new Set(names(labelled(seen.labels))).size).toBe(5);
  seen.labels.forEach((label, at) => {
    if (label !== -100) expect(names(seen.ids.slice(at - 1, at + 2))).toEqual(['to', tokenizer.idToToken(label), '\n']);
  });
  const read = await renderSupervised(optionReading(3, 'train', 0, 6), null, options);
  expect(read.imageTokens).toBe(0);
  expect(read.ids.length).toBe(14 + 6 * 4);
  expect(labelled(read.labels).length).toBe(6);
  expect(names(labelled(read.labels)).every((name) => 'ABCD'.includes(name!))).toBe(true);
});
