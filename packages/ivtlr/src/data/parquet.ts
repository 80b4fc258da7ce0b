/** Parquet files as data sets come in: read one row group at a time, written whole or not at all. */
import { open } from 'node:fs/promises';
import {
  type AsyncBuffer,
  type ColumnMetaData,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
  type RowGroup,
  type SchemaElement,
  type SchemaTree,
} from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { fileWriter, parquetWriteRows } from 'hyparquet-writer';
import { UserError } from '../errors.ts';
import { beginAtomicWrite } from '../files.ts';
import { checkPages } from './parquet-pages.ts';
import { type BadRows, missingColumns, noColumn, type PlacedRow, type Row, type Skip } from './row.ts';

/** The library's LZ4 fails on blocks of no bytes, which columns of nulls have. */
const decompressors = Object.fromEntries(
  Object.entries(compressors).map(([codec, decompress]) => [
    codec,
    (input: Uint8Array, length: number) => (length === 0 ? new Uint8Array() : decompress(input, length)),
  ]),
);

/**
 * All rows of the files in order. One row group is in memory at a time.
 * @param columns what to read; the rows hold these and nothing else.
 * @param onBad called with row groups that have a corrupt page; without it they are an error.
 * @param optional columns to read where a file has them; null where it lacks them.
 * @param skip says which row groups are left out, without being read.
 * @throws UserError naming file, row group, column and rows when a file is missing, corrupt or lacks a column.
 */
export async function* readParquet(
  files: readonly string[],
  columns: readonly string[],
  onBad?: (bad: BadRows) => void,
  optional: readonly string[] = [],
  skip: Skip = () => false,
): AsyncGenerator<PlacedRow> {
  const wanted = [...columns, ...optional];
  let index = 0;
  for (const path of files) {
    const source = await openParquet(path);
    try {
      const { metadata } = source;
      const present = requireColumns(path, metadata, columns);
      const found = wanted.filter((column) => present.includes(column));
      let rowStart = 0;
      for (const [groupIndex, group] of metadata.row_groups.entries()) {
        const rowEnd = rowStart + Number(group.num_rows);
        if (skip(rowEnd - rowStart)) {
          index += rowEnd - rowStart;
          rowStart = rowEnd;
          continue;
        }
        const place = `${path} row group ${groupIndex}`;
        let rows: Row[] = [];
        try {
          rows = await readGroup(place, source, group, found, rowStart, rowEnd);
        } catch (error) {
          if (!onBad || !(error instanceof UserError)) throw error;
          onBad({ place, message: error.message, rows: rowEnd - rowStart });
          index += rowEnd - rowStart;
        }
        for (let i = 0; i < rows.length; i++) {
          // The library gives undefined for a null list or struct.
          const row = Object.fromEntries(wanted.map((column) => [column, rows[i]![column] ?? null]));
          yield { row, index: index++, place: `${place}, row ${rowStart + i}` };
        }
        rowStart = rowEnd;
      }
    } finally {
      await source.close();
    }
  }
}

/** A column to write. An image is a struct of `bytes` and `path`, as Hugging Face's `Image` feature stores it. */
export interface ParquetColumn {
  name: string;
  kind: 'text' | 'text list' | 'image';
}

/**
 * Writes rows to a Parquet file, a row group at a time; the file appears under its name only when it is complete. Hugging Face's `datasets` reads
 * it back with its feature types.
 */
export async function writeParquet(
  path: string,
  columns: readonly ParquetColumn[],
  rows: AsyncIterable<Record<string, unknown>>,
  rowGroupSize = 100,
): Promise<void> {
  const file = beginAtomicWrite(path);
  try {
    await parquetWriteRows({
      writer: fileWriter(file.tempPath),
      rows,
      // Images are compressed already, and comparing them for statistics or a dictionary is wasted time.
      columns: columns.map(({ name, kind }) =>
        kind === 'image' ? { name, codec: 'UNCOMPRESSED', encoding: 'PLAIN', statistics: false } : { name },
      ),
      schema: [{ name: 'schema', num_children: columns.length }, ...columns.flatMap(schemaOf)],
      rowGroupSize,
      kvMetadata: [{ key: 'huggingface', value: JSON.stringify({ info: { features: featuresOf(columns) } }) }],
      createdBy: 'ivtlr',
    });
  } catch (error) {
    file.abort();
    // Such as a full disk; a row that cannot be made is another matter.
    const { syscall, message } = error as NodeJS.ErrnoException;
    if (syscall) throw new UserError(`cannot write ${path}: ${message}`);
    throw error;
  }
  file.commit();
}

function schemaOf({ name, kind }: ParquetColumn): SchemaElement[] {
  const text = { type: 'BYTE_ARRAY', converted_type: 'UTF8', logical_type: { type: 'STRING' } } as const;
  if (kind === 'text') return [{ name, ...text, repetition_type: 'OPTIONAL' }];
  if (kind === 'text list') {
    return [
      { name, repetition_type: 'OPTIONAL', num_children: 1, converted_type: 'LIST', logical_type: { type: 'LIST' } },
      { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
      { name: 'element', ...text, repetition_type: 'OPTIONAL' },
    ];
  }
  return [
    { name, repetition_type: 'OPTIONAL', num_children: 2 },
    { name: 'bytes', type: 'BYTE_ARRAY', repetition_type: 'OPTIONAL' },
    { name: 'path', ...text, repetition_type: 'OPTIONAL' },
  ];
}

function featuresOf(columns: readonly ParquetColumn[]): Record<string, unknown> {
  const text = { dtype: 'string', _type: 'Value' };
  const feature = { text, 'text list': { feature: text, _type: 'Sequence' }, image: { _type: 'Image' } };
  return Object.fromEntries(columns.map(({ name, kind }) => [name, feature[kind]]));
}

interface OpenParquet {
  file: AsyncBuffer;
  metadata: FileMetaData;
  close(): Promise<void>;
}

async function openParquet(path: string): Promise<OpenParquet> {
  const handle = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    throw new UserError(
      error.code === 'ENOENT' ? `data file not found: ${path}` : `cannot read ${path}: ${error.message}`,
    );
  });
  try {
    const { size } = await handle.stat();
    const file: AsyncBuffer = {
      byteLength: size,
      async slice(start, end = size) {
        const bytes = new Uint8Array(Math.max(0, end - start));
        for (let at = 0; at < bytes.length; ) {
          const { bytesRead } = await handle.read(bytes, at, Math.min(bytes.length - at, 1 << 30), start + at);
          if (bytesRead === 0) throw new Error(`the file ends at byte ${start + at}, before byte ${end}`);
          at += bytesRead;
        }
        return bytes.buffer;
      },
    };
    const metadata = await parquetMetadataAsync(file).catch((error: Error) => {
      throw new UserError(`${path} is not a readable Parquet file: ${reason(error)}`);
    });
    requireSoundFooter(path, metadata);
    return { file, metadata, close: () => handle.close() };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/**
 * Every row group must hold the schema's leaf columns in their order. The library relies on it: columns it cannot place are read all the same, and
 * an error in one of them, which nobody awaits, would end the process.
 */
function requireSoundFooter(path: string, metadata: FileMetaData): void {
  const leaves = (tree: SchemaTree): string[] =>
    tree.children.length === 0 ? [tree.path.join('\0')] : tree.children.flatMap(leaves);
  let expected: string;
  try {
    expected = parquetSchema(metadata).children.flatMap(leaves).join('\n');
  } catch (error) {
    throw new UserError(`${path} is not a readable Parquet file: ${reason(error)}`);
  }
  for (const [index, group] of metadata.row_groups.entries()) {
    const rows = Number(group.num_rows);
    if (!Number.isSafeInteger(rows) || rows < 0) {
      throw new UserError(`${path} is corrupt: row group ${index} does not say how many rows it has`);
    }
    const found = (group.columns ?? []).map(({ meta_data }) => (meta_data?.path_in_schema ?? []).join('\0'));
    if (found.join('\n') !== expected) {
      throw new UserError(`${path} is corrupt: row group ${index} does not hold the columns of the schema`);
    }
  }
}

/** Gives back the columns that the file has. */
function requireColumns(path: string, metadata: FileMetaData, columns: readonly string[]): string[] {
  const present = parquetSchema(metadata).children.map((child) => child.element.name);
  const missing = missingColumns(columns, present);
  if (missing.length > 0) throw noColumn(path, missing, present);
  return present;
}

async function readGroup(
  place: string,
  { file, metadata }: Pick<OpenParquet, 'file' | 'metadata'>,
  group: RowGroup,
  columns: readonly string[],
  rowStart: number,
  rowEnd: number,
): Promise<Row[]> {
  const corrupt = (where: string, error: unknown) =>
    new UserError(`${place} is corrupt: ${where}rows ${rowStart} to ${rowEnd - 1}: ${reason(error)}`);
  const pages: DecompressedPage[] = [];
  for (const { meta_data: chunk } of group.columns) {
    const [column] = chunk!.path_in_schema;
    if (!columns.includes(column!)) continue;
    await checkColumn(file, metadata, chunk!, Number(group.num_rows), pages).catch((error: unknown) => {
      throw corrupt(`column ${column}, `, error);
    });
  }
  // Without utf8: false, binary columns such as image bytes would be decoded as text and ruined.
  const read = (names: readonly string[]) =>
    parquetReadObjects({
      file,
      metadata,
      columns: [...names],
      rowStart,
      rowEnd,
      compressors: keptPages(pages),
      utf8: false,
    });
  try {
    return await read(columns);
  } catch (error) {
    // Read again column by column to say which one is broken.
    for (const column of columns) {
      await read([column]).catch((failure: unknown) => {
        throw corrupt(`column ${column}, `, failure);
      });
    }
    throw corrupt('', error);
  }
}

interface DecompressedPage {
  input: Uint8Array;
  content: Uint8Array;
}

async function checkColumn(
  file: AsyncBuffer,
  metadata: FileMetaData,
  chunk: ColumnMetaData,
  rows: number,
  pages: DecompressedPage[],
): Promise<void> {
  const start = Number(chunk.dictionary_page_offset || chunk.data_page_offset);
  const end = start + Number(chunk.total_compressed_size);
  if (!(start >= 0 && end <= file.byteLength)) throw new Error(`bytes ${start} to ${end} are not in the file`);
  let [maxRepetition, maxDefinition] = [0, 0];
  let tree = parquetSchema(metadata);
  for (const name of chunk.path_in_schema) {
    tree = tree.children.find(({ element }) => element.name === name)!;
    if (tree.element.repetition_type === 'REPEATED') maxRepetition++;
    if (tree.element.repetition_type !== 'REQUIRED') maxDefinition++;
  }
  const decompress = (input: Uint8Array, length: number) => {
    if (chunk.codec === 'UNCOMPRESSED') return input;
    const content = decompressors[chunk.codec]?.(input, length) ?? new Uint8Array();
    pages.push({ input, content });
    return content;
  };
  checkPages(new Uint8Array(await file.slice(start, end)), { rows, maxRepetition, maxDefinition, decompress });
}

/** The library's decompressors, which take pages that were decompressed for the check. */
function keptPages(pages: DecompressedPage[]): typeof decompressors {
  const wrapped = Object.entries(decompressors).map(([codec, decompress]) => {
    const take = (input: Uint8Array, length: number) => {
      const same = (page: DecompressedPage) => Buffer.compare(page.input, input) === 0;
      const place = pages.findIndex((page) => page.content.length === length && same(page));
      return place < 0 ? decompress(input, length) : pages.splice(place, 1)[0]!.content;
    };
    return [codec, take] as const;
  });
  return Object.fromEntries(wrapped);
}

/** The library checks little of what it reads, so damage often ends in a JavaScript error whose message means nothing to a user. */
function reason(error: unknown): string {
  const { name, message } = error as Error;
  if (name !== 'Error' || /\bundefined\b|\bNaN\b/.test(message))
    return 'what it says of its own contents makes no sense';
  return message;
}
