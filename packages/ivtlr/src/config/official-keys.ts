/**
 * The settings of the official Python code's YAML files, under their own names: in a recipe beside this project's, or by `--set`. Each becomes the
 * setting that means the same. In the text of a recipe a setting given twice, under both names, is an error.
 */
import { type Document, isMap, isNode, isScalar, type YAMLMap } from 'yaml';
import { DECODER_PROJECTIONS } from '../lora/options.ts';

/** The same value under another name. */
const RENAMED: Readonly<Record<string, readonly string[]>> = {
  epochs_per_stage: ['latent', 'epochsPerStage'],
  max_latent_stage: ['latent', 'maxLatentStage'],
  pad_latent_to_max: ['latent', 'padLatentToMax'],
  batch_size_training: ['microBatch'],
  num_epochs: ['numEpochs'],
  lr: ['optimizer', 'lr'],
};

/** Texts: kept letter by letter when they come from a command line. */
export const OFFICIAL_TEXTS: readonly string[] = ['project', 'save_path', 'name', 'load_model_path'];

/** All of them; `seed` is called so here too. */
export const OFFICIAL_KEYS: readonly string[] = [
  ...OFFICIAL_TEXTS,
  ...['resume', 'bf16', 'debug', 'gradient_accumulation_steps'],
  ...Object.keys(RENAMED),
];

/** Rows of the data set that the official code keeps with `debug: True`. */
const DEBUG_ROWS = 5000;

/** Processes that the published runs were made with, one a GPU. */
const PROCESSES = 4;

/** What the official code does without a key for it. */
const DEFAULTS: readonly (readonly [path: readonly string[], value: unknown, said: string])[] = [
  [['profile'], 'official', 'profile official'],
  [
    ['lora'],
    { rank: 64, alpha: 16, dropout: 0.05, targets: DECODER_PROJECTIONS },
    `LoRA of rank 64, alpha 16 and dropout 0.05 on ${DECODER_PROJECTIONS.join(', ')}`,
  ],
  [['optimizer', 'clip'], 0.7, 'optimizer.clip 0.7'],
  [['latent', 'onExhausted'], 'reuse', 'latent.onExhausted reuse'],
  [['data', 'source'], 'folder', 'data.source folder'],
];

type Fail = (message: string) => never;

/** What decides the global batch besides the settings. */
export interface BatchContext {
  /** Processes that share the run, where it is known that there are several; else 1. */
  processes: number;
  /** The global batch of the run in a folder that is to go on; null for a run that begins. */
  globalBatchOf(out: string): number | null;
  /** Raises an error about the train_batch_size of a DeepSpeed config; null where globalBatch has another origin. */
  trainBatch: Fail | null;
}

interface OfficialKey {
  /** As it goes into the document. */
  value: unknown;
  fail: Fail;
  /** Where it stands in the text. */
  offset?: number | undefined;
}

/** The official names used by one recipe and by `--set`, in the order they appear. */
export class OfficialSettings {
  readonly #document: Document;
  readonly #keys = new Map<string, OfficialKey>();
  /** Whether the recipe's own text uses official names; only then, not for names in `--set`, do the official defaults apply. */
  readonly #inText: boolean;

  /**
   * Rewrites the official names of a recipe in place.
   * @param fail raises an error at an offset of the text
   */
  constructor(document: Document, fail: (offset: number | undefined, message: string) => never) {
    this.#document = document;
    const top = document.contents as YAMLMap;
    for (const pair of [...top.items]) {
      const key = isScalar(pair.key) ? String(pair.key.value) : '';
      if (!OFFICIAL_KEYS.includes(key)) continue;
      const offset = isNode(pair.key) ? pair.key.range?.[0] : undefined;
      this.#keys.set(key, { value: pair.value, fail: (message) => fail(offset, `${key}: ${message}`), offset });
      top.delete(key);
    }
    this.#inText = this.#keys.size > 0;
    const written = new Set<string>();
    for (const [key, { fail }] of this.#keys) {
      const setting = this.#settingOf(key);
      if (setting === null) continue;
      const name = setting.path.join('.');
      if (!written.has(name) && document.hasIn(setting.path)) fail(`is called ${name} here, which the recipe sets too`);
      written.add(name);
      this.#write(key, setting);
    }
  }

  /** Takes one from a command line; it wins over the text. Returns the path of the setting, or null where it becomes none. */
  override(key: string, value: unknown, fail: Fail): readonly string[] | null {
    const before = this.#keys.has(key) ? this.#settingOf(key) : null;
    this.#keys.set(key, { value, fail });
    const setting = this.#settingOf(key);
    if (setting !== null) this.#write(key, setting);
    else if (before !== null) this.#document.deleteIn(before.path);
    return setting?.path ?? null;
  }

  /** Where an official name stands in the text. */
  offsetOf(key: string): number | undefined {
    return this.#keys.get(key)?.offset;
  }

  /** Takes gradient_accumulation_steps from a DeepSpeed config where the text has none. Returns the text's, else undefined. */
  accumulation(value: unknown, fail: Fail): unknown {
    const key = 'gradient_accumulation_steps';
    if (this.#keys.has(key)) return this.#plain(key);
    this.#keys.set(key, { value, fail });
    return undefined;
  }

  /** After the last override: works out the global batch and fills in official defaults for what is not set. Returns a line about each. */
  finish(context: BatchContext): string[] {
    const notes = this.#finishGlobalBatch(context);
    const said = this.#inText ? DEFAULTS.filter(([path, value]) => this.#default(path, value)) : [];
    if (said.length === 0) return notes;
    const list = said.map(([, , text]) => text).join('; ');
    return [`the recipe has the official code's keys, so what it does not set is as there: ${list}`, ...notes];
  }

  /** The setting that an official name stands for, its value, or null for one that only says something about others. */
  #settingOf(key: string): { path: readonly string[]; value: unknown } | null {
    const { fail, value } = this.#keys.get(key)!;
    const renamed = RENAMED[key];
    if (renamed) return { path: renamed, value };
    const plain = this.#plain(key);
    const flag = () => (typeof plain === 'boolean' ? plain : fail('expected true or false'));
    switch (key) {
      case 'save_path':
      case 'name': {
        const parts = ['save_path', 'name'].filter((part) => this.#keys.has(part));
        return { path: ['out'], value: parts.map((part) => String(this.#plain(part))).join('/') };
      }
      case 'load_model_path':
        return plain === null || plain === 'None' ? null : { path: ['model'], value };
      case 'bf16':
        return { path: ['dtype'], value: flag() ? 'bfloat16' : 'float32' };
      case 'debug':
        return flag() ? { path: ['data', 'samplesPerEpoch'], value: DEBUG_ROWS } : null;
      case 'resume':
        if (plain !== null && plain !== 0) {
          fail(`the official code skips ${plain} epochs and loads nothing; to go on with a run use the flag --resume`);
        }
        return null;
      default:
        // `project` names a board of an online logging service, and nothing here is sent anywhere; the accumulation is looked at in the end.
        return null;
    }
  }

  #plain(key: string): unknown {
    const value = this.#keys.get(key)?.value;
    if (isScalar(value)) return value.value;
    if (!isNode(value)) return value ?? null;
    try {
      return value.toJS(this.#document);
    } catch {
      return this.#keys.get(key)!.fail('holds an alias that leads out of it or into itself');
    }
  }

  #write(key: string, { path, value }: { path: readonly string[]; value: unknown }): void {
    try {
      this.#document.setIn(path, isNode(value) ? value : this.#document.createNode(value));
    } catch {
      this.#keys.get(key)!.fail(`is ${path.join('.')} here, but ${path[0]} holds a plain value`);
    }
  }

  #default(path: readonly string[], value: unknown): boolean {
    // `data:` alone holds nothing, into which nothing can be put.
    const taken = path.length > 1 && this.#document.has(path[0]) && !isMap(this.#document.get(path[0], true));
    if (taken || this.#document.hasIn(path)) return false;
    this.#document.setIn(path, this.#document.createNode(value));
    return true;
  }

  /** The official global batch follows from the number of processes; here it is written down and the accumulation follows from it. */
  #finishGlobalBatch({ processes, globalBatchOf, trainBatch }: BatchContext): string[] {
    const accumulationKey = this.#keys.get('gradient_accumulation_steps');
    if (!accumulationKey) return [];
    const accumulation = this.#plain('gradient_accumulation_steps');
    const microBatch = this.#document.getIn(['microBatch']);
    const globalBatch = this.#document.getIn(['globalBatch']);
    if (typeof accumulation !== 'number' || !Number.isInteger(accumulation) || accumulation < 1)
      accumulationKey.fail('expected a whole number of at least 1');
    if (typeof microBatch !== 'number') return []; // the schema says what is wrong
    const own = microBatch * (accumulation as number);
    const rows = `${accumulation} x ${microBatch} rows`;
    const out = this.#document.getIn(['out']);
    // A run that goes on must not change its global batch, however many processes there are now.
    const begun = typeof out === 'string' ? globalBatchOf(out) : null;
    if (globalBatch === undefined) {
      const assumed = processes > 1 ? processes : PROCESSES;
      const derived = assumed * own;
      this.#document.setIn(['globalBatch'], begun ?? derived);
      if (begun !== null && begun !== derived)
        return [
          `globalBatch stays ${begun}, as the run began; ${rows} in each of ${assumed} processes would be ${derived}`,
        ];
      const said = `globalBatch is ${derived}: ${rows} in each of ${assumed} processes`;
      return [
        processes > 1 ? said : `${said}, as the official code is run; set globalBatch=${own} for one process alone`,
      ];
    }
    if (typeof globalBatch !== 'number' || globalBatch === begun) return [];
    if (trainBatch && processes > 1 && globalBatch !== processes * own) {
      const product = processes * own;
      trainBatch(
        `${globalBatch} is not ${rows} in each of ${processes} processes, which are ${product}; write ${product}, or keep it with --set globalBatch=${globalBatch}`,
      );
    }
    if (globalBatch % own !== 0) {
      if (trainBatch) trainBatch(`${globalBatch} is not a multiple of ${rows}, which one process takes in one step`);
      accumulationKey.fail(`${rows} do not divide globalBatch ${globalBatch}`);
    }
    return [];
  }
}
