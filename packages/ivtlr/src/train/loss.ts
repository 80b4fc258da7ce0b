/**
 * The training loss of a batch (docs/method.md, training): latent steps, then mean cross-entropy over the written text that follows.
 * Shapes: B batch, P prompt columns, S all columns, D hidden size, V vocabulary, N image tokens.
 */
import {
  cat,
  crossEntropy,
  noGrad,
  SegmentedPass,
  type SegmentObserver,
  scope,
  type Tensor,
  tensor,
  toDevice,
} from '@ivtlr/torch';
import type { Batch } from '../data/collate.ts';
import { IGNORE } from '../data/render.ts';
import type { LatentOptions } from '../latent/options.ts';
import { type LatentStep, Rollout } from '../latent/rollout.ts';
import { embedPrompt, Sequence, toIds } from '../latent/sequence.ts';
import type { VisionLanguageModel } from '../models/types.ts';

export interface LossOptions extends LatentOptions {
  /** `detached`: inserted rows are constants (official). `through`: gradients flow back through the latent steps. */
  latentGradient: 'detached' | 'through';
  /** Weight of -log of the target patches' share of the image's attention, summed over steps; 0 is off. */
  pickSupervision: number;
  /** Weight of the cross-entropy of the values that the latent steps hand on, as the output layer reads them off the last hidden state after each step; 0 is off. */
  carrySupervision?: number;
  /**
   * Run every decoder layer a second time in the backward pass instead of keeping its activations. Only for `detached` without supervision:
   * gradients that flow through the cache of the latent steps need the whole graph.
   */
  activationCheckpointing?: boolean;
  /** Told which parts of the model are read next and whose gradients are complete; the pass is then cut into segments. */
  observer?: SegmentObserver | null;
}

export interface TrainingLoss {
  /** Scalar: crossEntropy + pickSupervision * pickLoss + carrySupervision * carryLoss. With graph, except when the pass is cut into segments. */
  loss: Tensor;
  /** Adds the gradients of `factor * loss` to the parameters' `.grad`. Once. */
  backward(factor?: number): void;
  /** Scalar: mean over the labelled tokens, nats. */
  crossEntropy: Tensor;
  /** Scalar: mean over rows of the summed -log shares; null when not supervised. */
  pickLoss: Tensor | null;
  /** Scalar: mean over rows and steps of the cross-entropy of the value handed on, nats; null when not supervised. */
  carryLoss: Tensor | null;
  /** Labelled tokens. */
  tokens: number;
  /** How many of them were the most likely ones: a scalar, int64, so that nobody waits for it here. */
  correct: Tensor;
  /** Per latent step and row: the image tokens inserted. */
  picked: number[][][];
}

/** Call inside a scope: the graph's tensors belong to it. @throws RangeError when nothing in the batch is labelled */
export function trainingLoss(model: VisionLanguageModel, batch: Batch, options: LossOptions): TrainingLoss {
  const supervised =
    options.pickSupervision > 0 && batch.latentSteps > 0 && batch.pickTargets.some((targets) => targets !== null);
  const checkpointed = options.activationCheckpointing ?? false;
  if (checkpointed && batch.latentSteps > 0 && (options.latentGradient === 'through' || supervised))
    throw new RangeError('activation checkpointing needs detached latent steps without supervision');
  // Without checkpointing one pass with a graph serves both the latent steps and the loss: attention is causal, so the text that is appended
  // afterwards changes nothing before it. Checkpointing runs whole layers again, so the latent steps are taken beforehand, without a graph.
  const onePass = batch.latentSteps > 0 && !checkpointed;
  const detached = options.latentGradient === 'detached';
  // Detached latent steps hand no gradient back, so the backward pass can take all passes through a layer together.
  const observer = options.observer ?? null;
  const segments = observer || checkpointed ? new SegmentedPass(observer, { byDepth: detached }) : null;
  const prompt = embedPrompt(model, batch, options.positions, segments);
  const cache = onePass ? model.newCache(batch.inputIds.length, segments ? 'segments' : 'graph') : null;
  try {
    const sequence = new Sequence(model, prompt, cache, options, segments);
    let steps: LatentStep[] = [];
    // Columns of the final pass that come before the written text.
    let before: number;
    if (onePass) {
      const rollout = new Rollout(sequence, options, {
        detach: detached,
        attentionScores: supervised ? 'graph' : 'detached',
      });
      steps = rollout.run(batch.latentSteps);
      before = sequence.pending;
    } else {
      if (batch.latentSteps > 0) {
        steps = latentStepsWithoutGraph(model, batch, options, sequence);
        for (const { inserted, mask } of steps) sequence.push(inserted, { mask, latent: true });
      }
      before = sequence.pending;
    }
    const first = batch.latentStart + batch.latentSteps;
    const rest = batch.inputIds.map((row) => row.slice(first));
    if (rest[0]!.length > 0) {
      const embed = () => [model.embed(toIds(rest, model.device))] as const;
      const [text] = segments ? segments.run({ parts: ['embedding'], depth: -1 }, embed) : embed();
      sequence.push(text, { mask: batch.attentionMask.map((row) => row.slice(first)) });
    }
    const { hidden } = sequence.run('off', checkpointed);
    const { rows, labels } = labelledRows(batch, before, hidden.shape[1]!);
    if (labels.length === 0) throw new RangeError('no token of the batch is labelled');
    const { device } = model;
    const carry = options.carrySupervision ?? 0;
    const carried = carry > 0 && steps.length > 0 ? carriedTargets(batch, steps.length) : null;
    const head = () => {
      const chosen = hidden.flatten(0, 1).indexSelect(0, toDevice(tensor(rows, { dtype: 'int64' }), device));
      const logits = model.logits(chosen);
      const targets = toDevice(tensor(labels, { dtype: 'int64' }), device);
      const correct = noGrad(() => scope(() => logits.argmax(-1).eq(targets).sum()));
      const entropy = crossEntropy(logits.dtype === 'float64' ? logits : logits.to('float32'), targets);
      if (!carried) return [entropy, correct];
      // A step's rows end where the next step is chosen, those of the last step where the written text begins.
      const ends = [...steps.slice(1).map((step) => step.hidden), hidden.narrow(1, before - 1, 1)];
      return [entropy, correct, carryLossOf(model, cat(ends, 1), carried)];
    };
    const headed: readonly Tensor[] = segments
      ? segments.run({ parts: ['head'], depth: Number.POSITIVE_INFINITY }, head)
      : head();
    const [entropy, correct] = headed as [Tensor, Tensor];
    const carryLoss = headed[2] ?? null;
    const pickLoss = supervised ? supervision(batch, steps) : null;
    const picking = pickLoss ? entropy!.add(pickLoss, options.pickSupervision) : entropy!;
    const whole = carryLoss ? picking.add(carryLoss, carry) : picking;
    return {
      // Without graph, so that a backward pass which would stop at the last segment cannot happen by mistake.
      loss: segments ? whole.detach() : whole,
      backward(factor = 1) {
        (factor === 1 ? whole : whole.mul(factor)).backward();
        segments?.backward();
      },
      crossEntropy: segments ? entropy.detach() : entropy,
      pickLoss,
      carryLoss: carryLoss && segments ? carryLoss.detach() : carryLoss,
      tokens: labels.length,
      correct,
      picked: steps.map(({ picked }) => picked),
    };
  } finally {
    cache?.dispose();
  }
}

/** The latent steps over a plain cache; only what they insert remains. */
function latentStepsWithoutGraph(
  model: VisionLanguageModel,
  batch: Batch,
  options: LossOptions,
  { prompt, segments }: Sequence,
): LatentStep[] {
  return noGrad(() => {
    const B = batch.inputIds.length;
    const cache = model.newCache(B, batch.latentStart + batch.latentSteps * (options.patches + 1));
    try {
      return scope(() => {
        const sequence = new Sequence(model, prompt, cache, options, segments);
        const rollout = new Rollout(sequence, options, {
          detach: true,
          attentionScores: 'detached',
        });
        return rollout.run(batch.latentSteps);
      });
    } finally {
      cache.dispose();
    }
  });
}

/** Rows of the flattened hidden states (B * width, D) that predict a labelled token, and those tokens. */
function labelledRows(batch: Batch, before: number, width: number): { rows: number[]; labels: number[] } {
  const first = batch.latentStart + batch.latentSteps;
  const rows: number[] = [];
  const labels: number[] = [];
  batch.labels.forEach((row, b) => {
    for (let s = first; s < row.length; s++) {
      if (row[s] === IGNORE) continue;
      rows.push(b * width + before + s - first - 1);
      labels.push(row[s]!);
    }
  });
  return { rows, labels };
}

/** Tokens of all values, and per row and step the place of the right one among them; null when no row knows any. */
function carriedTargets({ carried = [] }: Batch, steps: number): { values: number[]; places: number[][] } | null {
  const values = carried.find((row) => row !== null)?.values;
  if (!values) return null;
  const unknown = new Array<number>(steps).fill(IGNORE);
  return { values, places: carried.map((row) => row?.targets.map((token) => values.indexOf(token)) ?? unknown) };
}

/** @param ends (B, T, D): the last hidden state after each latent step */
function carryLossOf(
  model: VisionLanguageModel,
  ends: Tensor,
  { values, places }: { values: number[]; places: number[][] },
): Tensor {
  const { device } = model;
  const logits = model.logits(ends.flatten(0, 1)).indexSelect(1, toDevice(tensor(values, { dtype: 'int64' }), device));
  const targets = toDevice(tensor(places.flat(), { dtype: 'int64' }), device);
  return crossEntropy(logits.dtype === 'float64' ? logits : logits.to('float32'), targets);
}

/** Mean over rows of the summed -log of the targets' share of the attention on the image; null when no target is known. */
function supervision(batch: Batch, steps: readonly LatentStep[]): Tensor | null {
  const B = batch.inputIds.length;
  let sum: Tensor | null = null;
  steps.forEach(({ imageScores }, t) => {
    if (!imageScores) return;
    const N = imageScores.shape[1]!;
    const weights = new Float32Array(B * N);
    const known = new Uint8Array(B);
    batch.pickTargets.forEach((targets, b) => {
      for (const index of targets?.[t] ?? []) {
        weights[b * N + index] = 1;
        known[b] = 1;
      }
    });
    if (!known.some(Boolean)) return;
    const { device } = imageScores;
    const share = imageScores
      .mul(toDevice(tensor(weights, { shape: [B, N] }), device))
      .sum(1)
      .div(imageScores.sum(1));
    const isKnown = toDevice(tensor(Array.from(known, Boolean)), device);
    const loss = share.add(1e-6).log().neg().mul(isKnown).sum();
    sum = sum ? sum.add(loss) : loss;
  });
  return sum && (sum as Tensor).div(B);
}
