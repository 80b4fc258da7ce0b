/** Names in a run's folder. */
import { join } from 'node:path';

/** A whole checkpoint's folder. */
export const checkpointName = /^step-\d+$/;

/** Holds the name of the newest complete checkpoint. */
export const latestFile = 'latest';

/** In the run's folder: its recipe and how many steps it has, for whoever watches it. */
export const runFile = 'run.json';

export function checkpointRoot(out: string): string {
  return join(out, 'checkpoints');
}

export function checkpointFolder(out: string, step: number): string {
  return join(checkpointRoot(out), `step-${String(step).padStart(8, '0')}`);
}
