/** Drawn samples as data files in M3CoT's schema, with PNG images, so that files and fresh samples can take each other's place. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { type ParquetColumn, writeParquet } from '../data/parquet.ts';
import type { RawImage, Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { M3COT_COLUMNS } from './m3cot/m3cot.ts';
import type { Split } from './task.ts';

export interface MakeFileOptions {
  rows: number;
  /** Folder for the file; made when missing. */
  out: string;
  seed?: number;
  split?: Split;
  /** Replace a file that is there already. */
  overwrite?: boolean;
  /** Called now and then with the number of rows made. */
  onProgress?: ((rows: number) => void) | undefined;
}

/**
 * Writes `<split>-00000-of-00001.parquet` into `out` and returns its path. Same options, same file.
 * @param task for error messages
 * @param draw a sample of the task
 * @throws UserError when rows or seed make no sense, the file is there already, or the folder cannot be written
 */
export async function makeFile(
  task: string,
  draw: (seed: number, split: Split, index: number) => Sample,
  options: MakeFileOptions,
): Promise<string> {
  const { rows, out, seed = 0, split = 'train', overwrite = false, onProgress } = options;
  requireCount(task, 'rows', rows, 1);
  requireCount(task, 'seed', seed, 0);
  const path = join(out, `${split}-00000-of-00001.parquet`);
  if (!overwrite && existsSync(path))
    throw new UserError(`${path} is there already; give another --out, or --overwrite to replace it`);
  const columns = M3COT_COLUMNS.map((name): ParquetColumn => {
    return { name, kind: name === 'image' ? 'image' : name === 'choices' ? 'text list' : 'text' };
  });
  await writeParquet(path, columns, drawRows());
  return path;

  async function* drawRows(): AsyncGenerator<Record<string, unknown>> {
    for (let index = 0; index < rows; index++) {
      const { id, images, question, choices, rationale, answer, meta } = draw(seed, split, index);
      yield {
        ...{ id, category: meta.category, image_id: id, question, choices, context: '', answer, rationale, split },
        image: { bytes: await encodePng(images[0]!), path: `${id}.png` },
        ...{ domain: meta.domain, topic: meta.topic },
      };
      if ((index + 1) % 100 === 0) onProgress?.(index + 1);
    }
  }
}

/** PNG bytes of a drawn image, lossless. */
export async function encodePng(image: RawImage): Promise<Uint8Array> {
  if (image.kind !== 'rgb') return image.bytes;
  const { width, height, data } = image;
  return sharp(data, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

function requireCount(task: string, name: string, value: number, least: number): void {
  if (!Number.isSafeInteger(value) || value < least) {
    throw new UserError(`${task}: ${name} should be a whole number of at least ${least}, not ${value}`);
  }
}
