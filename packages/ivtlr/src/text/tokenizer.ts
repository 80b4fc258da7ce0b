/**
 * Text <-> token ids by Hugging Face's own Rust tokenizers, from the `tokenizer.json` of a model folder.
 *
 * Encoding is asynchronous because the native library only offers it so; decoding is not, since streams need it token by token.
 */
import { join } from 'node:path';
import { Tokenizer as NativeTokenizer } from 'tokenizers';
import { UserError } from '../errors.ts';
import { readJson, readText } from '../files.ts';
import { bytesOfEntry, mostCharactersOfToken } from './byte-level.ts';

/** The tokens the latent slots need, in the order that fixes their ids (docs/method.md, training). */
export const LATENT_TOKENS = ['<|start-latent|>', '<|end-latent|>', '<|latent|>'] as const;

export interface DecodeOptions {
  /** Leave special tokens out of the text. On by default. */
  skipSpecial?: boolean;
}

/** A token stream turned into text piece by piece; all pieces joined are the decoded whole. */
export interface TokenStream {
  /** Returns the text that became certain with this token: '' while a character is still incomplete. */
  push(id: number): string;
  /** Returns what is left, with U+FFFD for a character that never became complete. */
  end(): string;
}

export class Tokenizer {
  /** Ends an answer and pads batches. */
  readonly eosId: number;
  /** Characters of a text that one token stands for at most; null where there is no such bound. */
  readonly mostCharacters: number | null;
  readonly #native: NativeTokenizer;
  readonly #decoder: { decode(tokens: string[]): string } | null;
  readonly #specialIds: Set<number>;
  readonly #addedIds: Set<number>;
  readonly #isByteLevel: boolean;
  readonly #path: string;
  #vocabSize: number;

  private constructor(
    native: NativeTokenizer,
    { size, specialIds, addedIds, mostCharacters, isByteLevel }: ReturnType<typeof readIds>,
    eosId: number,
    path: string,
  ) {
    this.#native = native;
    this.#decoder = native.getDecoder();
    this.#specialIds = specialIds;
    this.#vocabSize = size;
    this.#addedIds = addedIds;
    this.mostCharacters = mostCharacters;
    this.#isByteLevel = isByteLevel;
    this.#path = path;
    this.eosId = eosId;
  }

  /**
   * Reads `tokenizer.json` and, for the end-of-text token, `tokenizer_config.json` (`eos_token`) or `config.json` (`eos_token_id`).
   * @throws UserError when a file is missing or corrupt, or no end-of-text token is named.
   */
  static fromFolder(folder: string): Tokenizer {
    const path = join(folder, 'tokenizer.json');
    const definition = readJson(path, 'tokenizer');
    let native: NativeTokenizer;
    try {
      native = NativeTokenizer.fromString(readText(path, 'tokenizer'));
    } catch (error) {
      throw new UserError(`tokenizer ${path} is not a Hugging Face tokenizer: ${(error as Error).message}`);
    }
    return new Tokenizer(native, readIds(definition, native), findEos(folder, native), path);
  }

  /** One more than the largest id, added tokens included: the rows that an embedding of them needs. */
  get vocabSize(): number {
    return this.#vocabSize;
  }

  /** Token ids of one text. @throws UserError when the native library refuses the text. */
  async encode(text: string): Promise<number[]> {
    return (await this.encodeBatch([text]))[0]!;
  }

  /** Token ids of several texts in one native call, each as `encode` would give them. */
  async encodeBatch(texts: readonly string[]): Promise<number[][]> {
    if (texts.length === 0) return [];
    // Prompts name every token they want, so the tokenizer's post-processor adds none of its own, such as BOS.
    const encodings = await this.#native.encodeBatch([...texts], { addSpecialTokens: false }).catch((error: Error) => {
      throw new UserError(`tokenizer ${this.#path} cannot encode the text: ${error.message}`);
    });
    return encodings.map((encoding) => encoding.getIds());
  }

  /** Text of token ids; ids outside the vocabulary count as nothing. */
  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const skipSpecial = options.skipSpecial ?? true;
    const tokens: string[] = [];
    for (const id of ids) {
      if (skipSpecial && this.#specialIds.has(id)) continue;
      const token = this.#native.idToToken(id);
      if (token !== null) tokens.push(token);
    }
    if (tokens.length === 0) return '';
    return this.#decoder ? this.#decoder.decode(tokens) : tokens.join(' ');
  }

  /** The bytes that a token adds to a text of UTF-8; null where the decoder does not simply join bytes. */
  bytesOfToken(id: number): number[] | null {
    return this.#isByteLevel ? bytesOfEntry(this.#native.idToToken(id) ?? '') : null;
  }

  tokenToId(token: string): number | undefined {
    return this.#native.tokenToId(token) ?? undefined;
  }

  idToToken(id: number): string | undefined {
    return this.#native.idToToken(id) ?? undefined;
  }

  /**
   * Whether a token is of those that a text is searched for before it is cut into pieces: special ones, and others that were added to the
   * vocabulary by name. Those of blanks alone are text.
   */
  isAdded(id: number): boolean {
    return this.#addedIds.has(id);
  }

  /** Adds special tokens at the end of the vocabulary in the given order; those that exist keep their ids. Returns the ids of all. */
  addSpecialTokens(tokens: readonly string[]): number[] {
    const missing = tokens.filter((token) => this.#native.tokenToId(token) === null);
    if (missing.length > 0) this.#native.addSpecialTokens(missing);
    const ids = tokens.map((token) => this.#native.tokenToId(token)!);
    for (const id of ids) {
      this.#specialIds.add(id);
      this.#vocabSize = Math.max(this.#vocabSize, id + 1);
      this.#addedIds.add(id);
    }
    return ids;
  }

  /** Starts a stream. Ids that are special are left out unless `skipSpecial` is false. */
  stream(options: DecodeOptions = {}): TokenStream {
    // A decoder may look at its neighbours (spaces before words, several tokens to one character), so text is decoded together with what
    // came before, and only what was added is handed out. Long streams start anew at a line or word border to stay linear in time.
    let ids: number[] = [];
    let emitted = '';
    const decode = () => this.decode(ids, options);
    return {
      push: (id) => {
        ids.push(id);
        const text = decode();
        if (text.endsWith('\ufffd') || !text.startsWith(emitted)) return '';
        const piece = text.slice(emitted.length);
        emitted = text;
        if (ids.length > 64 && piece !== '') {
          const kept = ids.slice(-8);
          const keptText = this.decode(kept, options);
          // Safe only when the shorter history decodes to the same ending.
          if (keptText !== '' && !keptText.startsWith('\ufffd') && text.endsWith(keptText)) {
            ids = kept;
            emitted = keptText;
          }
        }
        return piece;
      },
      end: () => {
        const text = decode();
        const piece = text.startsWith(emitted) ? text.slice(emitted.length) : '';
        ids = [];
        emitted = '';
        return piece;
      },
    };
  }
}

function findEos(folder: string, native: NativeTokenizer): number {
  const sources: string[] = [];
  for (const [name, key] of [
    ['tokenizer_config.json', 'eos_token'],
    ['config.json', 'eos_token_id'],
  ] as const) {
    let value: unknown;
    try {
      const content = readJson(join(folder, name));
      if (typeof content !== 'object' || content === null || Array.isArray(content))
        throw new UserError(`${join(folder, name)} should hold an object`);
      value = field(content, key);
    } catch (error) {
      if (error instanceof UserError && error.message.includes('not found')) continue;
      throw error;
    }
    sources.push(name);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) value = field(value, 'content');
    if (Array.isArray(value)) value = value[0];
    if (typeof value === 'number') {
      if (Number.isInteger(value) && value >= 0 && native.idToToken(value) !== null) return value;
      throw new UserError(`${join(folder, name)}: ${key} is ${value}, which is no id of tokenizer.json`);
    }
    if (typeof value === 'string') {
      const id = native.tokenToId(value);
      if (id !== null) return id;
      throw new UserError(`${join(folder, name)} names ${value} as ${key}, which tokenizer.json does not know`);
    }
  }
  const where = sources.length > 0 ? sources.join(' and ') : 'tokenizer_config.json, which is missing';
  throw new UserError(`no end-of-text token in ${folder}: eos_token should be named in ${where}`);
}

/** What tokenizer.json says of its ids; a list for a vocabulary is in the order of the ids. */
function readIds(definition: unknown, native: NativeTokenizer) {
  const vocabulary = field(field(definition, 'model'), 'vocab');
  let size = listOf(vocabulary).length;
  if (size === 0) for (const id of Object.values(vocabulary ?? {})) size = Math.max(size, Number(id) + 1);
  const specialIds = new Set<number>();
  const addedIds = new Set<number>();
  for (const token of listOf(field(definition, 'added_tokens'))) {
    // The library numbers added tokens itself where the file's number would leave a gap.
    const content = String(field(token, 'content'));
    const id = native.tokenToId(content);
    if (id === null) continue;
    size = Math.max(size, id + 1);
    if (field(token, 'special') === true) specialIds.add(id);
    if (content.trim() !== '') addedIds.add(id);
  }
  const isByteLevel = field(field(definition, 'decoder'), 'type') === 'ByteLevel';
  return { size, specialIds, addedIds, mostCharacters: mostCharactersOfToken(definition), isByteLevel };
}

function field(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[key] : undefined;
}

function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}
