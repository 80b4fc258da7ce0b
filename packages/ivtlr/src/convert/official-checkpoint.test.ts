import { expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import type { WeightNames } from '../models/registry.ts';
import { officialNames, planConversion, vocabularySize, withVocabulary } from './official-checkpoint.ts';

const PREFIX = 'base_causallm.base_model.model.';
const FILE = 'model.pth';

/** A one-layer model: names as an official file has them, with shapes. */
function stored(vocabulary: number): Record<string, number[]> {
  const layer = `${PREFIX}model.layers.0.self_attn.q_proj`;
  return {
    [`${PREFIX}model.embed_tokens.weight`]: [vocabulary, 8],
    [`${layer}.base_layer.weight`]: [6, 8],
    [`${layer}.base_layer.bias`]: [6],
    [`${layer}.lora_A.default.weight`]: [4, 8],
    [`${layer}.lora_B.default.weight`]: [6, 4],
    [`${PREFIX}model.layers.0.self_attn.rotary_emb.inv_freq`]: [4],
    [`${PREFIX}lm_head.weight`]: [vocabulary, 8],
    'embedding.weight': [vocabulary, 8],
  };
}

function wanted(vocabulary: number): WeightNames {
  return {
    shapes: new Map([
      ['model.embed_tokens.weight', [vocabulary, 8]],
      ['model.layers.0.self_attn.q_proj.weight', [6, 8]],
      ['model.layers.0.self_attn.q_proj.bias', [6]],
    ]),
    storedName: (name) => (name === 'lm_head.weight' ? null : name.replace('model.language_model.', 'model.')),
    pathStyle: 'nested',
  };
}

function plan(file: Record<string, number[]>, model = wanted(151660)) {
  const names = officialNames(Object.keys(file), FILE);
  return planConversion(names, model, (name) => file[name]!, FILE, 'base');
}

test.each([151660, 151936, 152064])('a vocabulary of %d', (size) => {
  const file = stored(size);
  const names = officialNames(Object.keys(file), FILE);
  expect(vocabularySize(names, (name) => file[name]!, FILE)).toBe(size);
  expect(withVocabulary({ vocab_size: 1, hidden_size: 8 }, size)).toEqual({ vocab_size: size, hidden_size: 8 });
  const nested = withVocabulary({ text_config: { vocab_size: 1, hidden_size: 8 } }, size);
  expect(nested).toEqual({ text_config: { vocab_size: size, hidden_size: 8 } });
  const { weights } = plan(file, wanted(size));
  expect(weights.get('model.embed_tokens.weight')!.shape).toEqual([size, 8]);
});

test.each(['', 'module.'])('names with the prefix %j; adapters and the embedding find their weights', (prefix) => {
  const file = Object.fromEntries(Object.entries(stored(151660)).map(([name, shape]) => [prefix + name, shape]));
  const { weights, adapters, rank } = plan(file);
  const layer = `${prefix}${PREFIX}model.layers.0.self_attn.q_proj`;
  const factors = { a: `${layer}.lora_A.default.weight`, b: `${layer}.lora_B.default.weight` };
  expect([...weights].map(([name, { stored, adapter }]) => [name, stored, adapter])).toEqual([
    ['model.embed_tokens.weight', `${prefix}embedding.weight`, null],
    ['model.layers.0.self_attn.q_proj.weight', `${layer}.base_layer.weight`, factors],
    ['model.layers.0.self_attn.q_proj.bias', `${layer}.base_layer.bias`, null],
  ]);
  expect([...adapters]).toEqual([['model.layers.0.self_attn.q_proj', factors]]);
  expect(rank).toBe(4);
});

test('a file of full fine-tuning has no adapters', () => {
  const { adapters, rank } = plan({
    'base_causallm.model.embed_tokens.weight': [151660, 8],
    'base_causallm.model.layers.0.self_attn.q_proj.weight': [6, 8],
    'base_causallm.model.layers.0.self_attn.q_proj.bias': [6],
  });
  expect([adapters.size, rank]).toEqual([0, 0]);
});

const layer = `${PREFIX}model.layers.0.self_attn.q_proj`;
const cases: [what: string, change: Record<string, number[] | null>, message: RegExp][] = [
  [
    'another kind of file',
    { 'model.norm.weight': [8] },
    /model\.pth: no official IVT-LR checkpoint: the key model\.norm\.weight/,
  ],
  [
    'a missing weight',
    { [`${layer}.base_layer.bias`]: null },
    /it lacks model\.layers\.0\.self_attn\.q_proj\.bias; is base the base/,
  ],
  ['an unknown weight', { [`${PREFIX}model.more.weight`]: [1] }, /model\.more\.weight is no weight of the base model/],
  [
    'another size',
    { [`${layer}.base_layer.weight`]: [6, 9] },
    /q_proj\.base_layer\.weight is \[6, 9\], the base model's is \[6, 8\]/,
  ],
  [
    'half an adapter',
    { [`${layer}.lora_B.default.weight`]: null },
    /lora_A\.default\.weight has no counterpart lora_B/,
  ],
  [
    'factors that do not fit',
    { [`${layer}.lora_B.default.weight`]: [6, 5] },
    /lora_B\.default\.weight is \[6, 5\], the base model's is \[6, 4\]/,
  ],
  [
    'an adapter without weight',
    { [`${PREFIX}x.lora_A.default.weight`]: [1], [`${PREFIX}x.lora_B.default.weight`]: [1] },
    /x\.lora_A\.default\.weight belongs to no weight/,
  ],
  ['DoRA', { [`${layer}.lora_magnitude_vector.default.weight`]: [6] }, /is of a kind of adapter that is not supported/],
  ['a weight under both names', { [`${layer}.weight`]: [6, 8] }, /are the same weight/],
  [
    'a weight under old and new names',
    { [`${PREFIX}model.language_model.layers.0.self_attn.q_proj.bias`]: [6] },
    /is there twice, under two names/,
  ],
  ['another embedding', { 'embedding.weight': [7, 8] }, /embedding\.weight is \[7, 8\]/],
];

test.each(cases)('%s is named', (_, change, message) => {
  const file = { ...stored(151660), ...change };
  const kept = Object.fromEntries(Object.entries(file).filter(([, shape]) => shape !== null)) as Record<
    string,
    number[]
  >;
  expect(() => plan(kept)).toThrow(UserError);
  expect(() => plan(kept)).toThrow(message);
});

test('nothing, and no embedding', () => {
  expect(() => officialNames([], FILE)).toThrow(/it holds no weights/);
  const names = officialNames(['base_causallm.x.weight'], FILE);
  expect(() => vocabularySize(names, () => [1], FILE)).toThrow(/has no input embedding/);
});
