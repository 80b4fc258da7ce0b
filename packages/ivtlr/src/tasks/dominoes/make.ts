/** Dominoes as data files. */
import { type MakeFileOptions, makeFile } from '../make-file.ts';
import { checkOptions, type DominoesOptions, dominoesSample } from './generator.ts';

export interface MakeDominoesOptions extends MakeFileOptions, Partial<DominoesOptions> {}

/** See makeFile. @throws UserError for sizes that make no question, too */
export async function makeDominoes(options: MakeDominoesOptions): Promise<string> {
  const size = checkOptions(options);
  return makeFile('dominoes', (seed, split, index) => dominoesSample(seed, split, index, size), options);
}
