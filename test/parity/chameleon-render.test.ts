/** Rows of both tasks for Chameleon against transformers' processor and the official code; see README.md for the goldens. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  IGNORE,
  type RenderOptions,
  renderInference,
  renderPrompt,
  renderTraining,
  tokenizeSample,
} from '../../packages/ivtlr/src/data/render.ts';
import type { Sample } from '../../packages/ivtlr/src/data/sample.ts';
import { openWithoutWeights } from '../../packages/ivtlr/src/engine/folder-rendering.ts';
import { curriculum } from '../../packages/ivtlr/src/latent/curriculum.ts';
import { findTask } from '../../packages/ivtlr/src/tasks/registry.ts';
import { readGolden } from './model.ts';

type Profile = 'official' | 'consistent';

interface Case {
  task: string;
  row: Record<string, unknown>;
  max_tokens: number;
  steps: string[];
  /** With one image token; without what the processor adds. */
  prompts: { official: { train: string; infer: string }; consistent: string };
  prompt_ids: number[];
  infer_ids: Record<Profile, number[]>;
  step_ids: number[][];
  truncated: number;
  answer_ids: number[];
  plans: { stage: number; max_latent_stage: number; pad_latent_to_max: boolean; latents: number; written: number[] }[];
}

interface Goldens {
  image_tokens: number;
  latent_id: number;
  eos_id: number;
  image_id: number;
  separator_id: number;
  cases: Case[];
}

const goldens = readGolden<Goldens>('chameleon-render.json');
const { image_tokens: N, image_id: imageId, latent_id: latentId, separator_id: separator } = goldens;

let folder = '';
const render: Record<Profile, (task: string) => RenderOptions> = {} as never;
beforeAll(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'ivtlr-render-'));
  fs.cpSync(fileURLToPath(new URL('goldens/chameleon-tokenizer', import.meta.url)), folder, { recursive: true });
  fs.writeFileSync(join(folder, 'config.json'), '{"model_type":"chameleon"}');
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

/** The image's one id as N. */
function unfolded(ids: readonly number[]): number[] {
  return ids.flatMap((id) => (id === imageId ? new Array<number>(N).fill(id) : [id]));
}

test('forty rows a task at least, and every rule among them', () => {
  for (const task of ['m3cot', 'scienceqa']) {
    const own = goldens.cases.filter((entry) => entry.task === task);
    expect(own.length).toBeGreaterThanOrEqual(40);
    for (const choices of [0, 5])
      expect(own.some(({ row }) => (row.choices as string[]).length === choices)).toBe(true);
    expect(own.some((entry) => entry.max_tokens === 1400 && entry.truncated > 0)).toBe(true);
    expect(own.some(({ row }) => /[{}]/.test(row.question as string))).toBe(true);
    expect(own.some(({ row }) => /^\s/.test(row.question as string))).toBe(true);
    expect(own.some(({ steps }) => steps.some((step) => /[^\x20-\x7e]/.test(step)))).toBe(true);
  }
  expect(goldens.cases.some(({ row }) => row.lecture === null)).toBe(true);
});

test('prompts, letter by letter', () => {
  const front = '<s><racm3:break><image><eoss>';
  for (const entry of goldens.cases) {
    const sample = sampleOf(entry);
    const text = (profile: Profile, phase: 'train' | 'infer') =>
      renderPrompt(sample, render[profile](entry.task).profile, phase);
    const { official, consistent } = entry.prompts;
    expect(text('official', 'train'), sample.id).toBe(official.train);
    expect(text('official', 'infer'), sample.id).toBe(official.infer.replace('<image>', front));
    expect(text('consistent', 'train'), sample.id).toBe(consistent.replace('<image>', front));
    expect(text('consistent', 'infer'), sample.id).toBe(consistent.replace('<image>', front));
  }
});

test('official training: token ids and labels of every stage', async () => {
  for (const entry of goldens.cases) {
    const sample = sampleOf(entry);
    const name = `${entry.task} ${sample.id}`;
    const options = { ...render.official(entry.task), maxTokens: entry.max_tokens };
    const tokenized = await tokenizeSample(sample, [{ tokens: N }], 'train', options);
    expect(tokenized.promptIds, name).toEqual(unfolded(entry.prompt_ids));
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
      const front = [...unfolded(entry.prompt_ids), ...new Array<number>(plan.latents).fill(latentId)];
      expect(rendered.ids, `${name} stage ${plan.stage}`).toEqual([...front, ...rest]);
      expect(rendered.labels, `${name} stage ${plan.stage}`).toEqual([...front.map(() => IGNORE), ...rest]);
    }
  }
});

test("inference: the processor's ids, the separator behind the slots", async () => {
  for (const entry of goldens.cases) {
    const sample = sampleOf(entry);
    for (const profile of ['official', 'consistent'] as const) {
      const tokenized = await tokenizeSample(sample, [{ tokens: N }], 'infer', render[profile](entry.task));
      const name = `${entry.task} ${sample.id} ${profile}`;
      expect(renderInference(tokenized, 3).ids, name).toEqual(unfolded(entry.infer_ids[profile]));
      expect(renderInference(tokenized, 0).ids.at(-1), name).toBe(separator);
    }
  }
});

test('consistent training is the inference row with steps and answer behind it, the separator without label', async () => {
  for (const entry of goldens.cases) {
    const sample = sampleOf(entry);
    const options = { ...render.consistent(entry.task), maxTokens: 1e6 };
    const row = renderTraining(await tokenizeSample(sample, [{ tokens: N }], 'train', options), {
      latentSteps: 3,
      droppedSteps: 100,
    });
    const front = unfolded(entry.infer_ids.consistent);
    expect(row.ids).toEqual([...front, ...entry.answer_ids]);
    expect(row.labels).toEqual([...front.map(() => IGNORE), ...entry.answer_ids]);
  }
});

test('the limit of the family holds when none is given', () => {
  expect(render.official('m3cot').maxTokens).toBe(1400);
});

test("a text that spells a token of Chameleon's is refused, in every place", async () => {
  const sample = sampleOf(goldens.cases.find((entry) => entry.task === 'm3cot')!);
  const ids = (more: Partial<Sample>, phase: 'train' | 'infer') =>
    tokenizeSample({ ...sample, ...more }, [{ tokens: N }], phase, render.official('m3cot'));
  for (const token of ['<s>', '</s>', '<image>', '<reserved08706>', '<racm3:break>', 'IMGIMGAZ', '<|latent|>']) {
    const text = `see ${token}!`;
    for (const phase of ['train', 'infer'] as const) {
      await expect(ids({ question: text }, phase)).rejects.toThrow(`the question spells ${token}, a token`);
      await expect(ids({ choices: [text, 'b'] }, phase)).rejects.toThrow(`choice A spells ${token}, a token`);
    }
    await expect(ids({ rationale: text }, 'train')).rejects.toThrow(`the rationale spells ${token}, a token`);
    await expect(ids({ answer: text }, 'train')).rejects.toThrow(`the answer spells ${token}, a token`);
  }
});
