import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount, zeros } from '@ivtlr/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RenderOptions } from '../data/render.ts';
import { UserError } from '../errors.ts';
import { qwen2VlPrompts } from '../models/qwen2-vl/prompts.ts';
import type { ProcessedImage } from '../models/types.ts';
import { Random } from '../random.ts';
import { dominoes } from '../tasks/dominoes/dominoes.ts';
import { writeDominoesTokenizer } from '../tasks/dominoes/vocabulary.ts';
import { loadChatTemplate } from '../text/chat-template.ts';
import { Tokenizer } from '../text/tokenizer.ts';
import { BatchMaker, type BatchOptions, disposeBatches, epochOrder, rampedDifficulty } from './batches.ts';
import { pretrainPhaseSchema } from './options.ts';
import { planRun, positionOf } from './schedule.ts';

let folder: string;
let render: RenderOptions;
let tokenizer: Tokenizer;
let baseline: number;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-batches-'));
  writeDominoesTokenizer(folder);
  tokenizer = Tokenizer.fromFolder(folder);
  baseline = liveTensorCount();
  render = {
    tokenizer,
    profile: qwen2VlPrompts('consistent', 'dominoes'),
    chatTemplate: loadChatTemplate(folder),
    imageToken: '<|image_pad|>',
    latentToken: '<|latent|>',
    maxSteps: 4,
  };
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

const process = async (): Promise<ProcessedImage> => ({
  pixels: zeros([1]),
  grid: [1, 8, 8],
  tokens: 16,
  tokenGrid: [4, 4],
  source: { width: 112, height: 112 },
});
const pretrain = [
  pretrainPhaseSchema.parse({
    name: 'read',
    steps: 2,
    mix: [
      { task: 'picture', batch: 3, weight: 2 },
      { task: 'options', batch: 2 },
    ],
    lr: 1,
  }),
];
const plan = planRun(pretrain, 4, 3, (epoch) => epoch);

function maker(more: Partial<BatchOptions> = {}, processImage = process): BatchMaker {
  const source = {
    samplesPerEpoch: 10,
    sample: async (epoch: number, place: number) => dominoes.generator!.sample(7, 'train', epoch * 10 + place),
  };
  const latent = { maxLatentStage: 2, padLatentToMax: true, replay: 0 };
  return new BatchMaker(source, dominoes.generator!.pretraining, processImage, {
    seed: 7,
    globalBatch: 4,
    microBatch: 2,
    answerOnly: false,
    latent,
    pretrain,
    render,
    padId: tokenizer.eosId,
    maxPositions: 1000,
    patches: 3,
    ...more,
  });
}

/** Text of the labelled tokens of a row. */
function written(labels: readonly number[]): string {
  return tokenizer.decode(labels.filter((label) => label >= 0));
}

describe('BatchMaker', () => {
  it('cuts a global batch into weighted micro-batches and ends an epoch with what is left', async () => {
    const micros = await maker().at(positionOf(plan, 2));
    expect(micros.map(({ ids, weight }) => [ids.length, weight])).toEqual([
      [2, 0.5],
      [2, 0.5],
    ]);
    const last = await maker().at(positionOf(plan, 4));
    expect(last.map(({ ids, weight }) => [ids.length, weight])).toEqual([[2, 1]]);
    expect(last[0]!.ids[1]).toMatch(/-9$/);
    disposeBatches([...micros, ...last]);
  });

  it('replaces written steps by latent slots, stage by stage', async () => {
    const texts: string[] = [];
    for (const [stage, slots] of [0, 1, 2, 2].entries()) {
      const micros = await maker().at(positionOf(plan, 2 + 3 * stage));
      expect(micros[0]!.batch.latentSteps).toBe(slots);
      texts.push(written(micros[0]!.batch.labels[0]!));
      disposeBatches(micros);
    }
    expect(texts.map((text) => text.split('\n').length - 1)).toEqual([4, 3, 2, 0]);
    expect(texts[3]).toMatch(/^Therefore, the answer is [A-D]$/);
  });

  it('writes the answer alone for no-cot', async () => {
    const micros = await maker({ answerOnly: true }).at(positionOf(plan, 2));
    expect(micros[0]!.batch.latentSteps).toBe(0);
    expect(written(micros[0]!.batch.labels[0]!)).toMatch(/^Therefore, the answer is [A-D]$/);
    disposeBatches(micros);
  });

  it('replays earlier stages, never stage 0', async () => {
    const latent = { maxLatentStage: 3, padLatentToMax: true, replay: 0.7 };
    const seen = new Map<number, number>();
    for (let step = 0; step < 40; step++) {
      const position = { ...positionOf(plan, 11), phaseStep: step, epochStep: step % 2 };
      const micros = await maker({ latent }).at(position);
      for (const { batch } of micros) seen.set(batch.latentSteps, (seen.get(batch.latentSteps) ?? 0) + 1);
      disposeBatches(micros);
    }
    expect([...seen.keys()].sort()).toEqual([1, 2, 3]);
    const share = 1 - seen.get(3)! / 80;
    expect(share).toBeGreaterThan(0.55);
    expect(share).toBeLessThan(0.85);
  });

  it('mixes pretraining texts with their weights', async () => {
    const micros = await maker().at(positionOf(plan, 1));
    expect(micros.map(({ ids, weight }) => [ids.length, weight])).toEqual([
      [2, 2 * (2 / 3)],
      [1, 2 / 3],
      [2, 1],
    ]);
    expect(micros.map(({ batch }) => batch.images.some((images) => images.length > 0))).toEqual([true, true, false]);
    expect(micros[0]!.ids[0]).toBe('read/picture 3');
    disposeBatches(micros);
  });

  it('gives the same batch for the same position, and others for another', async () => {
    const [a, b, c] = await Promise.all([3, 3, 6].map((step) => maker().at(positionOf(plan, step))));
    expect(a!.map(({ batch }) => batch.inputIds)).toEqual(b!.map(({ batch }) => batch.inputIds));
    expect(a!.map(({ ids }) => ids)).not.toEqual(c!.map(({ ids }) => ids));
    disposeBatches([...a!, ...b!, ...c!]);
  });

  it('refuses a row that is longer than the positions of the model, by its name', async () => {
    const live = liveTensorCount();
    const micros = await maker().at(positionOf(plan, 8));
    const { latentSteps } = micros[0]!.batch;
    const lengths = micros.flatMap(({ batch }) => batch.inputIds.map(({ length }) => length));
    // The slots stand for a text and three patches each.
    const needed = Math.max(...lengths) + latentSteps * 3;
    expect(latentSteps).toBe(2);
    disposeBatches([...micros, ...(await maker({ maxPositions: needed }).at(positionOf(plan, 8)))]);
    const failed = await maker({ maxPositions: needed - 1 })
      .at(positionOf(plan, 8))
      .catch((error: unknown) => error as UserError);
    expect(failed).toBeInstanceOf(UserError);
    expect((failed as UserError).message).toMatch(
      new RegExp(
        `^sample \\S+ takes ${needed} positions .*, but the model has ${needed - 1} \\(max_position_embeddings\\)`,
      ),
    );
    await expect(maker({ maxPositions: 10 }).at(positionOf(plan, 1))).rejects.toThrow(
      /^sample read\/picture 3 takes \d+ positions .*, but the model has 10 /,
    );
    expect(liveTensorCount()).toBe(live);
  });

  it('frees the images it had when a later one cannot be read', async () => {
    const live = liveTensorCount();
    let asked = 0;
    const failing = async () => {
      if (asked++ === 2) throw new Error('no image');
      return process();
    };
    await expect(maker({}, failing).at(positionOf(plan, 2))).rejects.toThrow('no image');
    expect(asked).toBe(3);
    expect(liveTensorCount()).toBe(live);
  });
});

describe('order and difficulty', () => {
  it('shuffles anew each epoch', () => {
    const first = epochOrder(1, 0, 50);
    expect([...first].sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i));
    expect(epochOrder(1, 1, 50)).not.toEqual(first);
    expect(epochOrder(1, 0, 50)).toEqual(first);
  });

  it('ramps difficulty up to its end', () => {
    const ramp = { from: 2, to: 7, steps: 100 };
    const at = (step: number) =>
      Array.from({ length: 200 }, (_, i) => rampedDifficulty(ramp, step, new Random(i, step)));
    expect(new Set(at(0))).toEqual(new Set([2]));
    expect(Math.max(...at(50))).toBe(5);
    expect(Math.min(...at(50))).toBe(2);
    expect(new Set(at(100))).toEqual(new Set([7]));
  });
});
