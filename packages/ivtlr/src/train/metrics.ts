/** metrics.jsonl: one JSON object a line, one line a step or evaluation. A resumed run first drops the lines past its checkpoint. */
import { appendFileSync, existsSync } from 'node:fs';
import { UserError } from '../errors.ts';
import { readText, writeFileAtomic } from '../files.ts';

/** One training step, averaged over its micro-batches. */
export interface StepMetrics {
  kind: 'step';
  /** Number of finished optimiser steps, from 1. */
  step: number;
  phase: string;
  epoch: number;
  stage: number;
  /** Total loss; crossEntropy is its part from the text. Nats per token. */
  loss: number;
  crossEntropy: number;
  /** Share of supervised tokens whose greedy prediction is right. */
  tokenAccuracy: number;
  lr: number;
  gradNorm: number;
  samplesPerSecond: number;
}

/** Held-out accuracy after an epoch. */
export interface ValidationMetrics {
  kind: 'validation';
  step: number;
  phase: string;
  epoch: number;
  stage: number;
  accuracy: number;
  samples: number;
  autoregressiveSteps: number;
}

export type Metrics = StepMetrics | ValidationMetrics;

export class MetricsLog {
  readonly path: string;

  /** @param keepThrough lines of later steps are dropped (0 starts an empty file) */
  constructor(path: string, keepThrough: number) {
    this.path = path;
    const kept = readMetrics(path).filter((entry) => entry.step <= keepThrough);
    writeFileAtomic(path, kept.map((entry) => `${JSON.stringify(entry)}\n`).join(''));
  }

  append(entry: Metrics): void {
    try {
      appendFileSync(this.path, `${JSON.stringify(entry)}\n`);
    } catch (error) {
      throw new UserError(`cannot write ${this.path}: ${(error as Error).message}`);
    }
  }
}

/** Reads a metrics file; lines that are no metrics (the process was killed while writing, or somebody else wrote) are skipped. */
export function readMetrics(path: string): Metrics[] {
  if (!existsSync(path)) return [];
  const entries: Metrics[] = [];
  for (const line of readText(path, 'metrics').split('\n')) {
    try {
      const entry = JSON.parse(line) as Partial<Metrics> | null;
      if (entry?.kind !== undefined && Number.isInteger(entry.step)) entries.push(entry as Metrics);
    } catch {
      // A process that is killed while it writes leaves such a line; the step is repeated after resuming.
    }
  }
  return entries;
}
