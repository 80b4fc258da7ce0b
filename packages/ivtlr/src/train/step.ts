/** One optimiser step: micro-batches forward and backward, gradients clipped, parameters moved. */
import { AdamW, clipGradNorm, type Optimizer, type StoredTensor, scope, type Tensor } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import type { FileContent } from '../file-contents.ts';
import type { MicroBatch } from './batches.ts';
import type { OptimizerOptions } from './options.ts';
import type { Phase } from './schedule.ts';

/** What a forward pass gives; tensors are scalars. */
export interface LossResult {
  /** Everything that is trained, supervision of picks included. */
  loss: Tensor;
  /** Adds the gradients of `factor * loss`. */
  backward(factor: number): void;
  /** Mean cross-entropy over the labelled tokens, nats. */
  crossEntropy: Tensor;
  /** Labelled tokens, and how many of them the model would have written itself. */
  tokens: number;
  correct: number;
}

/** The model as the trainer sees it. */
export interface Trainee {
  parameters: ReadonlyMap<string, Tensor>;
  /** Forward pass with graph; runs inside a scope. */
  loss(micro: MicroBatch): LossResult;
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

/**
 * Runs one step.
 * @param judge sees the step's loss and the names of its samples; may throw
 * @throws UserError when loss or gradient stop being numbers; parameters are then as they were before the step
 */
export function trainStep(
  trainee: Trainee,
  optimizer: Optimizer,
  micros: readonly MicroBatch[],
  lr: number,
  clip: number | null,
  judge: (loss: number, samples: string) => Verdict = () => 'step',
): StepResult {
  const sums = { loss: 0, crossEntropy: 0, correct: 0, tokens: 0, samples: 0 };
  for (const micro of micros) {
    scope(() => {
      const result = trainee.loss(micro);
      const loss = result.loss.item();
      if (!Number.isFinite(loss)) throw notANumber(`the loss is ${loss}`, [micro]);
      result.backward(micro.weight);
      sums.loss += loss * micro.weight;
      sums.crossEntropy += result.crossEntropy.item() * micro.weight;
      sums.correct += result.correct;
      sums.tokens += result.tokens;
      sums.samples += micro.ids.length;
    });
  }
  const gradNorm = scope(() => clipGradNorm([...trainee.parameters.values()], clip ?? Number.POSITIVE_INFINITY));
  if (!Number.isFinite(gradNorm)) throw notANumber(`the gradient norm is ${gradNorm}`, micros);
  let verdict: Verdict = 'skip';
  try {
    verdict = judge(sums.loss, describeSamples(micros));
  } finally {
    if (verdict === 'skip') optimizer.zeroGrad();
  }
  optimizer.lr = lr;
  if (verdict === 'step') {
    scope(() => {
      optimizer.step();
      optimizer.zeroGrad();
    });
  }
  return {
    loss: sums.loss,
    crossEntropy: sums.crossEntropy,
    tokenAccuracy: sums.tokens === 0 ? 0 : sums.correct / sums.tokens,
    gradNorm,
    samples: sums.samples,
  };
}

/** A fresh optimiser over the model's parameters. */
export function createOptimizer(parameters: ReadonlyMap<string, Tensor>, options: OptimizerOptions): Optimizer {
  const { lr, betas, eps, weightDecay } = options;
  // Steps on 16-bit weights alone are lost in rounding; the official code keeps float32 copies too.
  return new AdamW(parameters, { lr, betas, eps, weightDecay, masterWeights: true });
}

function notANumber(what: string, micros: readonly MicroBatch[]): UserError {
  const samples = describeSamples(micros);
  return new UserError(
    `${what} on the batch of samples ${samples}; a lower optimizer.lr or a smaller optimizer.clip may help`,
  );
}

function describeSamples(micros: readonly MicroBatch[]): string {
  const ids = micros.flatMap((micro) => micro.ids);
  return ids.length > 16 ? `${ids.slice(0, 16).join(', ')} and ${ids.length - 16} more` : ids.join(', ');
}
