/** How a folder says its images are to be processed. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readJson } from '../../files.ts';

/**
 * `image_processor` of processor_config.json, where transformers 5 saves it, else preprocessor_config.json, else nothing (Hugging Face's defaults
 * then hold); in the order in which transformers looks. `source` names what was read, for error messages.
 */
export function readPreprocessorConfig(folder: string): { config: unknown; source: string } {
  const nested = join(folder, 'processor_config.json');
  if (existsSync(nested)) {
    const { image_processor: config } = (readJson(nested, 'processor config') ?? {}) as { image_processor?: unknown };
    if (config !== undefined) return { config, source: `${nested}: image_processor` };
  }
  const source = join(folder, 'preprocessor_config.json');
  return { config: existsSync(source) ? readJson(source, 'preprocessor config') : {}, source };
}
