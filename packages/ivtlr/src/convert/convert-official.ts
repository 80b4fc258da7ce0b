/**
 * An official `model.pth` made a model folder: safetensors under Hugging Face names, and the LoRA factors as a PEFT adapter folder beside them
 * or merged into the weights. Tensors go through one shard at a time; the folder appears under its name only when it is whole.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import {
  CheckpointError,
  type DType,
  noGrad,
  openPth,
  type PthFile,
  saveSafetensors,
  scope,
  type Tensor,
} from '@ivtlr/torch';
import { readAuxiliaryFiles, reasoningSettingsSchema } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import { writeFiles } from '../file-contents.ts';
import { makeFolder, readJson, writeFileAtomic } from '../files.ts';
import { factorFiles } from '../lora/adapter-folder.ts';
import { familyOf, weightNames } from '../models/registry.ts';
import { LATENT_TOKENS, Tokenizer } from '../text/tokenizer.ts';
import {
  type ConversionPlan,
  officialNames,
  type PlannedWeight,
  planConversion,
  vocabularySize,
  withVocabulary,
} from './official-checkpoint.ts';
import { requireSoundWeight } from './sound-weights.ts';

export interface ConvertOptions {
  /** The official file. */
  checkpoint: string;
  /** Folder of the model it was trained from: config.json, tokenizer, chat template and preprocessing come from it. */
  base: string;
  /** Folder to make; it must not exist or be empty. */
  out: string;
  /** Adds the adapters to the weights instead of writing them beside. */
  merge?: boolean;
  /** LoRA's alpha, which the file does not tell; official training has 16. */
  alpha?: number;
  /** LoRA's dropout, for the adapter's configuration only. */
  dropout?: number;
  /** Of the weights written; default: as stored. Adapters stay as stored. */
  dtype?: DType;
  /** Task whose prompts the model was trained on, for ivtlr.json. */
  task?: string | null;
  /** Largest file of weights, in bytes. */
  shardBytes?: number;
  signal?: AbortSignal;
  onProgress?: (progress: { done: number; total: number; name: string }) => void;
}

export interface ConvertResult {
  weights: number;
  /** Adapted layers. */
  adapters: number;
  rank: number;
  vocabulary: number;
  files: number;
  bytes: number;
  /** Folder of the adapter; null when it was merged or there is none. */
  adapterFolder: string | null;
  /** Entries of the file that are no tensors. */
  skipped: string[];
}

const BYTES: Partial<Record<DType, number>> = { float64: 8, float32: 4, float16: 2, bfloat16: 2 };
const ADAPTER = 'adapter';

/** @throws UserError naming the file and what is wrong with it; nothing is left of the folder then */
export async function convertOfficial(options: ConvertOptions): Promise<ConvertResult> {
  const out = resolve(options.out);
  const found = statSync(out, { throwIfNoEntry: false });
  if (found && !found.isDirectory())
    throw new UserError(`${options.out} is a file; give a folder that does not exist yet`);
  if (found && readdirSync(out).length > 0)
    throw new UserError(`${options.out} is not empty; give a folder that does not exist yet`);
  const temporary = join(dirname(out), `.${basename(out)}.${randomBytes(4).toString('hex')}.tmp`);
  try {
    using file = openPth(options.checkpoint);
    const { config, plan, vocabulary } = prepare(file, options);
    const auxiliaryFiles = readAuxiliaryFiles(options.base);
    makeFolder(temporary);
    const written = await writeWeights(file, plan, temporary, options);
    const adapterFolder = !options.merge && plan.rank > 0 ? join(out, ADAPTER) : null;
    for (const [name, bytes] of auxiliaryFiles) writeFileAtomic(join(temporary, name), bytes);
    writeJson(join(temporary, 'config.json'), written.dtype ? withDtype(config, written.dtype) : config);
    // As the official code asks at inference: where an image has fewer unpicked tokens than a step wants, it takes used ones again.
    const { patches } = familyOf(config, join(options.base, 'config.json'));
    const settings = reasoningSettingsSchema.parse({
      task: options.task ?? null,
      patches,
      onExhausted: 'reuse',
      resize: 'pillow-11',
    });
    writeJson(join(temporary, 'ivtlr.json'), settings);
    if (adapterFolder) {
      writeAdapter(file, plan, join(temporary, ADAPTER), out, options);
      writeJson(join(temporary, ADAPTER, 'ivtlr.json'), settings);
    }
    renameSync(temporary, out);
    const { files, bytes } = written;
    const skipped = file.skipped.map(({ name }) => name);
    return {
      weights: plan.weights.size,
      adapters: plan.adapters.size,
      rank: plan.rank,
      vocabulary,
      files,
      bytes,
      adapterFolder,
      skipped,
    };
  } catch (error) {
    if (error instanceof CheckpointError) throw new UserError(error.message);
    const { code, syscall, message } = error as NodeJS.ErrnoException;
    if (code && syscall) throw new UserError(`${options.out} cannot be written: ${message}`);
    throw error;
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

/** Reads and checks everything, so that an error comes before anything is written. */
function prepare(
  file: PthFile,
  { checkpoint, base }: ConvertOptions,
): { config: Record<string, unknown>; plan: ConversionPlan; vocabulary: number } {
  const source = join(base, 'config.json');
  const json = readJson(source, 'config of the base model');
  const names = officialNames(file.names(), checkpoint);
  const shapeOf = (stored: string) => file.info(stored).shape;
  const vocabulary = vocabularySize(names, shapeOf, checkpoint);
  const config = withVocabulary(json, vocabulary);
  const plan = planConversion(names, weightNames(config, source), shapeOf, checkpoint, base);
  for (const { stored } of plan.weights.values()) {
    const { dtype } = file.info(stored);
    if (!(dtype in BYTES))
      throw new UserError(`${checkpoint}: ${stored} has dtype ${dtype}; weights have a floating-point one`);
  }
  const tokenizer = Tokenizer.fromFolder(base);
  tokenizer.addSpecialTokens(LATENT_TOKENS);
  if (tokenizer.vocabSize > vocabulary)
    throw new UserError(
      `${checkpoint}: its embedding has ${vocabulary} rows, but the tokenizer of ${base} has ${tokenizer.vocabSize} entries with the latent tokens`,
    );
  return { config, plan, vocabulary };
}

async function writeWeights(
  file: PthFile,
  plan: ConversionPlan,
  folder: string,
  { checkpoint, merge, alpha = 16, dtype, shardBytes = 2 ** 31, signal, onProgress }: ConvertOptions,
): Promise<{ files: number; bytes: number; dtype: DType | null }> {
  const outDtype = (stored: string) => dtype ?? file.info(stored).dtype;
  const bytesOf = ({ stored, shape }: PlannedWeight) => shape.reduce((a, b) => a * b, 1) * BYTES[outDtype(stored)]!;
  const shards = splitIntoShards(plan, file, bytesOf, shardBytes);
  const total = shards.reduce((sum, { bytes }) => sum + bytes, 0);
  const dtypes = new Set([...plan.weights.values()].map(({ stored }) => outDtype(stored)));
  const map: Record<string, string> = {};
  let done = 0;
  for (const [index, { names }] of shards.entries()) {
    const five = (value: number) => String(value).padStart(5, '0');
    const name =
      shards.length === 1 ? 'model.safetensors' : `model-${five(index + 1)}-of-${five(shards.length)}.safetensors`;
    // The event loop runs between two shards, where no tensor is alive, so that the handler of a signal can stop the work.
    await setImmediate();
    signal?.throwIfAborted();
    scope(() =>
      noGrad(() => {
        const tensors = new Map<string, Tensor>();
        for (const weight of names) {
          const planned = plan.weights.get(weight)!;
          const tensor = readWeight(file, planned, merge ? alpha / plan.rank : null, dtype);
          requireSoundWeight(weight, tensor, checkpoint);
          tensors.set(weight, tensor);
          map[weight] = name;
          done += bytesOf(planned);
          onProgress?.({ done, total, name: weight });
        }
        saveSafetensors(join(folder, name), tensors, { format: 'pt' });
      }),
    );
  }
  if (shards.length > 1)
    writeJson(join(folder, 'model.safetensors.index.json'), { metadata: { total_size: total }, weight_map: map });
  return { files: shards.length, bytes: total, dtype: dtypes.size === 1 ? [...dtypes][0]! : null };
}

/** In the order of the file, so that it is read forwards. */
function splitIntoShards(
  plan: ConversionPlan,
  file: PthFile,
  bytesOf: (weight: PlannedWeight) => number,
  most: number,
): { names: string[]; bytes: number }[] {
  const place = new Map(file.names().map((name, i) => [name, i]));
  const ordered = [...plan.weights].sort(([, a], [, b]) => place.get(a.stored)! - place.get(b.stored)!);
  const shards: { names: string[]; bytes: number }[] = [];
  for (const [name, weight] of ordered) {
    const bytes = bytesOf(weight);
    const last = shards.at(-1);
    if (!last || last.bytes + bytes > most) shards.push({ names: [name], bytes });
    else {
      last.names.push(name);
      last.bytes += bytes;
    }
  }
  return shards;
}

/**
 * The weight, with W + B A * scaling when there is a scaling. As PEFT does it, in place and so in the dtype of the weight; where that
 * is 16 bits wide and another one is wanted, in float32, rounded last.
 */
function readWeight(file: PthFile, { stored, adapter }: PlannedWeight, scaling: number | null, dtype?: DType): Tensor {
  if (!adapter || scaling === null) return file.read(stored, dtype ? { dtype } : {});
  return scope(() => {
    const own = file.info(stored).dtype;
    const weight = file.read(stored, dtype && dtype !== own && isHalf(own) ? { dtype: 'float32' } : {});
    const [a, b] = [file.read(adapter.a), file.read(adapter.b)];
    // PEFT on the CPU multiplies 16-bit factors in float32 and rounds the product back.
    const product = isHalf(b.dtype) ? b.to('float32').matmul(a.to('float32')) : b.matmul(a);
    weight.add_(product.mul(scaling).to(b.dtype));
    return dtype ? weight.to(dtype) : weight;
  });
}

function isHalf(dtype: DType): boolean {
  return dtype === 'bfloat16' || dtype === 'float16';
}

/** The adapters of the file as a PEFT folder. */
function writeAdapter(
  file: PthFile,
  { adapters, rank, pathStyle: style }: ConversionPlan,
  folder: string,
  baseModel: string,
  { checkpoint, alpha = 16, dropout = 0.05 }: ConvertOptions,
): void {
  mkdirSync(folder);
  const targets = [...new Set([...adapters.keys()].map((path) => path.split('.').at(-1)!))];
  scope(() => {
    const factors = [...adapters].map(([path, { a, b }]) => ({ path, a: file.read(a), b: file.read(b) }));
    for (const { path, a, b } of factors) for (const factor of [a, b]) requireSoundWeight(path, factor, checkpoint);
    writeFiles(folder, factorFiles(factors, { rank, alpha, dropout, targets }, { baseModel, style }));
  });
}

/** Hugging Face reads the dtype under either name, depending on its version. */
function withDtype(config: Record<string, unknown>, dtype: DType): Record<string, unknown> {
  return { ...config, [!('torch_dtype' in config) && 'dtype' in config ? 'dtype' : 'torch_dtype']: dtype };
}

function writeJson(path: string, value: unknown): void {
  writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`);
}
