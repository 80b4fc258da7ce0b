/** A Hugging Face weight folder: model.safetensors, or shards listed by model.safetensors.index.json. */
import fs from 'node:fs';
import { basename, join } from 'node:path';
import type { Tensor } from '../core/tensor.ts';
import { CheckpointError } from './errors.ts';
import { attempt, openSafetensors, type ReadOptions, type TensorFile, type TensorInfo } from './safetensors.ts';
import { quote } from './safetensors-header.ts';

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
/** Some hundred thousand tensors. */
const MAX_INDEX_BYTES = 2 ** 26;
const SHARD = /^[^\\\p{Cc}]{1,255}\.safetensors$/u;

/**
 * Opens a folder's weights (or a .safetensors file itself). Shard headers are validated at once, tensors read on demand.
 * Throws CheckpointError when there are no such files, the index is damaged, or a tensor it lists is missing from its shard.
 */
export function openCheckpoint(folder: string): TensorFile {
  const stat = attempt(folder, () => fs.statSync(folder, { throwIfNoEntry: false }));
  if (!stat) throw new CheckpointError(`${folder}: there is no such folder`);
  if (stat.isFile()) return openSafetensors(folder);
  if (fs.existsSync(join(folder, SINGLE))) return openSafetensors(join(folder, SINGLE));
  if (fs.existsSync(join(folder, INDEX))) return openSharded(folder);
  const others = fs.readdirSync(folder).filter((name) => /\.(bin|pth?|safetensors)$/.test(name));
  const found = others.length > 0 ? ` (it has ${others.slice(0, 3).join(', ')})` : '';
  throw new CheckpointError(`${folder}: has neither ${SINGLE} nor ${INDEX}${found}`);
}

function openSharded(folder: string): TensorFile {
  const index = join(folder, INDEX);
  const map = readWeightMap(index);
  const shards = new Map<string, TensorFile>();
  try {
    const owners = new Map<string, TensorFile>();
    for (const [name, file] of map) {
      let shard = shards.get(file);
      if (!shard) {
        shard = openSafetensors(join(folder, file));
        shards.set(file, shard);
      }
      if (!shard.has(name))
        throw new CheckpointError(`${index}: tensor ${quote(name)} should be in ${file} but is not`);
      owners.set(name, shard);
    }
    return new ShardedCheckpoint(index, owners, [...shards.values()]);
  } catch (error) {
    for (const shard of shards.values()) shard.close();
    throw error;
  }
}

function readWeightMap(index: string): [name: string, file: string][] {
  const stat = attempt(index, () => fs.statSync(index));
  if (!stat.isFile()) throw new CheckpointError(`${index}: not a file`);
  if (stat.size > MAX_INDEX_BYTES)
    throw new CheckpointError(`${index}: has ${stat.size} bytes, more than any checkpoint needs (${MAX_INDEX_BYTES})`);
  let map: unknown;
  try {
    map = (JSON.parse(fs.readFileSync(index, 'utf8')) as { weight_map?: unknown } | null)?.weight_map;
  } catch {
    throw new CheckpointError(`${index}: not valid JSON`);
  }
  if (typeof map !== 'object' || map === null || Array.isArray(map))
    throw new CheckpointError(`${index}: has no object "weight_map"`);
  const entries = Object.entries(map);
  if (entries.length === 0) throw new CheckpointError(`${index}: lists no tensors`);
  for (const [name, file] of entries) {
    // A shard is a file beside its index: a path would let a downloaded index reach elsewhere on the disk.
    if (typeof file !== 'string' || basename(file) !== file || !SHARD.test(file))
      throw new CheckpointError(
        `${index}: tensor ${quote(name)} names ${quote(file)}, which is no .safetensors file of this folder`,
      );
  }
  return entries as [string, string][];
}

class ShardedCheckpoint implements TensorFile {
  readonly metadata: Readonly<Record<string, string>>;
  readonly #index: string;
  readonly #owners: ReadonlyMap<string, TensorFile>;
  readonly #shards: readonly TensorFile[];

  constructor(index: string, owners: ReadonlyMap<string, TensorFile>, shards: readonly TensorFile[]) {
    this.#index = index;
    this.#owners = owners;
    this.#shards = shards;
    this.metadata = Object.assign({}, ...shards.map((shard) => shard.metadata));
  }

  /** Shard by shard, each in the order of its data, so that reading all of them reads the disk forwards. */
  names(): string[] {
    return this.#shards.flatMap((shard) => shard.names().filter((name) => this.#owners.get(name) === shard));
  }

  has(name: string): boolean {
    return this.#owners.has(name);
  }

  info(name: string): TensorInfo {
    return this.#owner(name).info(name);
  }

  read(name: string, options?: ReadOptions): Tensor {
    return this.#owner(name).read(name, options);
  }

  readInto(name: string, tensor: Tensor): void {
    this.#owner(name).readInto(name, tensor);
  }

  close(): void {
    for (const shard of this.#shards) shard.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #owner(name: string): TensorFile {
    const shard = this.#owners.get(name);
    if (!shard) throw new CheckpointError(`${this.#index}: there is no tensor ${quote(name)} in it`);
    return shard;
  }
}
