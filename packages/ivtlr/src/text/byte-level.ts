/** Byte-level BPE, as Qwen2-VL and SmolVLM have it: each character of a vocabulary entry stands for one byte of UTF-8. */

/** Printable bytes stand for themselves, the others for characters from 256 on in their order. */
const BYTES = new Map<string, number>();
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  BYTES.set(String.fromCodePoint(printable ? byte : next++), byte);
}

/** UTF-16 units of a text for one of its form NFC at most: U+1F82 is made of four. */
const COMPOSED = 4;

/** The bytes of a vocabulary entry. Entries with other characters, which were added by name, stand for themselves. */
export function bytesOfEntry(entry: string): number[] {
  const bytes = Array.from(entry, (symbol) => BYTES.get(symbol));
  return bytes.every((byte) => byte !== undefined) ? bytes : [...Buffer.from(entry)];
}

/**
 * UTF-16 units of a text that one token stands for at most; special tokens do not count.
 * @param definition of tokenizer.json
 * @returns null where a token may stand for any number of them: an unknown word, blanks that are removed, or what is not known here
 */
export function mostCharactersOfToken(definition: unknown): number | null {
  const { model, normalizer, truncation, pre_tokenizer, added_tokens } = definition as Record<string, Part>;
  const symbols = Object.keys((model?.vocab ?? {}) as object);
  const entries = new Set(symbols);
  const normalizers = partsOf(normalizer, 'normalizers');
  const steps = partsOf(pre_tokenizer, 'pretokenizers');
  const added = (Array.isArray(added_tokens) ? added_tokens : []) as Part[];
  const keepsAll =
    model?.type === 'BPE' &&
    [...BYTES.keys()].every((symbol) => entries.has(symbol)) &&
    !truncation &&
    normalizers.every(({ type }) => type === 'NFC') &&
    steps.some(({ type }) => type === 'ByteLevel') &&
    steps.every(({ type, behavior }) => KEEPING.has(String(type)) && behavior !== 'Removed') &&
    // Such a token takes the blanks beside it with it.
    added.every(({ special, lstrip, rstrip }) => special === true || (!lstrip && !rstrip));
  if (!keepsAll) return null;
  const names = added.map(({ content }) => String(content));
  const longest = [...symbols, ...names].reduce((most, { length }) => Math.max(most, length), 0);
  return longest * (normalizers.length > 0 ? COMPOSED : 1);
}

type Part = Record<string, unknown>;

/** Pre-tokenizers that only cut. */
const KEEPING = new Set(['ByteLevel', 'Split', 'Digits', 'Punctuation']);

/** What a step consists of. */
function partsOf(step: Part | undefined, key: string): Part[] {
  if (!step) return [];
  return step.type === 'Sequence' ? ((step[key] ?? []) as Part[]) : [step];
}
