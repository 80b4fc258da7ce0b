/** The training loss and its gradients, against finite differences in float64. */
import {
  crossEntropy,
  grad,
  keep,
  liveTensorCount,
  manualSeed,
  noGrad,
  randn,
  scope,
  setNumThreads,
  type Tensor,
  tensor,
  zeros,
} from '@ivtlr/torch';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { LOSS_OPTIONS as OPTIONS, LOSS_ROWS as ROWS } from '../../../../test/loss-rows.ts';
import { TINY_IDS, type TinyRow, tinyBatch, tinyModel } from '../../../../test/tiny-model.ts';
import type { Batch } from '../data/collate.ts';
import { generateAll } from '../latent/generate.ts';
import { tokensOf } from '../latent/image-columns.ts';
import { Rollout } from '../latent/rollout.ts';
import { embedPrompt, Sequence, toIds } from '../latent/sequence.ts';
import type { Qwen2VL } from '../models/qwen2-vl/model.ts';
import { type LossOptions, trainingLoss } from './loss.ts';

setNumThreads(1);

/** One of each kind: decoder, embedding, head, norms, vision tower. */
const CHECKED = [
  'model.embed_tokens.weight',
  'model.layers.0.self_attn.q_proj.weight',
  'model.layers.0.self_attn.k_proj.bias',
  'model.layers.1.self_attn.v_proj.weight',
  'model.layers.1.self_attn.o_proj.weight',
  'model.layers.0.mlp.down_proj.weight',
  'model.layers.1.input_layernorm.weight',
  'model.norm.weight',
  'lm_head.weight',
  'visual.patch_embed.proj.weight',
  'visual.blocks.0.attn.qkv.weight',
  'visual.merger.mlp.2.weight',
];

let model: Qwen2VL;
let batch: Batch;
let directions: Map<string, Tensor>;
let baseline = 0;
beforeAll(() => {
  model = tinyModel({ dtype: 'float64', seed: 4 });
  batch = scope(() => keep(tinyBatch(ROWS)));
  manualSeed(8);
  directions = new Map(
    CHECKED.map((name) => {
      const random = () => randn(model.namedParameters().get(name)!.shape, { dtype: 'float64' });
      return [name, scope(() => unit(random()))];
    }),
  );
  scope(() => noGrad(() => trainingLoss(model, batch, OPTIONS))); // rotary tables stay with the model
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => {
  model.dispose();
  for (const { pixels } of batch.images.flat()) pixels.dispose();
  for (const direction of directions.values()) direction.dispose();
});

function unit(x: Tensor): Tensor {
  return x.div(x.pow(2).sum().sqrt());
}

interface Value {
  value: number;
  picked: number[][][];
}

/** Slopes of `evaluate` along each parameter's direction. The picks must not change, or the function would jump. */
function slopes(evaluate: () => Value): number[] {
  const step = 1e-5;
  const base = evaluate().picked;
  return CHECKED.map((name) =>
    noGrad(() =>
      scope(() => {
        const parameter = model.namedParameters().get(name)!;
        const direction = directions.get(name)!;
        const before = parameter.clone();
        const at = (scale: number) => {
          parameter.copy_(before.add(direction, scale * step));
          const { value, picked } = evaluate();
          expect(picked).toEqual(base);
          return value;
        };
        const slope = (at(1) - at(-1)) / (2 * step);
        parameter.copy_(before);
        return slope;
      }),
    ),
  );
}

/** The same slopes from the gradient. */
function gradientSlopes(options: LossOptions, of: 'loss' | 'crossEntropy' = 'loss', rows: Batch = batch): number[] {
  return scope(() => {
    const parameters = CHECKED.map((name) => model.namedParameters().get(name)!);
    const gradients = grad([trainingLoss(model, rows, options)[of]], parameters, { allowUnused: true });
    return gradients.map((gradient, i) => gradient?.mul(directions.get(CHECKED[i]!)!).sum().item() ?? 0);
  });
}

function evaluateLoss(options: LossOptions): () => Value {
  return () =>
    scope(() => {
      const { loss, picked } = trainingLoss(model, batch, options);
      return { value: loss.item(), picked };
    });
}

function expectEqual(got: number[], wanted: number[], tolerance = 1e-8): void {
  got.forEach((value, i) => {
    expect(Math.abs(value - wanted[i]!), CHECKED[i]).toBeLessThan(tolerance * (1 + Math.abs(wanted[i]!)));
  });
  expect(wanted.every((slope) => Math.abs(slope) > 1e-5)).toBe(true); // nothing is tested by zeros
}

const VARIANTS: [string, Partial<LossOptions>][] = [
  ['plain', {}],
  ['image hidden from latent rows', { hideImageFromLatents: true }],
  ['supervised picks', { pickSupervision: 0.7 }],
  ['supervised picks and hidden image', { pickSupervision: 0.7, hideImageFromLatents: true }],
  ['M-RoPE positions, picks by score', { positions: 'mrope', pickOrder: 'score' }],
  ['more patches than are left', { patches: 4 }],
  ['latent text only', { latentVision: 'off' }],
  ['memory of one step', { latentMemory: 'last' }],
  [
    'memory of one step, supervised, image hidden from text, too',
    { latentMemory: 'last', hideImageFromText: true, pickSupervision: 0.7, positions: 'mrope' },
  ],
  ['image hidden from text alone', { hideImageFromText: true, patches: 4 }],
  ['latent vision only', { latentText: 'off', pickSupervision: 0.7 }],
  ['supervised values', { carrySupervision: 0.6 }],
  [
    'supervised values and picks, memory of one step',
    { carrySupervision: 0.6, latentMemory: 'last', pickSupervision: 0.7 },
  ],
];

describe('through: the gradient of the loss as it is', () => {
  test.each(VARIANTS)('%s', (_, more) => {
    const options = { ...OPTIONS, ...more };
    expectEqual(gradientSlopes(options), slopes(evaluateLoss(options)));
  });
});

/** The loss as a function of the weights with what the latent steps inserted held fixed, in uncached passes. */
function frozenLoss(options: LossOptions): () => Value {
  const inserted = scope(() =>
    keep(
      noGrad(() => {
        const prompt = embedPrompt(model, batch, options.positions);
        const cache = model.newCache(ROWS.length, 100);
        const sequence = new Sequence(model, prompt, cache, options);
        const steps = new Rollout(sequence, options, { detach: true, attentionScores: 'detached' }).run(
          batch.latentSteps,
        );
        cache.dispose();
        return steps.map(({ inserted, mask }) => ({ inserted, mask }));
      }),
    ),
  );
  frozen.push(...inserted.map((step) => step.inserted));
  return () =>
    scope(() => {
      const prompt = embedPrompt(model, batch, options.positions);
      const upTo = (steps: number) => {
        const sequence = new Sequence(model, prompt, null, options);
        for (const { inserted: rows, mask } of inserted.slice(0, steps)) sequence.push(rows, { mask, latent: true });
        return sequence;
      };
      let pickLoss = 0;
      if (options.pickSupervision > 0)
        for (let t = 0; t < batch.latentSteps; t++) {
          const scores = upTo(t).run('detached').scores!.tolist() as number[][];
          pickLoss += scores.reduce((sum, row, b) => sum + pickLossOf(row, b, t), 0) / ROWS.length;
        }
      let carryLoss = 0;
      if (options.carrySupervision)
        for (let t = 1; t <= batch.latentSteps; t++) {
          const { hidden } = upTo(t).run();
          const logits = model.logits(hidden.narrow(1, hidden.shape[1]! - 1, 1)).tolist() as number[][][];
          carryLoss += logits.reduce((sum, [row], b) => sum + carryLossOf(row!, b, t - 1), 0);
        }
      carryLoss /= ROWS.length * batch.latentSteps;
      const sequence = upTo(batch.latentSteps);
      const before = sequence.pending;
      const first = batch.latentStart + batch.latentSteps;
      sequence.push(
        model.embed(
          toIds(
            batch.inputIds.map((row) => row.slice(first)),
            'cpu',
          ),
        ),
        {
          mask: batch.attentionMask.map((row) => row.slice(first)),
        },
      );
      const logits = model.logits(sequence.run().hidden);
      const losses = ROWS.flatMap(({ text }, b) =>
        text!.map((label, n) => {
          const row = logits.select(0, b).select(0, before + n - 1);
          return crossEntropy(row.unsqueeze(0), tensor([label], { dtype: 'int64' })).item();
        }),
      );
      const mean = losses.reduce((a, c) => a + c, 0) / losses.length;
      const value = mean + options.pickSupervision * pickLoss + (options.carrySupervision ?? 0) * carryLoss;
      return { value, picked: [] };
    });
}

let frozen: Tensor[] = [];
afterEach(() => {
  for (const rows of frozen) rows.dispose();
  frozen = [];
});

const imageStart = (b: number) => batch.inputIds[b]!.indexOf(TINY_IDS.image);

/** -log of the targets' share of a row's attention on the image; 0 where nothing is known. */
function pickLossOf(scores: number[], b: number, step: number): number {
  const targets = ROWS[b]!.pickTargets![step]!;
  if (targets.length === 0) return 0;
  const own = scores.slice(imageStart(b), imageStart(b) + tokensOf(batch.images[b]!));
  const sum = own.reduce((a, c) => a + c, 0);
  return -Math.log(targets.reduce((a, index) => a + own[index]!, 0) / sum + 1e-6);
}

describe('detached: the gradient with what was inserted held fixed', () => {
  test.each(VARIANTS)('%s', (_, more) => {
    const options: LossOptions = { ...OPTIONS, ...more, latentGradient: 'detached' };
    const got = gradientSlopes(options);
    const evaluate = frozenLoss(options);
    expect(evaluate().value).toBeCloseTo(evaluateLoss(options)().value, 9);
    expectEqual(got, slopes(evaluate));
    for (const rows of frozen) rows.dispose();
    frozen = [];
  });

  test('differs from through, though the loss is the same', () => {
    const detached: LossOptions = { ...OPTIONS, latentGradient: 'detached' };
    expect(evaluateLoss(detached)().value).toBeCloseTo(evaluateLoss(OPTIONS)().value, 10);
    const [a, b] = [gradientSlopes(detached), gradientSlopes(OPTIONS)];
    expect(Math.max(...a.map((slope, i) => Math.abs(slope - b[i]!)))).toBeGreaterThan(1e-3);
  });

  test('the path with a graph (for supervised picks) gives the same as the one without', () => {
    const plain: LossOptions = { ...OPTIONS, latentGradient: 'detached' };
    const supervised = { ...plain, pickSupervision: 0.5 };
    scope(() => {
      const [a, b] = [trainingLoss(model, batch, plain), trainingLoss(model, batch, supervised)];
      expect(b.crossEntropy.item()).toBeCloseTo(a.crossEntropy.item(), 10);
      expect([b.picked, b.tokens, b.correct.item()]).toEqual([a.picked, a.tokens, a.correct.item()]);
      expect(a.pickLoss).toBeNull();
    });
    expectEqual(gradientSlopes(supervised, 'crossEntropy'), gradientSlopes(plain), 1e-9);
  });
});

/** -log of the probability of the value that a step hands on, among all values. */
function carryLossOf(logits: number[], b: number, step: number): number {
  const { targets, values } = ROWS[b]!.carried!;
  const sum = values.reduce((total, token) => total + Math.exp(logits[token]!), 0);
  return Math.log(sum) - logits[targets[step]!]!;
}

test('the numbers beside the loss', () => {
  scope(() => {
    const {
      loss,
      crossEntropy: entropy,
      pickLoss,
      tokens,
      picked,
    } = trainingLoss(model, batch, { ...OPTIONS, pickSupervision: 0.7 });
    expect(loss.item()).toBeCloseTo(entropy.item() + 0.7 * pickLoss!.item(), 12);
    expect(tokens).toBe(8);
    expect(picked.map((rows) => rows.map((row) => row.length))).toEqual([
      [2, 2],
      [2, 2],
    ]);
    expect(loss.dtype).toBe('float64');
  });
});

/** The batch up to its last latent slot, as it would be asked. */
function asked(made: Batch): Batch {
  const cut = (rows: readonly number[][]) => rows.map((row) => row.slice(0, made.latentStart + made.latentSteps));
  return {
    ...made,
    inputIds: cut(made.inputIds),
    labels: cut(made.labels),
    attentionMask: cut(made.attentionMask),
  };
}

test('pick loss of known scores', () => {
  scope(() => {
    const { traces } = generateAll(model, asked(batch), { ...OPTIONS, maxNewTokens: 0, eosIds: [], trace: true });
    const wanted = traces.map((steps, b) =>
      steps.map(({ scores }, t) => pickLossOf([...new Array<number>(imageStart(b)).fill(0), ...scores], b, t)),
    );
    const { pickLoss } = trainingLoss(model, batch, { ...OPTIONS, pickSupervision: 1 });
    expect(pickLoss!.item()).toBeCloseTo(wanted.flat().reduce((a, c) => a + c, 0) / 2, 9);
    expect(wanted[1]![0]).toBe(0); // no target is known there
  });
});

test('supervision without targets, or without latent steps, is no supervision', () => {
  scope(() => {
    const untold = tinyBatch(ROWS.map(({ pickTargets: _, ...row }) => row));
    expect(trainingLoss(model, untold, { ...OPTIONS, pickSupervision: 1 }).pickLoss).toBeNull();
    const plain = tinyBatch(ROWS.map((row) => ({ ...row, latentSteps: 0, pickTargets: [] })));
    expect(trainingLoss(model, plain, { ...OPTIONS, pickSupervision: 1 })).toMatchObject({
      pickLoss: null,
      picked: [],
    });
    const empty = tinyBatch(ROWS.map((row) => ({ ...row, pickTargets: [[], []] })));
    const { loss, crossEntropy: entropy } = trainingLoss(model, empty, { ...OPTIONS, pickSupervision: 1 });
    expect(loss.item()).toBe(entropy.item());
  });
});

test.each(['detached', 'through'] as const)(
  'a padded batch is the token-weighted mean of its rows: %s',
  (latentGradient) => {
    for (const latentSteps of [0, 2]) {
      const options = { ...OPTIONS, latentGradient };
      const rows = ROWS.map((row) => ({ ...row, latentSteps }));
      const [together, alone] = scope(() => {
        const evaluate = (some: TinyRow[]) => {
          const made = tinyBatch(some);
          const { loss, tokens, correct } = trainingLoss(model, made, options);
          return { loss: loss.item(), tokens, correct: correct.item(), slopes: gradientSlopes(options, 'loss', made) };
        };
        return [evaluate(rows), rows.map((row) => evaluate([row]))] as const;
      });
      expect(alone.map(({ tokens }) => tokens)).toEqual([3, 5]);
      const weighted = (pick: (part: (typeof alone)[number]) => number) =>
        (3 * pick(alone[0]!) + 5 * pick(alone[1]!)) / 8;
      expect(together.loss).toBeCloseTo(
        weighted(({ loss }) => loss),
        9,
      );
      expect(together.tokens).toBe(8);
      expect(together.correct).toBe(alone[0]!.correct + alone[1]!.correct);
      together.slopes.forEach((slope, i) => {
        expect(slope).toBeCloseTo(
          weighted((part) => part.slopes[i]!),
          7,
        );
      });
    }
  },
);

test('a batch without labels is refused', () => {
  scope(() => {
    const silent = tinyBatch(ROWS.map((row) => ({ ...row, text: [] })));
    expect(() => trainingLoss(model, silent, OPTIONS)).toThrow(/no token of the batch is labelled/);
  });
});

test('a model that has answered can be trained: nothing of inference stays in its way', () => {
  const fresh = tinyModel({ seed: 6 });
  scope(() => {
    const made = tinyBatch(ROWS);
    generateAll(fresh, asked(made), { ...OPTIONS, maxNewTokens: 2, eosIds: [] });
    trainingLoss(fresh, made, OPTIONS).loss.backward();
    const gradient = fresh.namedParameters().get('visual.patch_embed.proj.weight')!.grad!;
    expect(gradient.sub(zeros(gradient.shape)).abs().max().item()).toBeGreaterThan(0);
  });
  fresh.dispose();
});
