/** What a study and the process of a run say to each other. */
import type { Recipe } from '../config/schema.ts';
import type { Measurement } from './measurement.ts';

export type ToRunWorker =
  | { type: 'run'; recipe: Recipe; measurement: Measurement }
  /** Training writes a checkpoint and ends; a measurement is given up. */
  | { type: 'stop' };

export type FromRunWorker =
  | { type: 'opened'; opened: null }
  /** Steps of the training that are done. */
  | { type: 'step'; step: number; steps: number; phase: string }
  /** Ablation `at` of so many, and the samples of it that are answered. */
  | { type: 'answers'; title: string; at: number; of: number; answered: number; samples: number | null }
  | { type: 'done' }
  | { type: 'stopped' }
  | { type: 'error'; message: string };
