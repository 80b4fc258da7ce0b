/** A command as it can be typed again. */

/** For a POSIX shell. */
export function shellQuoted(word: string): string {
  return /^[\w.,:@=/+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
