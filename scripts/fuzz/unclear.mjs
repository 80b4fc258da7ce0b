/** Says what makes an error message unclear to a user; null for a clear one. */
export function unclear(message) {
  if (message.trim() === '') return 'an empty message';
  if (/\n\s*\n|\n\s+at .*:\d/.test(message)) return 'several paragraphs or a stack';
  // A number in YAML can be .nan.
  if (/\bundefined\b|\[object |(?<!received |")\bNaN\b/.test(message)) return 'a value nobody can read';
  if (/:\s*$|\(\s*\)/.test(message)) return 'an empty reason';
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are looked for
  if (/[\0-\x08\x0b-\x1f\x7f-\x9f]/.test(message)) return 'control characters';
  if (message.length > 3000) return `${message.length} characters`;
  return null;
}
