/**
 * Checkpoints on disk. One folder holds everything a run needs to go on, bit for bit, and is itself a Hugging Face model folder:
 *   out/checkpoints/step-00000120/  model files, optimizer.safetensors (or a shard for each process), state.json, recipe.json
 *   out/checkpoints/latest          name of the newest complete folder
 * A folder is written under a temporary name and renamed (checkpoint-writer.ts), and `latest` is switched only after that: a kill at any moment
 * leaves the previous checkpoint in force, and one before the first `latest` leaves the first whole folder, or nothing.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { getRngState, scope, setRngState, tensor } from '@ivtlr/torch';
import { z } from 'zod';
import { UserError } from '../errors.ts';
import { type FileContent, jsonFile } from '../file-contents.ts';
import { readJson, readText } from '../files.ts';
import type { Update } from '../parallel/update.ts';
import { checkpointName, checkpointRoot, latestFile } from './checkpoint-names.ts';
import { openOptimizerFiles } from './optimizer-files.ts';

export { checkpointRoot };

const version = 1;

const whole = z.int().min(0);

/** What is not in the weights or the optimiser. Data order needs no state: it follows from seed, epoch and step alone. */
const stateSchema = z.object({
  version: z.literal(version),
  /** Finished optimiser steps; the next step has this number. */
  step: whole,
  totalSteps: whole,
  phase: z.string(),
  epoch: whole,
  stage: whole,
  /** Seconds spent training so far, over all parts of the run. */
  seconds: z.number().min(0),
  /** Hashes of the files that the run was started with; those of what it does not read, or of older versions, are not there. */
  inputs: z.object({ data: z.string().optional(), model: z.string().optional() }).default({}),
  /** Generator states by device, base64; those that are not there stay as they are. */
  rng: z.record(z.string(), z.base64()).default({}),
});

export type TrainState = z.output<typeof stateSchema>;

export type RunInputs = TrainState['inputs'];

export interface Checkpoint {
  folder: string;
  state: TrainState;
  /** The resolved recipe the run was started with. */
  recipe: unknown;
}

/** What the first process writes besides the model and its part of the optimiser. */
export function runFiles(recipe: unknown, state: TrainState): FileContent[] {
  return [jsonFile('recipe.json', recipe), jsonFile('state.json', state)];
}

/**
 * The newest complete checkpoint under `out`, or null when there is none: the one that `latest` names, or, where a kill came before that was
 * written, the last whole folder.
 * @throws UserError when the folder is damaged or written by another version
 */
export function readLatestCheckpoint(out: string): Checkpoint | null {
  const name = latestName(checkpointRoot(out));
  if (name === null) return null;
  const folder = join(checkpointRoot(out), name);
  const file = join(folder, 'state.json');
  const state = readJson(file, 'checkpoint state');
  const found = (state as { version?: unknown } | null)?.version;
  if (typeof found === 'number' && found !== version) {
    throw new UserError(`${folder} is a checkpoint of version ${found}; this program reads version ${version}`);
  }
  const parsed = stateSchema.safeParse(state);
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!;
    throw new UserError(
      `${file} is damaged (${[...path, message].join(': ')}); remove ${folder} to go on from the checkpoint before it, if there is one`,
    );
  }
  return { folder, state: parsed.data, recipe: readJson(join(folder, 'recipe.json'), 'checkpoint recipe') };
}

/** Refuses to mix two runs in one folder. */
export function requireEmptyRun(out: string): void {
  if (latestName(checkpointRoot(out)) !== null) {
    throw new UserError(
      `${out} already holds a run: go on with --resume, or choose another folder with --set out=FOLDER`,
    );
  }
}

function latestName(root: string): string | null {
  if (!existsSync(root)) return null;
  const isWhole = (name: string) => checkpointName.test(name) && existsSync(join(root, name, 'state.json'));
  const pointer = join(root, latestFile);
  const named = existsSync(pointer) ? readText(pointer, 'checkpoint pointer').trim() : '';
  if (isWhole(named)) return named;
  return readdirSync(root).filter(isWhole).sort().at(-1) ?? null;
}

/**
 * Puts the optimiser, and the random generators of the devices in use, back to where the checkpoint was written. The model is loaded from
 * `folder` by the caller.
 * @throws UserError when a part is missing, cut or of another model
 */
export function restoreCheckpoint(checkpoint: Checkpoint, update: Update, device: string): void {
  const { folder, state } = checkpoint;
  readPart(folder, () => loadOptimizer(folder, update));
  readPart(join(folder, 'state.json'), () => {
    for (const name of generators(device)) {
      const text = state.rng[name] ?? stateOfAnotherGpu(name, state.rng);
      if (text === undefined) continue; // the run goes on on another kind of device
      const bytes = new Uint8Array(Buffer.from(text, 'base64'));
      using saved = tensor(bytes, { dtype: 'uint8', shape: [bytes.length] });
      setRngState(saved, name);
    }
  });
}

/** Generators of all GPUs are alike, so a run that was saved on cuda:1 goes on on cuda:0 with the same random numbers. */
function stateOfAnotherGpu(name: string, states: Readonly<Record<string, string>>): string | undefined {
  if (!name.startsWith('cuda')) return undefined;
  return Object.entries(states).find(([saved]) => saved.startsWith('cuda'))?.[1];
}

function readPart(path: string, read: (path: string) => void): void {
  try {
    read(path);
  } catch (error) {
    if (error instanceof UserError) throw error;
    const message = (error as Error).message.split('\n')[0]!;
    throw new UserError(
      `the checkpoint cannot be gone on from: ${message.startsWith(path) ? message : `${path}: ${message}`}`,
    );
  }
}

function generators(device: string): Set<string> {
  return new Set(['cpu', device]);
}

/** A fresh TrainState with the generators as they are now. */
export function captureState(fields: Omit<TrainState, 'version' | 'rng'>, device: string): TrainState {
  const rng: Record<string, string> = {};
  for (const name of generators(device)) {
    using state = getRngState(name);
    rng[name] = Buffer.from(state.bytes()).toString('base64');
  }
  return { version, ...fields, rng };
}

/** Fills the optimiser from whatever number of processes wrote the folder. */
function loadOptimizer(folder: string, update: Update): void {
  using files = openOptimizerFiles(folder);
  const unknown = [...files.parameters.keys()].find((name) => !update.sizes.has(name));
  if (unknown !== undefined) throw new Error(`the state has ${unknown}, which belongs to no parameter here`);
  for (const [name, size] of update.sizes) {
    const stored = files.parameters.get(name);
    if (stored === undefined) throw new Error(`the state lacks ${name}`);
    if (stored !== size) throw new Error(`${name} has ${stored} elements in the state, ${size} here`);
  }
  const read = (name: string, quantity: string, start: number, end: number) =>
    quantity === 'step' ? files.readStep(name) : files.read(name, quantity, start, end);
  scope(() => update.load({ step: files.step, read }));
}
