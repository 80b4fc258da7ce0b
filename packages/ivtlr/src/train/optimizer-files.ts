/**
 * The optimiser's state on disk, in as many files as there were processes: `optimizer.safetensors`, or `optimizer-00002-of-00004.safetensors` and
 * its like. A file holds pieces of parameters (elements start to end of the flattened parameter), so what one number of processes wrote,
 * another number reads.
 *
 * Tensors: `NAME.exp_avg`, `NAME.exp_avg_sq` and `NAME.master` of the piece, `NAME.step` a scalar. Metadata: `step`, and `pieces` as JSON. A
 * file without `pieces` holds whole parameters.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { empty, openSafetensors, type SafetensorsFile, type StoredTensor, scope, type Tensor } from '@ivtlr/torch';
import { z } from 'zod';
import { UserError } from '../errors.ts';
import type { FileContent } from '../file-contents.ts';

/** Elements `start` to `end` (exclusive) of a flattened parameter that has `numel` of them. */
export interface Piece {
  name: string;
  start: number;
  end: number;
  numel: number;
}

/** Present in every state; `master` only where 16-bit weights are stepped in float32. */
const FIRST_QUANTITY = 'exp_avg';
const COUNT = 'step';

const whole = z.int().min(0);
const piecesSchema = z.array(z.strictObject({ name: z.string(), start: whole, end: whole, numel: whole }));

const single = 'optimizer.safetensors';
const shardName = /^optimizer-(\d+)-of-(\d+)\.safetensors$/;
const five = (value: number) => String(value).padStart(5, '0');

/** The file name of a process's part. */
export function optimizerFileName(rank: number, world: number): string {
  return world === 1 ? single : `optimizer-${five(rank + 1)}-of-${five(world)}.safetensors`;
}

/**
 * One process's part of the state.
 * @param step finished optimiser steps
 * @param state by parameter and quantity: `NAME.exp_avg` and its like with as many elements as the piece, of any shape, and `NAME.step`
 * @param pieces what this process holds; at most one piece a parameter
 */
export function optimizerFile(
  rank: number,
  world: number,
  step: number,
  state: ReadonlyMap<string, StoredTensor>,
  pieces: readonly Piece[],
): FileContent {
  const lengths = new Map(pieces.map(({ name, start, end }) => [name, end - start]));
  if (lengths.size < pieces.length) throw new RangeError('optimizerFile: two pieces of one parameter');
  for (const [key, { shape }] of state) {
    const [name, quantity] = splitKey(key);
    const wanted = lengths.get(name);
    if (wanted === undefined) throw new RangeError(`optimizerFile: ${key} belongs to no piece`);
    if (quantity !== COUNT && size(shape) !== wanted)
      throw new RangeError(`optimizerFile: ${key} has ${size(shape)} elements, its piece ${wanted}`);
  }
  const metadata = { step: String(step), pieces: JSON.stringify(pieces) };
  return { name: optimizerFileName(rank, world), content: { tensors: state, metadata } };
}

/** Parameter and quantity of a key of the state, such as `NAME` and `exp_avg`. */
export function splitKey(key: string): [name: string, quantity: string] {
  const dot = key.lastIndexOf('.');
  return [key.slice(0, dot), key.slice(dot + 1)];
}

function size(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

interface PlacedPiece extends Piece {
  file: SafetensorsFile;
  path: string;
}

/** The state of all processes together. */
export interface OptimizerFiles extends Disposable {
  /** Finished optimiser steps. */
  readonly step: number;
  /** Elements of each parameter that has a state, by name. */
  readonly parameters: ReadonlyMap<string, number>;
  /** Whether the parameter has this quantity, such as `master`. */
  has(name: string, quantity: string): boolean;
  /**
   * Elements `start` to `end` of a quantity of a flattened parameter, of shape [end - start], in the dtype it is stored in; only they are read.
   * @throws UserError when it is not there
   */
  read(name: string, quantity: string, start: number, end: number): Tensor;
  /** The parameter's own count of steps, a scalar. */
  readStep(name: string): Tensor;
  close(): void;
}

/**
 * Opens the optimiser's files of a checkpoint folder, whichever number of processes wrote them.
 * @throws UserError naming the file or the elements that are missing, or there twice
 * @throws CheckpointError when a file is damaged
 */
export function openOptimizerFiles(folder: string): OptimizerFiles {
  const files: SafetensorsFile[] = [];
  const close = () => {
    for (const file of files) file.close();
  };
  try {
    const steps = new Map<number, string>();
    const pieces = new Map<string, PlacedPiece[]>();
    for (const path of optimizerPaths(folder)) {
      const file = openSafetensors(path);
      files.push(file);
      steps.set(stepOf(file, path), path);
      for (const piece of piecesOf(file, path)) {
        const others = pieces.get(piece.name);
        if (others) others.push({ ...piece, file, path });
        else pieces.set(piece.name, [{ ...piece, file, path }]);
      }
    }
    const [[step, path], other] = [...steps] as [[number, string], [number, string] | undefined];
    if (other) throw new UserError(`${path} is of step ${step}, but ${other[1]} of step ${other[0]}`);
    for (const [name, parts] of pieces) checkCoverage(folder, name, parts);
    return new OpenFiles(folder, step, pieces, close);
  } catch (error) {
    close();
    throw error;
  }
}

/** The files that belong together. @throws UserError naming the one that is missing */
function optimizerPaths(folder: string): string[] {
  const names = readdirSync(folder);
  const shards = names.filter((name) => shardName.test(name)).sort();
  if (shards.length === 0) return [join(folder, single)];
  if (names.includes(single))
    throw new UserError(`${folder} holds both ${single} and ${shards[0]}; only one belongs there`);
  const worlds = [...new Set(shards.map((name) => Number(shardName.exec(name)![2])))];
  if (worlds.length > 1)
    throw new UserError(
      `${folder} holds optimiser files of ${worlds.join(' and of ')} processes; only one set belongs there`,
    );
  const wanted = Array.from({ length: worlds[0]! }, (_, rank) => optimizerFileName(rank, worlds[0]!));
  const missing = wanted.find((name) => !shards.includes(name));
  if (missing) throw new UserError(`${join(folder, missing)} is missing`);
  return wanted.map((name) => join(folder, name));
}

function stepOf({ metadata }: SafetensorsFile, path: string): number {
  const step = Number(metadata.step);
  if (!Number.isInteger(step) || step < 0)
    throw new UserError(`${path}: the metadata has no step count; the file is not an optimiser state`);
  return step;
}

function piecesOf(file: SafetensorsFile, path: string): Piece[] {
  const held = new Map<string, number>();
  for (const key of file.names()) {
    const [name, quantity] = splitKey(key);
    if (quantity === FIRST_QUANTITY) held.set(name, size(file.info(key).shape));
  }
  const text = file.metadata.pieces;
  if (text === undefined) return [...held].map(([name, numel]) => ({ name, start: 0, end: numel, numel }));
  const pieces = parsePieces(text);
  if (!pieces) throw new UserError(`${path}: the metadata's list of pieces is damaged`);
  const lengths = new Map(pieces.map(({ name, start, end }) => [name, end - start]));
  for (const key of file.names()) {
    const [name, quantity] = splitKey(key);
    const length = lengths.get(name);
    if (length === undefined) throw new UserError(`${path}: ${key} belongs to no piece`);
    if (quantity !== COUNT && size(file.info(key).shape) !== length)
      throw new UserError(`${path}: ${key} has ${size(file.info(key).shape)} elements, but its piece has ${length}`);
  }
  const absent = pieces.find(({ name }) => !held.has(name));
  if (absent) throw new UserError(`${path}: ${absent.name}.${FIRST_QUANTITY} is missing`);
  return pieces;
}

function parsePieces(text: string): Piece[] | null {
  try {
    const pieces = piecesSchema.parse(JSON.parse(text));
    const sound = pieces.every(({ start, end, numel }) => start <= end && end <= numel);
    return sound && new Set(pieces.map(({ name }) => name)).size === pieces.length ? pieces : null;
  } catch {
    return null;
  }
}

/** Sorts the pieces of one parameter. @throws UserError unless they hold each of its elements exactly once */
function checkCoverage(folder: string, name: string, parts: PlacedPiece[]): void {
  const { numel, path } = parts[0]!;
  const other = parts.find((part) => part.numel !== numel);
  if (other) throw new UserError(`${name} has ${numel} elements in ${path}, but ${other.numel} in ${other.path}`);
  parts.sort((a, b) => a.start - b.start || a.end - b.end);
  let at = 0;
  for (const { start, end, path } of parts) {
    if (start > at) throw missingElements(folder, name, at, start);
    if (start < at && end > start)
      throw new UserError(`${path}: elements ${start} to ${Math.min(at, end)} of ${name} are there twice`);
    at = Math.max(at, end);
  }
  if (at < numel) throw missingElements(folder, name, at, numel);
}

function missingElements(folder: string, name: string, start: number, end: number): UserError {
  return new UserError(`${folder}: no optimiser file holds the elements ${start} to ${end} of ${name}`);
}

class OpenFiles implements OptimizerFiles {
  readonly step: number;
  readonly parameters: ReadonlyMap<string, number>;
  readonly #folder: string;
  readonly #pieces: ReadonlyMap<string, readonly PlacedPiece[]>;
  readonly #close: () => void;

  constructor(folder: string, step: number, pieces: ReadonlyMap<string, readonly PlacedPiece[]>, close: () => void) {
    this.#folder = folder;
    this.step = step;
    this.#pieces = pieces;
    this.#close = close;
    this.parameters = new Map([...pieces].map(([name, parts]) => [name, parts[0]!.numel]));
  }

  has(name: string, quantity: string): boolean {
    return this.#pieces.get(name)?.some(({ file }) => file.has(`${name}.${quantity}`)) ?? false;
  }

  read(name: string, quantity: string, start: number, end: number): Tensor {
    const key = `${name}.${quantity}`;
    const numel = this.parameters.get(name);
    if (numel === undefined) throw new UserError(`${this.#folder}: the optimiser files have no state of ${name}`);
    if (!(start >= 0 && start <= end && end <= numel))
      throw new RangeError(`${key} has ${numel} elements, not those from ${start} to ${end}`);
    const touched = this.#pieces.get(name)!.filter((piece) => piece.start < end && piece.end > start);
    const parts = touched.length > 0 ? touched : this.#pieces.get(name)!.slice(0, 1);
    for (const { file, path } of parts) if (!file.has(key)) throw new UserError(`${path}: ${key} is missing`);
    const [first] = parts as [PlacedPiece];
    const { dtype } = first.file.info(key);
    return scope(() => {
      if (touched.length === 1) return first.file.readElements(key, start - first.start, end - first.start);
      const result = empty([end - start], { dtype });
      for (const { file, path, ...piece } of touched) {
        const found = file.info(key).dtype;
        if (found !== dtype) throw new UserError(`${path}: ${key} is ${found} here, but ${dtype} in ${first.path}`);
        const [from, to] = [Math.max(start, piece.start), Math.min(end, piece.end)];
        scope(() => {
          const values = file.readElements(key, from - piece.start, to - piece.start);
          result.narrow(0, from - start, to - from).copy_(values);
        });
      }
      return result;
    });
  }

  readStep(name: string): Tensor {
    const key = `${name}.${COUNT}`;
    const part = this.#pieces.get(name)?.find(({ file }) => file.has(key));
    if (!part) throw new UserError(`${this.#folder}: the optimiser files have no ${key}`);
    return part.file.read(key);
  }

  close(): void {
    this.#close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
