import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { mostCharactersOfToken } from './byte-level.ts';
import { LATENT_TOKENS, Tokenizer } from './tokenizer.ts';

/** The printable stand-ins that byte-level BPE uses for the 256 bytes: 33..126, 161..172, 174..255 stand for themselves. */
function byteSymbols(): string[] {
  const symbols: string[] = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const own = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    symbols.push(String.fromCodePoint(own ? byte : next++));
  }
  return symbols;
}

function byteLevelDefinition(): Record<string, unknown> {
  const vocab = Object.fromEntries(byteSymbols().map((symbol, byte) => [symbol, byte]));
  const added = (id: number, content: string) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  return {
    version: '1.0',
    added_tokens: [added(256, '<|endoftext|>'), added(257, '<|latent|>')],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: { type: 'BPE', vocab, merges: [] },
  };
}

let folder = '';
let tokenizer: Tokenizer;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-tokenizer-'));
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(byteLevelDefinition()));
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ eos_token: { content: '<|endoftext|>' } }));
  tokenizer = Tokenizer.fromFolder(folder);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('ids are the bytes, special tokens are one id', async () => {
  expect(tokenizer.eosId).toBe(256);
  expect(await tokenizer.encode('Aé<|latent|>\n')).toEqual([0x41, 0xc3, 0xa9, 257, 0x0a]);
  expect(await tokenizer.encodeBatch(['', 'B'])).toEqual([[], [0x42]]);
  expect(await tokenizer.encodeBatch([])).toEqual([]);
});

test('byte-level: the bytes of a token, of a part of a character too; names stand for themselves', async () => {
  const text = 'A é\u6f22\n';
  const ids = await tokenizer.encode(text);
  expect(ids.flatMap((id) => tokenizer.bytesOfToken(id)!)).toEqual([...Buffer.from(text)]);
  expect(Buffer.from(tokenizer.bytesOfToken(256)!).toString()).toBe('<|endoftext|>');
});

test('byte-level: a bound on the characters of a token, and none where text may vanish', () => {
  expect(tokenizer.mostCharacters).toBe('<|endoftext|>'.length);
  const bound = (changes: Record<string, unknown>) => mostCharactersOfToken({ ...byteLevelDefinition(), ...changes });
  // The longest text of one token has as many characters as the bound says: four compose into one, of which the token has one.
  expect(bound({ normalizer: { type: 'NFC' } })).toBe(4 * '<|endoftext|>'.length);
  expect('\u03b1\u0313\u0300\u0345'.normalize('NFC')).toHaveLength(1);
  const { model, pre_tokenizer, added_tokens } = byteLevelDefinition() as Record<string, Record<string, unknown>>;
  const { A: _, ...incomplete } = model!.vocab as Record<string, number>;
  const cut = { type: 'Sequence', pretokenizers: [{ type: 'Split', behavior: 'Removed' }, pre_tokenizer] };
  const blank = { id: 258, content: '  ', special: false, lstrip: true, rstrip: false };
  for (const changes of [
    { model: { ...model, type: 'WordLevel' } },
    { model: { ...model, vocab: incomplete } },
    { normalizer: { type: 'Strip' } },
    { truncation: { max_length: 8 } },
    { pre_tokenizer: null },
    { pre_tokenizer: cut },
    { added_tokens: [...(added_tokens as unknown as object[]), blank] },
  ])
    expect(bound(changes)).toBeNull();
});

test('decode leaves special tokens out unless asked, and ignores unknown ids', () => {
  expect(tokenizer.decode([0x41, 257, 0xc3, 0xa9, 99999])).toBe('Aé');
  expect(tokenizer.decode([0x41, 257], { skipSpecial: false })).toBe('A<|latent|>');
  expect(tokenizer.decode([])).toBe('');
});

test('ids beyond a gap count for the size', () => {
  const gap = mkdtempSync(join(tmpdir(), 'ivtlr-tokenizer-'));
  const definition = byteLevelDefinition() as { model: { vocab: Record<string, number> } };
  definition.model.vocab.far = 900;
  writeFileSync(join(gap, 'tokenizer.json'), JSON.stringify(definition));
  writeFileSync(join(gap, 'tokenizer_config.json'), JSON.stringify({ eos_token: '<|endoftext|>' }));
  const own = Tokenizer.fromFolder(gap);
  expect(own.tokenToId('far')).toBe(900);
  expect(own.vocabSize).toBe(901);
  rmSync(gap, { recursive: true });
});

test('new special tokens follow the vocabulary in order, known ones keep their ids', async () => {
  const own = Tokenizer.fromFolder(folder);
  expect(own.vocabSize).toBe(258);
  expect(own.addSpecialTokens(LATENT_TOKENS)).toEqual([258, 259, 257]);
  expect(own.vocabSize).toBe(260);
  expect(own.addSpecialTokens(LATENT_TOKENS)).toEqual([258, 259, 257]);
  expect(await own.encode('<|end-latent|>x')).toEqual([259, 0x78]);
  expect(own.decode([258, 0x78])).toBe('x');
  expect(own.tokenToId('<|start-latent|>')).toBe(258);
  expect(own.tokenToId('nowhere')).toBeUndefined();
  expect(own.idToToken(259)).toBe('<|end-latent|>');
});

test('a stream holds back incomplete characters', () => {
  const stream = tokenizer.stream();
  const pieces = [...Buffer.from('a€😀b')].map((id) => stream.push(id));
  expect(pieces).toEqual(['a', '', '', '€', '', '', '', '😀', 'b']);
  expect(stream.end()).toBe('');
});

test('a stream that ends inside a character says so once', () => {
  const stream = tokenizer.stream();
  expect([0x41, 0xe2, 0x82].map((id) => stream.push(id))).toEqual(['A', '', '']);
  expect(stream.end()).toBe('\ufffd');
  expect(stream.end()).toBe('');
});

test('streamed pieces joined equal the decoded whole, for any text and any bytes', async () => {
  const streamed = (ids: number[]) => {
    const stream = tokenizer.stream();
    return ids.map((id) => stream.push(id)).join('') + stream.end();
  };
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'binary', maxLength: 300, size: 'max' }), async (text) => {
      const ids = await tokenizer.encode(text);
      expect(tokenizer.decode(ids)).toBe(text);
      expect(streamed(ids)).toBe(text);
    }),
    { numRuns: 100 },
  );
});

test('missing and corrupt files are UserErrors that name the file', () => {
  const empty = mkdtempSync(join(folder, 'empty-'));
  expect(() => Tokenizer.fromFolder(empty)).toThrow(`tokenizer not found: ${join(empty, 'tokenizer.json')}`);
  writeFileSync(join(empty, 'tokenizer.json'), '{"version": ');
  expect(() => Tokenizer.fromFolder(empty)).toThrow(/tokenizer\.json is not valid JSON/);
  writeFileSync(join(empty, 'tokenizer.json'), '{"version": "1.0"}');
  expect(() => Tokenizer.fromFolder(empty)).toThrow(/is not a Hugging Face tokenizer/);
  writeFileSync(join(empty, 'tokenizer.json'), JSON.stringify(byteLevelDefinition()));
  expect(() => Tokenizer.fromFolder(empty)).toThrow(/no end-of-text token/);
  writeFileSync(join(empty, 'tokenizer_config.json'), '{"eos_token": "</s>"}');
  expect(() => Tokenizer.fromFolder(empty)).toThrow(/names <\/s> as eos_token/);
  expect(() => Tokenizer.fromFolder(empty)).toThrow(UserError);
  writeFileSync(join(empty, 'tokenizer_config.json'), '{"eos_token": null}');
  writeFileSync(join(empty, 'config.json'), '{"eos_token_id": [256, 3]}');
  expect(Tokenizer.fromFolder(empty).eosId).toBe(256);
});
