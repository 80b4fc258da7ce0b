/**
 * Checkpoints on disk. One folder holds everything a run needs to go on, bit for bit, and is itself a Hugging Face model folder:
 *   out/checkpoints/step-00000120/  model files, optimizer.safetensors, state.json, recipe.json
 *   out/checkpoints/latest          name of the newest complete folder
 * A folder is written under a temporary name and renamed, and `latest` is switched only after that: a kill at any moment leaves the previous
 * checkpoint in force.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Optimizer } from '@ivtlr/torch';
import { getRngState, openSafetensors, saveSafetensors, setRngState, tensor } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import { readJson, readText, writeFileAtomic } from '../files.ts';

const version = 1;

/** What is not in the weights or the optimiser. Data order needs no state: it follows from seed, epoch and step alone. */
export interface TrainState {
  version: number;
  /** Finished optimiser steps; the next step has this number. */
  step: number;
  totalSteps: number;
  phase: string;
  epoch: number;
  stage: number;
  /** Seconds spent training so far, over all parts of the run. */
  seconds: number;
  /** Generator states by device, base64. */
  rng: Record<string, string>;
}

export interface Checkpoint {
  folder: string;
  state: TrainState;
  /** The resolved recipe the run was started with. */
  recipe: unknown;
}

/** What goes into a checkpoint besides the state. */
export interface CheckpointParts {
  recipe: unknown;
  optimizer: Optimizer;
  /** Writes the model's files into an existing folder. */
  saveModel(folder: string): void;
}

export function checkpointRoot(out: string): string {
  return join(out, 'checkpoints');
}

/** Writes a checkpoint, makes it the latest and removes all but the newest `keep`. Returns its folder. */
export function writeCheckpoint(out: string, state: TrainState, parts: CheckpointParts, keep: number): string {
  const root = checkpointRoot(out);
  const name = `step-${String(state.step).padStart(8, '0')}`;
  const folder = join(root, name);
  writeFolderAtomic(folder, (temporary) => {
    parts.saveModel(temporary);
    saveOptimizer(join(temporary, 'optimizer.safetensors'), parts.optimizer);
    writeFileAtomic(join(temporary, 'recipe.json'), `${JSON.stringify(parts.recipe, null, 2)}\n`);
    writeFileAtomic(join(temporary, 'state.json'), `${JSON.stringify(state, null, 2)}\n`);
  });
  writeFileAtomic(join(root, 'latest'), `${name}\n`);
  const names = readdirSync(root).filter((entry) => /^step-\d+$/.test(entry));
  names.sort();
  for (const old of names.filter((entry) => entry !== name).slice(0, Math.max(0, names.length - keep))) {
    rmSync(join(root, old), { recursive: true });
  }
  return folder;
}

/** Fills a folder under a temporary name, then gives it its final name, replacing an older one. */
export function writeFolderAtomic(folder: string, fill: (temporary: string) => void): void {
  const temporary = `${folder}.partial`;
  rmSync(temporary, { recursive: true, force: true });
  mkdirSync(temporary, { recursive: true });
  fill(temporary);
  rmSync(folder, { recursive: true, force: true });
  renameSync(temporary, folder);
}

/**
 * The newest complete checkpoint under `out`, or null when there is none.
 * @throws UserError when the folder is damaged or written by a newer version
 */
export function readLatestCheckpoint(out: string): Checkpoint | null {
  const pointer = join(checkpointRoot(out), 'latest');
  if (!existsSync(pointer)) return null;
  const folder = join(checkpointRoot(out), readText(pointer, 'checkpoint pointer').trim());
  const state = readJson(join(folder, 'state.json'), 'checkpoint state') as TrainState;
  if (state.version !== version) {
    throw new UserError(`${folder} is a checkpoint of version ${state.version}; this program reads version ${version}`);
  }
  return { folder, state, recipe: readJson(join(folder, 'recipe.json'), 'checkpoint recipe') };
}

/** Puts optimiser and random generators back to where the checkpoint was written. The model is loaded from `folder` by the caller. */
export function restoreCheckpoint(checkpoint: Checkpoint, optimizer: Optimizer): void {
  loadOptimizer(join(checkpoint.folder, 'optimizer.safetensors'), optimizer);
  for (const [device, text] of Object.entries(checkpoint.state.rng)) {
    const bytes = new Uint8Array(Buffer.from(text, 'base64'));
    using state = tensor(bytes, { dtype: 'uint8', shape: [bytes.length] });
    setRngState(state, device);
  }
}

/** A fresh TrainState with the generators as they are now. */
export function captureState(fields: Omit<TrainState, 'version' | 'rng'>, device: string): TrainState {
  const rng: Record<string, string> = {};
  for (const name of new Set(['cpu', device])) {
    using state = getRngState(name);
    rng[name] = Buffer.from(state.bytes()).toString('base64');
  }
  return { version, ...fields, rng };
}

function saveOptimizer(path: string, optimizer: Optimizer): void {
  const { step, tensors } = optimizer.stateDict();
  saveSafetensors(path, tensors, { step: String(step) });
}

function loadOptimizer(path: string, optimizer: Optimizer): void {
  const file = openSafetensors(path);
  try {
    const step = Number(file.metadata.step);
    if (!Number.isInteger(step))
      throw new UserError(`${path}: the metadata has no step count; the file is not an optimiser state`);
    const tensors = new Map([...file.names()].map((name) => [name, file.read(name)]));
    optimizer.loadStateDict({ step, tensors });
    for (const t of tensors.values()) t.dispose();
  } finally {
    file.close();
  }
}
