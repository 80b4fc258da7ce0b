/**
 * The names inside an official IVT-LR `model.pth`: the state dict of the official class around a PEFT model around a Hugging
 * Face model, gathered from DeepSpeed. Which weights there must be, and under which names, is asked of the registry.
 */
import { UserError } from '../errors.ts';
import type { WeightNames } from '../models/registry.ts';
import type { PathStyle } from '../models/types.ts';

/** One low-rank pair, by its names in the file. */
export interface AdapterFactors {
  /** (R, inputs) */
  a: string;
  /** (outputs, R) */
  b: string;
}

export interface OfficialNames {
  /** Hugging Face name -> name in the file. */
  weights: Map<string, string>;
  /** Hugging Face name of the adapted weight -> its factors. */
  adapters: Map<string, AdapterFactors>;
  /** Name in the file of a second copy of the input embedding, null without one. Where the two differ the official code uses this one. */
  embedding: string | null;
}

const NETWORK = 'base_causallm.';
const PEFT = 'base_model.model.';
const FACTOR = /^(.*)\.lora_([AB])\.default\.weight$/;
/** PEFT's other tensors would change what the model computes; they are no part of official checkpoints. */
const OTHER_PEFT = /\.(lora_\w+|modules_to_save|ia3_\w+|hada_\w+|oft_\w+)\./;
/** Tables that older versions of transformers stored, although the configuration determines them. */
const TABLES = /\.inv_freq$/;

/** Sorts a file's names. @throws UserError naming the key that no official checkpoint has */
export function officialNames(names: readonly string[], path: string): OfficialNames {
  const found: OfficialNames = { weights: new Map(), adapters: new Map(), embedding: null };
  const halves = new Map<string, Partial<AdapterFactors>>();
  for (const stored of names) {
    const name = stored.replace(/^module\./, '');
    if (name === 'embedding.weight') {
      found.embedding = stored;
      continue;
    }
    if (!name.startsWith(NETWORK))
      throw new UserError(
        `${path}: no official IVT-LR checkpoint: the key ${stored} does not begin with ${NETWORK}${PEFT} (module. may stand before it)`,
      );
    const inner = name.slice(NETWORK.length);
    const hub = inner.startsWith(PEFT) ? inner.slice(PEFT.length) : inner;
    if (TABLES.test(hub)) continue;
    const factor = FACTOR.exec(hub);
    if (factor) {
      const target = `${factor[1]}.weight`;
      const half = halves.get(target) ?? {};
      half[factor[2] === 'A' ? 'a' : 'b'] = stored;
      halves.set(target, half);
      continue;
    }
    if (OTHER_PEFT.test(hub)) throw new UserError(`${path}: ${stored} is of a kind of adapter that is not supported`);
    const plain = hub.replace('.base_layer.', '.');
    const twin = found.weights.get(plain);
    if (twin !== undefined) throw new UserError(`${path}: ${twin} and ${stored} are the same weight`);
    found.weights.set(plain, stored);
  }
  for (const [target, { a, b }] of halves) {
    if (a === undefined || b === undefined)
      throw new UserError(`${path}: ${a ?? b} has no counterpart lora_${a === undefined ? 'A' : 'B'}`);
    if (!found.weights.has(target)) throw new UserError(`${path}: ${a} belongs to no weight of the file`);
    found.adapters.set(target, { a, b });
  }
  if (found.weights.size === 0) throw new UserError(`${path}: no official IVT-LR checkpoint: it holds no weights`);
  return found;
}

/** The embedding's rows: official training cuts them to the tokenizer's size, so that config.json of the base does not tell. */
export function vocabularySize(
  names: OfficialNames,
  shapeOf: (stored: string) => readonly number[],
  path: string,
): number {
  const stored = names.embedding ?? [...names.weights].find(([name]) => name.endsWith('.embed_tokens.weight'))?.[1];
  if (stored === undefined) throw new UserError(`${path}: it has no input embedding (embedding.weight)`);
  const [rows] = shapeOf(stored);
  if (!rows) throw new UserError(`${path}: ${stored} has no rows`);
  return rows;
}

/** A base's config.json (flat or nested) with another vocabulary size. */
export function withVocabulary(configJson: unknown, size: number): Record<string, unknown> {
  const config = { ...(configJson as Record<string, unknown>) };
  const nested = config.text_config as Record<string, unknown> | undefined;
  if (nested && typeof nested === 'object') config.text_config = { ...nested, vocab_size: size };
  if (!nested || 'vocab_size' in config) config.vocab_size = size;
  return config;
}

/** One weight to be written. */
export interface PlannedWeight {
  /** Name in the file that is read. */
  stored: string;
  shape: readonly number[];
  adapter: AdapterFactors | null;
}

export interface ConversionPlan {
  /** By the name this project stores the weight under. */
  weights: Map<string, PlannedWeight>;
  /** Hugging Face paths of the adapted layers -> factors. */
  adapters: Map<string, AdapterFactors>;
  /** R; 0 without adapters. */
  rank: number;
  /** Of the model's paths in today's transformers. */
  pathStyle: PathStyle;
}

/**
 * Fits a file's names to a model, before anything is read or written.
 * @throws UserError naming the weight that is missing, unknown or misshapen
 */
export function planConversion(
  names: OfficialNames,
  wanted: WeightNames,
  shapeOf: (stored: string) => readonly number[],
  path: string,
  base: string,
): ConversionPlan {
  const plan: ConversionPlan = { weights: new Map(), adapters: new Map(), rank: 0, pathStyle: wanted.pathStyle };
  const mismatch = (what: string) => new UserError(`${path}: ${what}; is ${base} the base it was trained from?`);
  for (const [hub, stored] of names.weights) {
    const name = wanted.storedName(hub);
    if (name === null) continue;
    const shape = wanted.shapes.get(name);
    if (!shape) throw mismatch(`${stored} is no weight of the base model`);
    if (plan.weights.has(name)) throw new UserError(`${path}: ${stored} is there twice, under two names`);
    checkShape(stored, shapeOf(stored), shape, mismatch);
    const adapter = names.adapters.get(hub) ?? null;
    plan.weights.set(name, { stored, shape, adapter });
    if (adapter) {
      const rank = checkFactors(adapter, shape, shapeOf, mismatch);
      if (plan.rank !== 0 && plan.rank !== rank)
        throw new UserError(`${path}: ${adapter.a} has rank ${rank}, others have ${plan.rank}`);
      plan.rank = rank;
      plan.adapters.set(name.replace(/\.weight$/, ''), adapter);
    }
  }
  const missing = [...wanted.shapes.keys()].filter((name) => !plan.weights.has(name));
  if (missing.length > 0)
    throw mismatch(
      `it lacks ${missing.slice(0, 3).join(', ')}${missing.length > 3 ? ` and ${missing.length - 3} more` : ''}`,
    );
  if (names.embedding !== null) replaceEmbedding(plan, names.embedding, names, wanted, shapeOf, mismatch);
  return plan;
}

/** The official class's load_state_dict copies both keys into one parameter, this key last, so this copy counts. */
function replaceEmbedding(
  plan: ConversionPlan,
  embedding: string,
  names: OfficialNames,
  wanted: WeightNames,
  shapeOf: (stored: string) => readonly number[],
  mismatch: (what: string) => UserError,
): void {
  const hub = [...names.weights.keys()].find((name) => name.endsWith('.embed_tokens.weight'));
  const weight = hub === undefined ? undefined : plan.weights.get(wanted.storedName(hub) ?? '');
  if (!weight) throw mismatch('it has no input embedding (embed_tokens.weight)');
  checkShape(embedding, shapeOf(embedding), weight.shape, mismatch);
  weight.stored = embedding;
}

function checkShape(
  stored: string,
  shape: readonly number[],
  wanted: readonly number[],
  mismatch: (what: string) => UserError,
): void {
  if (String(shape) !== String(wanted))
    throw mismatch(`${stored} is [${shape.join(', ')}], the base model's is [${wanted.join(', ')}]`);
}

function checkFactors(
  { a, b }: AdapterFactors,
  [outputs, inputs]: readonly number[],
  shapeOf: (stored: string) => readonly number[],
  mismatch: (what: string) => UserError,
): number {
  const [shapeA, shapeB] = [shapeOf(a), shapeOf(b)];
  const rank = shapeA[0] ?? 0;
  checkShape(a, shapeA, [rank, inputs!], mismatch);
  checkShape(b, shapeB, [outputs!, rank], mismatch);
  if (rank === 0) throw mismatch(`${a} has rank 0`);
  return rank;
}
