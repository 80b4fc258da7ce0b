/** Control characters of data and file names must not reach the terminal as commands; they become \\x1b and the like. */
export function printable(text: string): string {
  const characters = [...text].map((character) => {
    const code = character.codePointAt(0)!;
    const harmless = code === 9 || code === 10 || (code >= 32 && code < 127) || code >= 160;
    return harmless ? character : `\\x${code.toString(16).padStart(2, '0')}`;
  });
  return characters.join('');
}
