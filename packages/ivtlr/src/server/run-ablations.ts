/** Tables of `ivtlr ablate --json` that lie in a run's folder. */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { readJson } from '../files.ts';
import type { AblationTable } from './protocol.ts';

const MAX_BYTES = 4 * 2 ** 20;
const MAX_FILES = 20;

const interval = z.tuple([z.number(), z.number()]);

/** What `ivtlr ablate --json` prints, as far as it is shown. */
const tableSchema = z.object({
  model: z.string(),
  task: z.string(),
  split: z.string(),
  trainedLatents: z.number(),
  results: z.array(
    z.object({
      key: z.string(),
      title: z.string(),
      latents: z.number(),
      problem: z.string().optional(),
      result: z
        .object({
          samples: z.number(),
          accuracyStrict: z.number(),
          accuracyOfficial: z.number(),
          interval95: interval,
          secondsPerSample: z.number(),
        })
        .nullable(),
      versus: z
        .object({
          difference: z.number(),
          interval95: interval,
          lost: z.number(),
          gained: z.number(),
          textChanged: z.number(),
        })
        .nullable(),
    }),
  ),
});

/** The tables among the .json files of a folder, by file name; other files are passed over. */
export function readAblations(run: string): AblationTable[] {
  return readdirSync(run, { withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.json'))
    .map(({ name }) => name)
    .sort()
    .slice(0, MAX_FILES)
    .flatMap((file) => {
      const table = readTable(join(run, file));
      return table ? [{ file, ...table }] : [];
    });
}

function readTable(path: string): Omit<AblationTable, 'file'> | null {
  try {
    if (statSync(path).size > MAX_BYTES) return null;
    const { results, ...head } = tableSchema.parse(readJson(path));
    const rows = results.map(({ result, problem = null, ...row }) => {
      if (!result) return { ...row, result, problem };
      const { accuracyStrict: accuracy, accuracyOfficial, interval95, samples, secondsPerSample } = result;
      return { ...row, result: { accuracy, accuracyOfficial, interval95, samples, secondsPerSample }, problem };
    });
    return { ...head, rows };
  } catch {
    return null; // another file, or one that is being written
  }
}
