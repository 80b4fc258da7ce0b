/**
 * The header of a safetensors file, read as hostile input.
 *
 * Layout (github.com/huggingface/safetensors, "Format"): 8 bytes little-endian length N, N bytes of JSON, then the data. The JSON maps each
 * tensor's name to { dtype, shape, data_offsets: [begin, end] } relative to the data; "__metadata__" maps strings to strings.
 */
import type { DType } from '../core/dtype.ts';
import { CheckpointError } from './errors.ts';

/** As in the reference implementation: a header beyond this is damage or an attack, no model. */
const MAX_HEADER_BYTES = 100_000_000;

/** libtorch's kernels take no more. */
export const MAX_DIMENSIONS = 64;

const BYTES: Readonly<Record<string, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
};

const DTYPES: Readonly<Record<string, DType>> = {
  F64: 'float64',
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  I64: 'int64',
  I32: 'int32',
  I16: 'int16',
  I8: 'int8',
  U8: 'uint8',
  BOOL: 'bool',
};

/** The format's name of each dtype. */
export const FORMAT_NAMES = Object.fromEntries(Object.entries(DTYPES).map(([k, v]) => [v, k])) as Readonly<
  Record<DType, string>
>;

/** One tensor's place: `begin` and `end` are byte offsets from the start of the file. */
export interface HeaderEntry {
  /** The format's dtype name; it may be one that libtorch's tensors here do not have (U16, F8_E4M3..). */
  format: string;
  dtype: DType | null;
  shape: readonly number[];
  begin: number;
  end: number;
}

export interface Header {
  entries: Map<string, HeaderEntry>;
  metadata: Record<string, string>;
}

/** The header's length from the file's first eight bytes, checked against the file's size. */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (fileBytes < 8 || prefix.length < 8)
    throw new CheckpointError(`${file}: no safetensors file, it has only ${fileBytes} bytes`);
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES))
    throw new CheckpointError(
      `${file}: no safetensors file, its header would have ${length} bytes (at most ${MAX_HEADER_BYTES})`,
    );
  if (length > BigInt(fileBytes - 8))
    throw new CheckpointError(`${file}: truncated, its header has ${length} bytes but only ${fileBytes - 8} follow`);
  return Number(length);
}

/** Checks the header's JSON whole: names, dtypes, shapes, and that the data is covered once, without overlap, gap or excess. */
export function parseHeader(json: Uint8Array, fileBytes: number, file: string): Header {
  let text: string;
  let root: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(json);
    root = JSON.parse(text);
  } catch {
    throw new CheckpointError(`${file}: no safetensors file, its header is not valid UTF-8 JSON`);
  }
  if (!isRecord(root) || !text.startsWith('{')) throw new CheckpointError(`${file}: the header is not a JSON object`);
  const duplicate = duplicateKey(text);
  if (duplicate !== null) throw new CheckpointError(`${file}: tensor ${quote(duplicate)} is listed twice`);

  const entries = new Map<string, HeaderEntry>();
  let metadata: Record<string, string> = {};
  const start = 8 + json.length;
  for (const [name, value] of Object.entries(root)) {
    if (name === '__metadata__') metadata = parseMetadata(value, file);
    else entries.set(name, parseEntry(name, value, start, fileBytes, file));
  }
  checkCoverage(entries, start, fileBytes, file);
  return { entries, metadata };
}

function parseMetadata(value: unknown, file: string): Record<string, string> {
  if (!isRecord(value) || Object.values(value).some((text) => typeof text !== 'string'))
    throw new CheckpointError(`${file}: __metadata__ must map strings to strings`);
  return { ...(value as Record<string, string>) };
}

function parseEntry(name: string, value: unknown, start: number, fileBytes: number, file: string): HeaderEntry {
  const where = `${file}: tensor ${quote(name)}`;
  if (!isRecord(value)) throw new CheckpointError(`${where} is not described by an object`);
  const { dtype: format, shape, data_offsets: offsets } = value;
  if (format === undefined) throw new CheckpointError(`${where} has no dtype`);
  if (typeof format !== 'string' || !Object.hasOwn(BYTES, format))
    throw new CheckpointError(`${where} has the unknown dtype ${quote(format)}`);
  if (!Array.isArray(shape) || !shape.every(isCount))
    throw new CheckpointError(`${where} has no shape of non-negative integers`);
  if (shape.length > MAX_DIMENSIONS) throw new CheckpointError(`${where} has ${shape.length} dimensions`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount))
    throw new CheckpointError(`${where} has no data_offsets of two non-negative integers`);
  const [begin, end] = offsets as [number, number];
  const available = fileBytes - start;
  if (begin > end) throw new CheckpointError(`${where} ends at byte ${end} before it begins at ${begin}`);
  if (end > available)
    throw new CheckpointError(
      `${where} ends at byte ${end} of the data, but the file has only ${available}: it is truncated or damaged`,
    );
  const wanted = (shape as number[]).reduce((product, size) => product * size, BYTES[format]!);
  if (wanted !== end - begin)
    throw new CheckpointError(
      `${where} has ${end - begin} bytes, but ${format} of shape ${quote(shape)} needs ${wanted}`,
    );
  // An empty tensor may have large sizes beside its 0, up to what a 64-bit product holds.
  if (!isCount(shape.reduce((product, size) => product * Math.max(size, 1), 1)))
    throw new CheckpointError(`${where} has the impossible shape ${quote(shape)}`);
  return { format, dtype: DTYPES[format] ?? null, shape: shape as number[], begin: start + begin, end: start + end };
}

function checkCoverage(
  entries: ReadonlyMap<string, HeaderEntry>,
  start: number,
  fileBytes: number,
  file: string,
): void {
  const ordered = [...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let position = start;
  let previous = '';
  for (const [name, { begin, end }] of ordered) {
    if (begin < position)
      throw new CheckpointError(`${file}: the data of tensors ${quote(previous)} and ${quote(name)} overlap`);
    if (begin > position)
      throw new CheckpointError(`${file}: ${begin - position} bytes before tensor ${quote(name)} belong to no tensor`);
    position = end;
    previous = name;
  }
  if (position !== fileBytes)
    throw new CheckpointError(`${file}: ${fileBytes - position} bytes after the last tensor belong to no tensor`);
}

/** JSON.parse silently keeps the last of two equal keys, so the header's top-level keys are walked by themselves; `text` is valid JSON. */
function duplicateKey(text: string): string | null {
  const seen = new Set<string>();
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '{' || c === '[') depth++;
    else if (c === '}' || c === ']') depth--;
    else if (c === '"') {
      const from = i++;
      while (text[i] !== '"') i += text[i] === '\\' ? 2 : 1;
      let next = i + 1;
      while (/\s/.test(text[next] ?? '')) next++;
      if (depth !== 1 || text[next] !== ':') continue;
      const key = JSON.parse(text.slice(from, i + 1)) as string;
      if (seen.has(key)) return key;
      seen.add(key);
    }
  }
  return null;
}

/** A name as an error shows it: quoted, escaped, and cut when it is very long. */
export function quote(value: unknown): string {
  // JSON leaves delete and the controls after it as they are.
  const text = (JSON.stringify(value) ?? 'nothing').replace(
    /[\u007f-\u009f]/g,
    (control) => `\\u00${control.charCodeAt(0).toString(16)}`,
  );
  return text.length > 120 ? `${text.slice(0, 117)}...` : text;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
