/** Damage that fits any file: bytes, texts, and JSON values. Everything is drawn from the given generator, so that a seed repeats it. */

export const pick = (random, list) => list[random.below(list.length)];

/** Numbers at the borders of what a reader's arithmetic holds. */
const NUMBERS = [
  -1,
  0,
  1,
  2,
  127,
  255,
  65535,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 53,
  1e15,
  -(2 ** 63),
  1.5,
  1e308,
];

const TEXTS = [
  '',
  'x',
  '../x',
  '/etc/passwd',
  '__proto__',
  'constructor',
  '\0',
  'a\0b',
  '\u001b[31m',
  '\r\n',
  '\ud800',
  '<|latent|>',
  '<|image_pad|>',
  '{{ 1 // 0 }}',
  '🁢'.repeat(50),
];

/** A value of JSON that is wrong nearly everywhere. */
function oddValue(random) {
  const kind = random.below(10);
  if (kind < 4) return pick(random, NUMBERS);
  if (kind < 7) return pick(random, TEXTS);
  return pick(random, [
    () => null,
    () => true,
    () => [],
    () => ({}),
    () => [null],
    () => [1, 2, 3],
    () => ({ a: 1 }),
    () => 'a'.repeat(20_000),
    () => new Array(2000).fill(7),
    () => JSON.parse(`${'['.repeat(1500)}${']'.repeat(1500)}`),
  ])();
}

/** A copy of a JSON value with one to three changes at random places. */
export function damageJson(random, value) {
  const root = { value: structuredClone(value) };
  for (let left = 1 + random.below(3); left > 0; left--) {
    const places = [];
    const walk = (holder) => {
      for (const key of Object.keys(holder)) {
        places.push([holder, key]);
        if (typeof holder[key] === 'object' && holder[key] !== null && places.length < 2000) walk(holder[key]);
      }
    };
    walk(root);
    const [holder, key] = pick(random, places);
    const [otherHolder, otherKey] = pick(random, places);
    const change = random.below(6);
    if (change === 0 && holder !== root) {
      if (Array.isArray(holder)) holder.splice(Number(key), 1);
      else delete holder[key];
    } else if (change === 1 && !Array.isArray(holder)) {
      set(holder, pick(random, TEXTS), holder[key]);
    } else if (change === 2) {
      set(holder, key, structuredClone(otherHolder[otherKey]));
    } else if (change === 3 && typeof holder[key] === 'number') {
      set(holder, key, holder[key] + pick(random, [-1, 1, 8, 1000]));
    } else {
      set(holder, key, oddValue(random));
    }
  }
  return root.value;
}

/** Also `__proto__` as a plain key. */
function set(holder, key, value) {
  Object.defineProperty(holder, key, { value, enumerable: true, configurable: true, writable: true });
}

/** The text of damaged JSON, now and then with what JSON does not have. */
export function damageJsonText(random, value) {
  const text = jsonText(damageJson(random, value));
  if (random.below(5) > 0) return Buffer.from(text);
  const at = random.below(text.length);
  const odd = pick(random, [
    '1e999',
    '-',
    '"',
    '{',
    ']',
    ',',
    '"a":1,"a":2,',
    '\ufeff',
    '\0',
    `${'['.repeat(100_000)}`,
  ]);
  return Buffer.from(text.slice(0, at) + odd + text.slice(at + random.below(3)));
}

/** Deep nesting that was copied into itself is beyond JSON.stringify. */
function jsonText(value) {
  try {
    return JSON.stringify(value) ?? 'null';
  } catch {
    return `${'['.repeat(100_000)}${']'.repeat(100_000)}`;
  }
}

/** A copy of bytes with one to four changes. */
export function damageBytes(random, bytes) {
  let result = Buffer.from(bytes);
  for (let left = 1 + random.below(4); left > 0; left--) {
    const at = random.below(result.length + 1);
    const length = Math.min(1 + random.below(pick(random, [4, 64, 4096])), result.length - at);
    const change = random.below(8);
    if (change < 3) {
      for (let flips = 1 + random.below(6); flips > 0 && result.length > 0; flips--)
        result[random.below(result.length)] ^= 1 << random.below(8);
    } else if (change === 3) result = overwriteNumber(random, result, at);
    else if (change === 4) result = result.subarray(0, at);
    else if (change === 5) result = Buffer.concat([result.subarray(0, at), result.subarray(at + length)]);
    else if (change === 6) {
      const from = random.below(result.length + 1);
      result = Buffer.concat([result.subarray(0, at), result.subarray(from, from + length), result.subarray(at)]);
    } else result.fill(random.below(256), at, at + length);
    if (result.length > 2 ** 22) result = result.subarray(0, 2 ** 22);
    result = Buffer.from(result);
  }
  return result;
}

/** A length, size or offset somewhere, set to an absurd one. */
function overwriteNumber(random, bytes, at) {
  const number = Buffer.alloc(8);
  number.writeBigInt64LE(BigInt(Math.trunc(Math.max(Math.min(pick(random, NUMBERS), 2 ** 62), -(2 ** 63)))));
  const width = pick(random, [1, 2, 4, 8]);
  const part = number.subarray(0, width);
  if (random.below(2) === 0) part.reverse();
  part.copy(bytes, Math.min(at, Math.max(0, bytes.length - width)));
  return bytes;
}

const YAML = [
  '&a [*a, *a]',
  '*a',
  '!!binary "AAAA"',
  '!!js/function "x"',
  '!!set {a, b}',
  '<<: *a',
  '{a: {b: {c: 1}}}',
  '? [1, 2] : 3',
  '|\n  text',
  '- 1',
  '~',
  '"',
  "'",
  '{',
  '[',
  '0x7fffffffffffffff',
  '1e400',
  '.nan',
  '.inf',
  '2026-11-25',
  '\t',
  '---',
  '...',
  '%YAML 9.9',
  '\0',
  '\u001b[2J',
  `${'['.repeat(3000)}`,
  `${'{a: '.repeat(3000)}`,
  'a: &b [1]\nc: &d [*b, *b]',
];

/** A text of lines (YAML, templates) with changed lines, values and marks. */
export function damageLines(random, text) {
  const lines = text.split('\n');
  for (let left = 1 + random.below(4); left > 0; left--) {
    const at = random.below(lines.length);
    const odd = random.below(2) === 0 ? pick(random, YAML) : (JSON.stringify(oddValue(random)) ?? '');
    const change = random.below(7);
    if (change === 0) lines.splice(at, 1 + random.below(2));
    else if (change === 1) lines.splice(at, 0, pick(random, lines) ?? '');
    else if (change === 2) lines.splice(at, 0, odd);
    else if (change === 3) lines[at] = ' '.repeat(random.below(5)) + (lines[at] ?? '').trim();
    else lines[at] = (lines[at] ?? '').replace(/:.*$|$/, `: ${odd}`);
    if (lines.length === 0) lines.push('');
  }
  return lines.join('\n');
}
