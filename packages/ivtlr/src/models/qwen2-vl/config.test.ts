import { expect, test } from 'vitest';
import { TINY_CONFIG } from '../../../../../test/tiny-model.ts';
import { UserError } from '../../errors.ts';
import { parseQwen2VLConfig } from './config.ts';

const parse = (changes: Record<string, unknown>) =>
  parseQwen2VLConfig({ ...TINY_CONFIG, ...changes }, '/m/config.json');
const mrope = { mrope_section: [2, 1, 1] };

test('every name of plain M-RoPE', () => {
  for (const rope of [
    { rope_scaling: { ...mrope, type: 'mrope' } },
    { rope_scaling: { ...mrope, type: 'default', rope_type: 'default' } },
    { rope_scaling: undefined, rope_parameters: { ...mrope, type: 'mrope', rope_type: 'default', rope_theta: 5e5 } },
  ])
    expect(parse(rope)).toMatchObject({ ropeScaling: null, maxPositions: 32768, mropeSections: [2, 1, 1] });
  expect(parse({ rope_scaling: null, rope_parameters: { ...mrope, rope_theta: 5e5 } }).ropeTheta).toBe(5e5);
  expect(parse({ rope_theta: 7e5 }).ropeTheta).toBe(7e5);
});

test('linear and YaRN: their numbers, and the positions they add', () => {
  const linear = parse({ rope_scaling: { ...mrope, type: 'linear', factor: 2 }, max_position_embeddings: 1000 });
  expect(linear).toMatchObject({ ropeScaling: { type: 'linear', factor: 2 }, maxPositions: 2000 });
  const yarn = { ...mrope, rope_type: 'yarn', factor: 4, original_max_position_embeddings: 500 };
  expect(parse({ rope_scaling: yarn, max_position_embeddings: 1000 })).toMatchObject({
    maxPositions: 2000,
    ropeScaling: { originalPositions: 500, attentionFactor: 0.1 * Math.log(4) + 1, betaFast: 32, betaSlow: 1 },
  });
  expect(parse({ rope_scaling: yarn, max_position_embeddings: 9000 }).maxPositions).toBe(9000);
});

test('a sliding window that no layer has', () => {
  for (const window of [
    { use_sliding_window: false, sliding_window: 64, max_window_layers: 0 },
    { use_sliding_window: true, sliding_window: 64, max_window_layers: 2 },
    { use_sliding_window: true, sliding_window: null, max_window_layers: 0 },
  ])
    expect(parse(window).layers).toBe(2);
});

test.each([
  [{ rope_scaling: { ...mrope, type: 'dynamic', factor: 2 } }, /rope_scaling\.rope_type: "dynamic" is not supported/],
  [
    { rope_scaling: { ...mrope, rope_type: 'llama3' } },
    /rope_scaling\.rope_type: "llama3" .*default, linear and yarn are/,
  ],
  [{ rope_scaling: { ...mrope, rope_type: 'yarn' } }, /rope_scaling\.factor is missing, which rope_type yarn needs/],
  [{ rope_scaling: { ...mrope, type: 'linear', factor: -1 } }, /rope_scaling\.factor: /],
  [{ rope_scaling: { ...mrope, type: 'linear', factor: 1e9 } }, /rope_scaling\.factor: Too big/],
  [{ rope_scaling: { ...mrope, partial_rotary_factor: 0.5 } }, /partial_rotary_factor: only 1 is supported/],
  [{ rope_scaling: { mrope_section: [2, 1] } }, /rope_scaling\.mrope_section: /],
  [{ rope_scaling: { mrope_section: [2, 1, 2] } }, /mrope_section 2\+1\+2 should add up to half the head size 8/],
  [{ use_sliding_window: true, sliding_window: 8, max_window_layers: 1 }, /use_sliding_window: .* not supported/],
  [{ layer_types: ['full_attention', 'sliding_attention'] }, /layer_types\.1: only full_attention is supported/],
  [{ hidden_act: 'gelu' }, /hidden_act: only silu is supported/],
  [{ head_dim: 16 }, /head_dim is 16, but hidden_size \/ num_attention_heads is 8/],
  [{ num_attention_heads: 3 }, /hidden_size, num_attention_heads and num_key_value_heads do not divide evenly/],
  [{ num_key_value_heads: 4 }, /do not divide evenly/],
  [{ image_token_id: 64 }, /image_token_id is 64, but vocab_size is 64/],
  [{ image_token_id: undefined }, /image_token_id is 151655, but vocab_size is 64/],
  [{ vision_config: { hidden_act: 'gelu' } }, /vision_config\.hidden_act: only quick_gelu is supported/],
  [{ vision_config: { embed_dim: 20, num_heads: 2 } }, /vision_config\.embed_dim 20 should be a multiple of .*8/],
  [{ vision_config: { in_channels: 1 } }, /vision_config\.in_channels: only 3 is supported/],
  [{ vision_config: { rope_parameters: { rope_theta: 5 } } }, /vision_config\.rope_parameters\.rope_theta: only 10000/],
  [{ vision_config: [] }, /vision_config: /],
  [{ num_hidden_layers: 1e9 }, /num_hidden_layers: Too big/],
  [{ hidden_size: 1e9 }, /hidden_size: Too big/],
  [{ vocab_size: 1e12 }, /vocab_size: Too big/],
  [{ max_position_embeddings: 1e10 }, /max_position_embeddings: Too big/],
  [{ vision_config: { depth: 1e9 } }, /vision_config\.depth: Too big/],
  [{ text_config: { hidden_size: 'wide' } }, /text_config\.hidden_size: /],
])('%j is said', (changes, message) => {
  expect(() => parse(changes)).toThrow(UserError);
  expect(() => parse(changes)).toThrow(message);
  expect(() => parse(changes)).toThrow(/^\/m\/config\.json: /);
});
