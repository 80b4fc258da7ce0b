/**
 * One optimiser step: micro-batches forward and backward, gradients clipped, parameters moved. With several processes each has micro-batches of
 * its own; whatever happens in one of them, all go through the same collectives and come to the same end.
 */
import {
  DistributedError,
  keep,
  manualSeed,
  type SegmentObserver,
  type StoredTensor,
  scope,
  stack,
  type Tensor,
} from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import type { FileContent } from '../file-contents.ts';
import { readTogether } from '../latent/read-together.ts';
import type { Round } from '../parallel/collective-order.ts';
import type { Ranks } from '../parallel/ranks.ts';
import { clipFactor, type Update } from '../parallel/update.ts';
import { type Failure, raiseTogether } from './agreement.ts';
import type { MicroBatch } from './batches.ts';
import type { Phase } from './schedule.ts';

/** What a forward pass gives; tensors are scalars. */
export interface LossResult {
  /** Everything that is trained, supervision of picks included. */
  loss: Tensor;
  /** Adds the gradients of `factor * loss`. */
  backward(factor: number): void;
  /** Mean cross-entropy over the labelled tokens, nats. */
  crossEntropy: Tensor;
  /** Labelled tokens. */
  tokens: number;
  /** How many of them the model would have written itself. */
  correct: Tensor;
}

/** The model as the trainer sees it. */
export interface Trainee {
  parameters: ReadonlyMap<string, Tensor>;
  /** Whether `files` hold trained parameters only. Default false. */
  savesTrainedOnly?: boolean;
  /** Forward pass with graph; runs inside a scope. The observer hears which parameters are needed and whose gradients are complete. */
  loss(micro: MicroBatch, observer?: SegmentObserver | null): LossResult;
  /**
   * The files of the model as it is after this phase, loadable for inference.
   * @param weights in place of the model's own: all of its parameters by name
   */
  files(phase: Phase, weights?: ReadonlyMap<string, StoredTensor>): FileContent[];
}

export interface StepResult {
  loss: number;
  crossEntropy: number;
  tokenAccuracy: number;
  gradNorm: number;
  samples: number;
}

/** What to do after a step's loss is known: update the parameters, or leave them as they are. */
export type Verdict = 'step' | 'skip';

export interface StepParts {
  ranks: Ranks;
  update: Update;
  lr: number;
  /** The largest norm of the gradients; null leaves them alone. */
  clip: number | null;
  /** Called when the gradients are there, before any process changes parameters or the optimiser's state. Must not throw. */
  beforeUpdate?(): void;
  /** Sees the step's loss over all processes, and the names of its samples; may throw. The same everywhere. */
  judge?(loss: number, samples: () => string): Verdict;
}

/** Sums of a step; of one process, then of all. */
const SUMS = ['loss', 'crossEntropy', 'correct', 'tokens', 'samples'] as const;

/**
 * Runs one step.
 * @param micros of this process; what could not be prepared is a failure that all processes end with
 * @throws UserError when loss or gradient stop being numbers in any process; parameters are then as they were before the step
 */
export function trainStep(trainee: Trainee, micros: readonly MicroBatch[] | Failure, parts: StepParts): StepResult {
  const { ranks, update, lr, clip, beforeUpdate, judge = () => 'step' } = parts;
  const own = 'failed' in micros ? [] : micros;
  const rounds = agreeOnRounds(ranks, micros);
  const ran: MicroResult[] = [];
  let failure = null as Failure | null;
  update.startStep();
  rounds.forEach((round, i) => {
    update.startRound(round, update.reducesEveryRound || i === Math.max(0, own.length - 1));
    const micro = failure ? undefined : own[i];
    if (micro) failure = attempt(() => ran.push(runMicroBatch(trainee, micro, update.observer)));
    update.finishRound();
  });
  update.finishRounds();
  beforeUpdate?.();

  const touched = update.touched();
  const read = readStep(ran, update);
  // Of a micro-batch before the one that failed otherwise.
  failure = read.failure ?? failure;
  const numbers = [failure ? 1 : 0, read.squares, ...SUMS.map((name) => read.sums[name])];
  const [failures, squares, ...rest] = ranks.sum([...numbers, ...touched.map(Number)], 'results of the step');
  if (failures! > 0) {
    update.discard();
    raiseTogether(ranks, failure);
  }
  const [loss, crossEntropy, correct, tokens, samples] = rest as [number, number, number, number, number];
  const gradNorm = Math.sqrt(squares!);
  const describe = () => describeSamples(ranks.size === 1 ? own.flatMap(({ ids }) => ids) : allIds(ranks, own));
  let verdict: Verdict = 'skip';
  try {
    if (!Number.isFinite(gradNorm)) throw notANumber(`the gradient norm is ${gradNorm}`, describe());
    verdict = judge(loss, describe);
  } finally {
    if (verdict === 'skip') update.discard();
  }
  if (verdict === 'step')
    update.step(
      lr,
      clipFactor(gradNorm, clip),
      rest.slice(SUMS.length).map((count) => count > 0),
    );
  return {
    loss,
    crossEntropy,
    tokenAccuracy: tokens === 0 ? 0 : correct / tokens,
    gradNorm,
    samples,
  };
}

/** How many rounds all processes go through, and what the largest micro-batches of each need. */
function agreeOnRounds(ranks: Ranks, micros: readonly MicroBatch[] | Failure): Round[] {
  const failure = 'failed' in micros ? micros : null;
  const own = 'failed' in micros ? [] : micros;
  const [failures, count] = ranks.max([failure ? 1 : 0, own.length], 'the step begins');
  if (failures! > 0) raiseTogether(ranks, failure);
  const needs = Array.from({ length: count! }, (_, i) => {
    const batch = own[i]?.batch;
    return [batch?.latentSteps ?? 0, batch?.images.some((images) => images.length > 0) ? 1 : 0];
  });
  const all = ranks.size === 1 ? needs.flat() : ranks.max(needs.flat(), 'the rounds of the step');
  return needs.map((_, i) => ({ latentSteps: all[2 * i]!, images: all[2 * i + 1]! > 0 }));
}

/** A micro-batch that has gone forward and back. */
interface MicroResult {
  micro: MicroBatch;
  tokens: number;
  /** (3) float64: loss, cross-entropy, correct tokens. Not read yet: a GPU goes on meanwhile. */
  values: Tensor;
}

function runMicroBatch(trainee: Trainee, micro: MicroBatch, observer: SegmentObserver | null): MicroResult {
  return scope(() => {
    // Dropout draws the same numbers in whichever process, and after whichever others, the micro-batch is run.
    if (micro.seed !== undefined) manualSeed(micro.seed);
    const result = trainee.loss(micro, observer);
    const { loss, crossEntropy, correct, tokens } = result;
    const values = stack([loss, crossEntropy, correct].map((value) => value.detach().to('float64')));
    result.backward(micro.weight);
    return { micro, tokens, values: keep(values) };
  });
}

/** Reads all that a step has to say, at once: sums over the micro-batches, and what is wrong with the first whose loss is no number. */
function readStep(ran: readonly MicroResult[], update: Update) {
  const [squares, ...rows] = scope(() => {
    const own = update.squares();
    const device = ran[0]?.values.device ?? own.device;
    return readTogether([own.device === device ? own : own.to({ device }), ...ran.map(({ values }) => values)]);
  });
  const sums: Record<(typeof SUMS)[number], number> = { loss: 0, crossEntropy: 0, correct: 0, tokens: 0, samples: 0 };
  let failure: Failure | null = null;
  ran.forEach(({ micro, tokens, values }, i) => {
    values.dispose();
    const [loss, crossEntropy, correct] = rows[i] as [number, number, number];
    if (!Number.isFinite(loss)) failure ??= { failed: notANumber(`the loss is ${loss}`, describeSamples(micro.ids)) };
    sums.loss += loss * micro.weight;
    sums.crossEntropy += crossEntropy * micro.weight;
    sums.correct += correct;
    sums.tokens += tokens;
    sums.samples += micro.ids.length;
  });
  return { squares: squares![0]!, sums, failure: failure as Failure | null };
}

/** Runs `body`; what goes wrong is this process's failure, except for what is wrong with the group itself. */
function attempt(body: () => void): Failure | null {
  try {
    body();
    return null;
  } catch (error) {
    if (error instanceof DistributedError) throw error;
    return { failed: error };
  }
}

function notANumber(what: string, samples: string): UserError {
  return new UserError(
    `${what} on the batch of samples ${samples}; a lower optimizer.lr or a smaller optimizer.clip may help`,
  );
}

function allIds(ranks: Ranks, own: readonly MicroBatch[]): string[] {
  const texts = ranks.texts(JSON.stringify(own.flatMap(({ ids }) => ids)), 'the names of the samples');
  return texts.flatMap((text) => JSON.parse(text) as string[]);
}

function describeSamples(ids: readonly string[]): string {
  return ids.length > 16 ? `${ids.slice(0, 16).join(', ')} and ${ids.length - 16} more` : ids.join(', ');
}
