/** Where a model looks, step by step: latent steps beside the tokens it writes. */
import type { Sample } from '../data/sample.ts';
import type { StepTrace } from '../latent/trace.ts';
import type { Task } from '../tasks/task.ts';
import { quantile } from './bootstrap.ts';
import { type Probe, ProbeSamples } from './probe.ts';
import { type AnsweredSample, type AskedModel, type EvaluateOptions, evaluate } from './runner.ts';

/** Of one number over samples. */
export interface Spread {
  samples: number;
  mean: number;
  /** First quartile, median, third quartile. */
  quartiles: [number, number, number];
}

export interface StepSummary {
  /** From 1; latent steps come first, then written tokens. */
  step: number;
  /** Attention on the picked patches over attention on text (for a token: on as many patches, the most attended). */
  attentionRatio: Spread;
  /** 1 / (entropy of the attention within the image). */
  focus: Spread;
}

export interface Analysis {
  samples: number;
  correctStrict: number;
  /** Steps that insert latent rows, and how much of the image all steps so far have picked, from 0 to 1. */
  latent: (StepSummary & { coverage: Spread })[];
  /** Written tokens by their place in the answer; later places have fewer samples. */
  written: StepSummary[];
  /** With `probe`: what a linear classifier reads from each latent step. */
  probe?: Probe;
}

export interface AnalyzeOptions
  extends Pick<EvaluateOptions, 'batch' | 'maxNewTokens' | 'imageThreads' | 'seed' | 'latentSteps' | 'onProgress'> {
  /** Probe the latent steps for the value that this finds in a sample's written steps. */
  probe?: RegExp;
}

/** Answers the samples and sums up what every step looked at. @throws UserError when there are no samples, or nothing to probe */
export async function analyze(
  opened: AskedModel,
  task: Task,
  samples: AsyncIterable<Sample> | Iterable<Sample>,
  { probe, ...options }: AnalyzeOptions,
): Promise<Analysis> {
  const latent = new Steps();
  const written = new Steps();
  const probed = probe && new ProbeSamples(probe);
  const result = await evaluate(opened, task, samples, {
    ...options,
    name: 'analysis',
    trace: true,
    traceText: true,
    latentStates: probe !== undefined,
    onAnswer: ({ trace, textTrace, states, index, sample }: AnsweredSample) => {
      latent.add(trace);
      written.add(textTrace);
      probed?.add(index, sample, states);
    },
  });
  const steps = latent.summary();
  return {
    samples: result.samples,
    correctStrict: result.correctStrict,
    latent: steps.map((step, at) => ({ ...step, coverage: spread(latent.coverage[at]!) })),
    written: written.summary().map((step) => ({ ...step, step: steps.length + step.step })),
    ...(probed && { probe: probed.probe(options.seed ?? 0) }),
  };
}

class Steps {
  readonly #ratio: number[][] = [];
  readonly #focus: number[][] = [];
  readonly coverage: number[][] = [];

  add(trace: readonly StepTrace[]): void {
    const seen = new Set<number>();
    trace.forEach(({ attentionRatio, focus, picked, scores }, step) => {
      for (const index of picked) seen.add(index);
      push(this.#ratio, step, attentionRatio);
      push(this.#focus, step, focus);
      push(this.coverage, step, seen.size / scores.length);
    });
  }

  summary(): StepSummary[] {
    return this.#ratio.map((ratios, at) => ({
      step: at + 1,
      attentionRatio: spread(ratios),
      focus: spread(this.#focus[at]!),
    }));
  }
}

function push(lists: number[][], at: number, value: number): void {
  lists[at] ??= [];
  lists[at].push(value);
}

export function spread(values: readonly number[]): Spread {
  const sorted = Float64Array.from(values).sort();
  return {
    samples: values.length,
    // Of the sorted values, so that it does not depend on the order in which samples ended.
    mean: sorted.reduce((sum, value) => sum + value, 0) / values.length,
    quartiles: [quantile(sorted, 0.25), quantile(sorted, 0.5), quantile(sorted, 0.75)],
  };
}
