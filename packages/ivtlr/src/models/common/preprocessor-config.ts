/** How a folder says its images are to be processed. */
import { join } from 'node:path';
import { z } from 'zod';
import { schemaMistakes, UserError } from '../../errors.ts';
import { isListed, readJson } from '../../files.ts';
import type { ResizeFilter } from '../../vision/resize.ts';

/**
 * `image_processor` of processor_config.json, where transformers 5 saves it, else preprocessor_config.json, else nothing (Hugging Face's defaults
 * then hold); in the order in which transformers looks. `source` names what was read, for error messages.
 */
export function readPreprocessorConfig(folder: string): { config: unknown; source: string } {
  const nested = join(folder, 'processor_config.json');
  if (isListed(nested)) {
    const processor = checkedConfig(
      z.object({ image_processor: z.unknown().optional() }, 'should be an object'),
      readJson(nested, 'processor config'),
      nested,
    );
    const { image_processor: config } = processor;
    if (config !== undefined) return { config, source: `${nested}: image_processor` };
  }
  const source = join(folder, 'preprocessor_config.json');
  return { config: isListed(source) ? readJson(source, 'preprocessor config') : {}, source };
}

/** A switch that preprocessing has no choice about here. Newer files hold null for what was left at its default. */
export function only(value: boolean) {
  return z.literal(value, { error: `only ${value} is supported` }).nullish();
}

/** @throws UserError naming `source` and what is wrong */
export function checkedConfig<T extends z.ZodType>(schema: T, value: unknown, source: string): z.output<T> {
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw new UserError(`${source} is not usable:\n${schemaMistakes(parsed.error)}`);
  return parsed.data;
}

/** Pillow's numbers of the filters; the others are not used by any published checkpoint. */
const FILTERS: Record<number, ResizeFilter> = { 1: 'lanczos', 3: 'bicubic' };

/** The filter of a config's `resample`. @throws UserError naming `source` for one that is not known here */
export function resizeFilter(resample: number, source: string): ResizeFilter {
  const filter = FILTERS[resample];
  if (!filter) throw new UserError(`${source}: resample ${resample} is not supported; 1 (Lanczos) or 3 (bicubic) is`);
  return filter;
}
