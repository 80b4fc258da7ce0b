/** Rows of both tasks against an independent Python rendering, which the official code agrees with; see README.md for the goldens. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  type RenderOptions,
  renderInference,
  renderPrompt,
  renderTraining,
  splitSteps,
  tokenizeSample,
} from '../../packages/ivtlr/src/data/render.ts';
import type { Sample } from '../../packages/ivtlr/src/data/sample.ts';
import { openWithoutWeights } from '../../packages/ivtlr/src/engine/folder-rendering.ts';
import { curriculum } from '../../packages/ivtlr/src/latent/curriculum.ts';
import { findTask } from '../../packages/ivtlr/src/tasks/registry.ts';
import { readGolden } from './model.ts';
import { writeQwenTokenizer } from './qwen-tokenizer.ts';

type ByProfile<T> = Record<'official' | 'consistent', T>;

interface Case {
  task: string;
  row: Record<string, unknown>;
  max_tokens: number;
  max_steps: number;
  steps: string[];
  prompts: ByProfile<{ train: string; infer: string }>;
  prompt_ids: number[];
  infer_ids: ByProfile<number[]>;
  step_ids: number[][];
  truncated: number;
  answer_ids: number[];
  plans: { stage: number; max_latent_stage: number; pad_latent_to_max: boolean; latents: number; written: number[] }[];
}

const goldens = readGolden<{ image_tokens: number; latent_id: number; eos_id: number; cases: Case[] }>('render.json');

let folder = '';
const render: ByProfile<(task: string) => RenderOptions> = {} as never;
beforeAll(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'ivtlr-render-'));
  writeQwenTokenizer(folder);
  fs.writeFileSync(join(folder, 'config.json'), '{"model_type":"qwen2_vl"}');
  for (const profile of ['official', 'consistent'] as const) {
    const opened = openWithoutWeights(folder, { profile });
    render[profile] = opened.renderOptions;
    expect(opened.tokenizer.eosId).toBe(goldens.eos_id);
  }
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

function sampleOf({ task, row }: Case): Sample {
  return findTask(task).rowToSample({ ...row, image: { bytes: new Uint8Array(1), path: null } }, 'golden', 0)!;
}

test('forty rows a task at least, and every rule among them', () => {
  const { cases } = goldens;
  for (const task of ['m3cot', 'scienceqa']) {
    const own = cases.filter((entry) => entry.task === task);
    expect(own.length).toBeGreaterThanOrEqual(40);
    for (const steps of [0, 1, 2, 3]) expect(own.some((entry) => entry.steps.length === steps)).toBe(true);
    for (const choices of [0, 5])
      expect(own.some(({ row }) => (row.choices as string[]).length === choices)).toBe(true);
    for (const truncated of [1, 2, 3]) expect(own.some((entry) => entry.truncated === truncated)).toBe(true);
    expect(own.some((entry) => entry.max_tokens === 3400 && entry.truncated > 0)).toBe(true);
    expect(own.some(({ row }) => /[{}]/.test(row.question as string))).toBe(true);
    expect(own.some(({ steps }) => steps.some((step) => /[^\x20-\x7e]/.test(step)))).toBe(true);
  }
});

test('steps and prompts, letter by letter', () => {
  for (const entry of goldens.cases) {
    const sample = sampleOf(entry);
    expect(splitSteps(sample.rationale, entry.max_steps), sample.id).toEqual(entry.steps);
    for (const profile of ['official', 'consistent'] as const) {
      for (const phase of ['train', 'infer'] as const) {
        const text = renderPrompt(sample, render[profile](entry.task).profile, phase);
        expect(text, `${sample.id} ${profile} ${phase}`).toBe(entry.prompts[profile][phase]);
      }
    }
  }
});

test('token ids and labels of every stage', async () => {
  const { image_tokens: imageTokens, latent_id: latentId } = goldens;
  for (const entry of goldens.cases) {
    const sample = sampleOf(entry);
    const name = `${entry.task} ${sample.id}`;
    const options = { ...render.official(entry.task), maxSteps: entry.max_steps, maxTokens: entry.max_tokens };
    const tokenized = await tokenizeSample(sample, [{ tokens: imageTokens }], 'train', options);
    expect(tokenized.promptIds, name).toEqual(entry.prompt_ids);
    expect(tokenized.stepIds, name).toEqual(entry.step_ids);
    expect(tokenized.answerIds, name).toEqual(entry.answer_ids);
    expect(tokenized.truncatedSteps, name).toBe(entry.truncated);
    for (const plan of entry.plans) {
      const ours = curriculum(
        plan.stage,
        { maxLatentStage: plan.max_latent_stage, padLatentToMax: plan.pad_latent_to_max },
        tokenized.stepIds.length,
      );
      const rendered = renderTraining(tokenized, ours);
      const rest = [...plan.written.flatMap((step) => entry.step_ids[step]!), ...entry.answer_ids];
      const front = [...entry.prompt_ids, ...new Array<number>(plan.latents).fill(latentId)];
      expect(rendered.ids, `${name} stage ${plan.stage}`).toEqual([...front, ...rest]);
      expect(rendered.labels, `${name} stage ${plan.stage}`).toEqual([...front.map(() => -100), ...rest]);
      expect(rendered.latentStart).toBe(entry.prompt_ids.length);
    }
  }
});

test('what inference gives the model', async () => {
  for (const entry of goldens.cases) {
    const sample = sampleOf(entry);
    for (const profile of ['official', 'consistent'] as const) {
      const tokenized = await tokenizeSample(
        sample,
        [{ tokens: goldens.image_tokens }],
        'infer',
        render[profile](entry.task),
      );
      const expected = [...entry.infer_ids[profile], ...new Array<number>(3).fill(goldens.latent_id)];
      expect(renderInference(tokenized, 3).ids, `${entry.task} ${sample.id} ${profile}`).toEqual(expected);
    }
  }
});

test('the limit of the family holds when none is given', () => {
  expect(render.official('m3cot').maxTokens).toBe(3400);
});

test("a text that spells a token of Qwen2-VL's is refused, in every place; what only looks like one is text", async () => {
  const sample = sampleOf(goldens.cases.find((entry) => entry.task === 'm3cot')!);
  const ids = async (more: Partial<Sample>, profile: 'official' | 'consistent') =>
    (await tokenizeSample({ ...sample, ...more }, [{ tokens: 4 }], 'train', render[profile]('m3cot'))).promptIds;
  for (const token of [
    '<|im_end|>',
    '<|im_start|>',
    '<|image_pad|>',
    '<|vision_start|>',
    '<|endoftext|>',
    '<|latent|>',
  ]) {
    const text = `see ${token}!`;
    for (const profile of ['official', 'consistent'] as const) {
      await expect(ids({ question: text }, profile)).rejects.toThrow(`the question spells ${token}, a token`);
      await expect(ids({ choices: [text, 'b'] }, profile)).rejects.toThrow(`choice A spells ${token}, a token`);
      await expect(ids({ rationale: text }, profile)).rejects.toThrow(`the rationale spells ${token}, a token`);
      await expect(ids({ answer: text }, profile)).rejects.toThrow(`the answer spells ${token}, a token`);
      expect((await ids({ question: '<| im_end|> <s> <image>' }, profile)).length).toBeGreaterThan(0);
    }
  }
});
