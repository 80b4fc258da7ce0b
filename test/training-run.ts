/** A training of the built program in a folder that holds `recipe.yaml`: started, watched by its metrics, and waited for. */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readMetrics } from '../packages/ivtlr/src/train/metrics.ts';

const program = fileURLToPath(new URL('../packages/ivtlr/bin/ivtlr.mjs', import.meta.url));

/** Starts `ivtlr train` into a subfolder. @returns the process, and what it ends with */
export function startTraining(folder: string, out: string, ...more: string[]) {
  const args = ['train', join(folder, 'recipe.yaml'), '--set', `out=${join(folder, out)}`, ...more];
  const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr!.on('data', (piece) => {
    stderr += piece;
  });
  const ended = new Promise<{ code: number | null; stderr: string }>((resolve) =>
    child.on('close', (code) => resolve({ code, stderr })),
  );
  return { child, ended };
}

/** The training steps that a run has written down. */
export function trainingSteps(folder: string, out: string) {
  return readMetrics(join(folder, out, 'metrics.jsonl')).filter(({ kind }) => kind === 'step');
}

/** Waits until a run has taken so many steps, or its process has ended. */
export async function reachedStep(folder: string, out: string, step: number, child: ChildProcess): Promise<void> {
  while (child.exitCode === null && child.signalCode === null) {
    if ((trainingSteps(folder, out).at(-1)?.step ?? 0) >= step) return;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
