/** The processes of a run: one alone, or those that a launcher has started. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  cudaAvailable,
  type DistributedEnvironment,
  distributedEnvironment,
  initProcessGroup,
  type ProcessGroup,
} from '@ivtlr/torch';
import type { Recipe } from '../config/schema.ts';
import { UserError } from '../errors.ts';
import { ALONE, GroupRanks, type Ranks } from '../parallel/ranks.ts';
import { agree, type Failure } from '../train/agreement.ts';
import type { CheckpointPeers } from '../train/checkpoint-writer.ts';

/** Which process this is, by the launcher's variables; null when it is alone. @throws UserError for variables that are wrong */
export function launched(): DistributedEnvironment | null {
  try {
    const environment = distributedEnvironment();
    return environment && environment.worldSize > 1 ? environment : null;
  } catch (error) {
    throw error instanceof RangeError ? new UserError(error.message) : error;
  }
}

export interface Processes extends Disposable {
  ranks: Ranks;
  /** Null for one process. */
  group: ProcessGroup | null;
}

/** Joins the others. */
export function joinProcesses({ parallel: { timeout }, device }: Recipe): Processes {
  if (launched() === null) return { ranks: ALONE, group: null, [Symbol.dispose]() {} };
  const group = initProcessGroup({ timeout, backend: device === 'cpu' || !cudaAvailable() ? 'gloo' : 'nccl' });
  return { ranks: new GroupRanks(group), group, [Symbol.dispose]: () => group.destroy() };
}

/** Runs `body` in all processes; an error in one of them ends all. */
export async function together<T>(ranks: Ranks, body: () => T | Promise<T>): Promise<T> {
  const result = await attempted(body);
  agree(ranks, 'failed' in result ? result : null);
  return (result as { value: T }).value;
}

/** As `together`, the first process ahead of the others: they find what it has fetched or written. */
export async function inTurn<T>(ranks: Ranks, body: () => T | Promise<T>): Promise<T> {
  const isFirst = ranks.rank === 0;
  const first = isFirst ? await attempted(body) : null;
  agree(ranks, first && 'failed' in first ? first : null);
  if (ranks.size === 1) return (first as { value: T }).value;
  const own = first ?? (await attempted(body));
  agree(ranks, 'failed' in own ? own : null);
  return (own as { value: T }).value;
}

async function attempted<T>(body: () => T | Promise<T>): Promise<{ value: T } | Failure> {
  try {
    return { value: await body() };
  } catch (error) {
    return { failed: error };
  }
}

/** @throws UserError when the processes were given different recipes, or write to folders that are not one */
export function requireSameRun(ranks: Ranks, recipe: Recipe): void {
  if (ranks.size === 1) return;
  const { device: _, threads: __, ...same } = recipe;
  const hash = createHash('sha256').update(JSON.stringify(same)).digest('hex');
  const lock = readOr(join(recipe.out, 'lock'));
  const all = ranks
    .texts(JSON.stringify([hash, lock]), 'the recipe')
    .map((text) => JSON.parse(text) as [string, string]);
  const other = all.findIndex(([theirs]) => theirs !== all[0]![0]);
  if (other > 0) throw new UserError(`process ${other} of ${ranks.size} was given another recipe than process 0`);
  const elsewhere = all.findIndex(([, text]) => text !== all[0]![1]);
  if (elsewhere > 0) {
    throw new UserError(
      `out: process ${elsewhere} of ${ranks.size} does not see what process 0 writes to ${recipe.out}; all machines need the same folder there`,
    );
  }
}

function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Tells through the group's store. */
export class StorePeers implements CheckpointPeers {
  readonly #group: ProcessGroup;
  #waitingSince: { step: number; time: number } | null = null;

  constructor(group: ProcessGroup) {
    this.#group = group;
  }

  get rank(): number {
    return this.#group.rank;
  }
  get world(): number {
    return this.#group.size;
  }

  written(step: number): void {
    this.#group.store.set(this.#key(step, this.rank), '');
  }

  failed(step: number, message: string): void {
    this.#group.store.set(this.#key(step, this.rank), message);
  }

  allWritten(step: number): boolean {
    const { store, timeout } = this.#group;
    if (this.#waitingSince?.step !== step) this.#waitingSince = { step, time: performance.now() };
    for (let rank = 1; rank < this.world; rank++) {
      const key = this.#key(step, rank);
      if (!store.check([key])) {
        if (performance.now() - this.#waitingSince.time < timeout * 1000) return false;
        throw new UserError(
          `process ${rank} of ${this.world} has not written its part of the checkpoint in ${timeout} s`,
        );
      }
      const message = store.getText(key);
      if (message !== '') throw new UserError(`process ${rank} of ${this.world}: ${message}`);
    }
    return true;
  }

  #key(step: number, rank: number): string {
    return `checkpoint/${this.#group.name}/${step}/${rank}`;
  }
}
