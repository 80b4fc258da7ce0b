/** One line on stderr for what a user should know about an image that could be read. */
import { printable } from '../printable.ts';

const MAX = 20;
const told = new Set<string>();

/** Tells each note once, and no more than the first few: a data set can have a note for every image. */
export function tellNote(note: string | undefined): void {
  if (note === undefined || told.has(note) || told.size >= MAX) return;
  told.add(note);
  process.stderr.write(`note: ${printable(note)}\n`);
}
