/** metrics.jsonl: one JSON object a line, one line a step or evaluation. A resumed run first drops the lines past its checkpoint. */
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { writeFileAtomic } from '../files.ts';

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
    mkdirSync(dirname(path), { recursive: true });
    const kept = readMetrics(path).filter((entry) => entry.step <= keepThrough);
    writeFileAtomic(path, kept.map((entry) => `${JSON.stringify(entry)}\n`).join(''));
  }

  append(entry: Metrics): void {
    appendFileSync(this.path, `${JSON.stringify(entry)}\n`);
  }
}

/** Reads a metrics file; a torn last line (the process was killed while writing) is skipped. */
export function readMetrics(path: string): Metrics[] {
  if (!existsSync(path)) return [];
  const entries: Metrics[] = [];
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    try {
      if (line !== '') entries.push(JSON.parse(line) as Metrics);
    } catch {
      // Only a kill in mid-write leaves such a line; the step is repeated after resuming.
    }
  }
  return entries;
}
