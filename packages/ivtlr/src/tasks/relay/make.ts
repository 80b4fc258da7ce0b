/** Relay as data files. */
import { type MakeFileOptions, makeFile } from '../make-file.ts';
import { checkOptions, type RelayOptions, relaySample } from './generator.ts';

export interface MakeRelayOptions extends MakeFileOptions, Partial<RelayOptions> {}

/** See makeFile. @throws UserError for dials that make no question, too */
export async function makeRelay(options: MakeRelayOptions): Promise<string> {
  const dials = checkOptions(options);
  return makeFile('relay', (seed, split, index) => relaySample(seed, split, index, dials), options);
}
