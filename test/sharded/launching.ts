// Runs `ivtlr train` on a small recipe in the ways that launchers start it; `npm test` builds the program first.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readMetrics } from '../../packages/ivtlr/src/train/metrics.ts';

export const program = fileURLToPath(new URL('../../packages/ivtlr/bin/ivtlr.mjs', import.meta.url));

/** Optimiser steps of the recipe. */
export const TOTAL = 36;

const recipeText = `
task: dominoes
maxSteps: 4
model:
  initSeed: 1
  config:
    model_type: qwen2_vl
    hidden_size: 32
    intermediate_size: 32
    num_hidden_layers: 2
    num_attention_heads: 2
    num_key_value_heads: 1
    rope_theta: 10000
    rope_scaling: { type: mrope, mrope_section: [2, 3, 3] }
    tie_word_embeddings: true
    vision_config: { depth: 1, embed_dim: 16, num_heads: 1, mlp_ratio: 2, hidden_size: 32 }
seed: 3
threads: 1
device: cpu
latent: { patches: 1, maxLatentStage: 2, epochsPerStage: 2, replay: 0.5 }
lora: { rank: 3, alpha: 6, dropout: 0.1, targets: [q_proj, v_proj, down_proj] }
optimizer: { lr: 1.0e-3, clip: 1.0 }
globalBatch: 6
microBatch: 2
numEpochs: 6
data: { source: fresh, samplesPerEpoch: 34, validation: { samples: 3, everyEpochs: 3, batch: 2, maxNewTokens: 4 } }
checkpoint: { everySteps: 3, keep: 2 }
parallel: { timeout: 20 }
out: out
`;

/** The command that is PyTorch's torchrun, of the Python that PYTHON names; null where it has no torch. */
export function findTorchrun(): string[] | null {
  const command = [process.env.PYTHON ?? 'python3', '-m', 'torch.distributed.run'];
  return spawnSync(command[0]!, [...command.slice(1), '--help'], { stdio: 'ignore' }).status === 0 ? command : null;
}

export interface Started {
  child: ChildProcess;
  /** What it has written to stderr so far. */
  stderr(): string;
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null; stdout: string; stderr: string }>;
}

/** A temporary folder with recipe.yaml, and the runs in it, one folder each. */
export class Launching implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'ivtlr-launching-'));
  readonly recipe = join(this.folder, 'recipe.yaml');
  readonly #children = new Set<ChildProcess>();

  constructor() {
    writeFileSync(this.recipe, recipeText);
  }

  /** Program and arguments that train into the folder of this name. */
  train(out: string, ...more: string[]): string[] {
    return [process.execPath, program, 'train', this.recipe, '--set', `out=${this.out(out)}`, ...more];
  }

  out(name: string): string {
    return join(this.folder, name);
  }

  start(command: readonly string[], env: NodeJS.ProcessEnv = {}): Started {
    const child = spawn(command[0]!, command.slice(1), {
      cwd: this.folder,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, OMP_NUM_THREADS: '1', ...env },
    });
    this.#children.add(child);
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    const ended = new Promise<Awaited<Started['ended']>>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code, signal) => {
        this.#children.delete(child);
        resolve({ code, signal, stdout, stderr });
      });
    });
    return { child, stderr: () => stderr, ended };
  }

  steps(out: string): number {
    return this.losses(out).length;
  }

  losses(out: string): number[] {
    return readMetrics(join(this.out(out), 'metrics.jsonl')).flatMap((entry) =>
      entry.kind === 'step' ? [entry.loss] : [],
    );
  }

  /** The largest relative difference between the losses of two runs; NaN where they have not the same number of steps. */
  difference(out: string, other: string): number {
    const [a, b] = [this.losses(out), this.losses(other)];
    return a.length === b.length && a.length > 0
      ? Math.max(...a.map((loss, at) => Math.abs(loss / b[at]! - 1)))
      : Number.NaN;
  }

  /** Ends what still runs, and removes the folder. */
  [Symbol.dispose](): void {
    for (const child of this.#children) for (const pid of [...childrenOf(child.pid!), child.pid!]) kill(pid);
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

export function childrenOf(pid: number): number[] {
  try {
    const own = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(/\s+/).filter(Boolean);
    return own.map(Number).flatMap((child) => [child, ...childrenOf(child)]);
  } catch {
    return [];
  }
}

export function kill(pid: number, signal: NodeJS.Signals = 'SIGKILL'): void {
  try {
    process.kill(pid, signal);
  } catch {} // it has ended
}

export const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Waits until it is so. @throws an error with what `started` has written when it is not so in time, or `started` ends before */
export async function until(look: () => boolean, started: Started, seconds = 60): Promise<void> {
  for (const end = performance.now() + seconds * 1000; !look(); await pause(20)) {
    if (performance.now() > end || started.child.exitCode !== null) {
      throw new Error(`it did not come to that:\n${started.stderr()}`);
    }
  }
}
