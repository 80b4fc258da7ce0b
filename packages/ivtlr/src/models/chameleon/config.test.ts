import { expect, test } from 'vitest';
import { UserError } from '../../errors.ts';
import { parseChameleonConfig } from './config.ts';

const letters = (code: number) => [...String(code)].map((digit) => String.fromCharCode(65 + Number(digit))).join('');

function json(changes: Record<string, unknown> = {}, vq: Record<string, unknown> = {}): Record<string, unknown> {
  const codes = Array.from({ length: 12 }, (_, code) => [`IMGIMG${letters(code)}Z`, 40 - code]);
  return {
    model_type: 'chameleon',
    hidden_size: 32,
    num_hidden_layers: 1,
    num_attention_heads: 4,
    intermediate_size: 48,
    vocab_size: 64,
    vocabulary_map: { ...Object.fromEntries(codes), '<image>': 63, word: 5 },
    vq_config: { num_embeddings: 12, base_channels: 32, channel_multiplier: [1, 2], resolution: 64, ...vq },
    ...changes,
  };
}

test('image codes are found by their names, whatever their ids', () => {
  const { codeIds, imageIds, imageTokenId, keyValueHeads } = parseChameleonConfig(json(), 'config.json');
  expect(codeIds).toEqual([40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29]);
  expect(imageIds).toEqual([29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40]);
  expect(imageTokenId).toBe(63);
  expect(keyValueHeads).toBe(4);
});

test('Hugging Face’s defaults are Chameleon-7B', () => {
  const map = Object.fromEntries(Array.from({ length: 8192 }, (_, code) => [`IMGIMG${letters(code)}Z`, code + 4]));
  const config = parseChameleonConfig({ model_type: 'chameleon', vocabulary_map: { ...map, '<image>': 8711 } }, 'c');
  expect(config).toMatchObject({
    hiddenSize: 4096,
    layers: 32,
    heads: 32,
    keyValueHeads: 32,
    intermediateSize: 11008,
    vocabularySize: 65536,
    normEps: 1e-5,
    ropeTheta: 10000,
    swinNorm: false,
    tied: false,
    vq: {
      embedDim: 256,
      latentChannels: 256,
      codes: 8192,
      resolution: 512,
      baseChannels: 128,
      multipliers: [1, 1, 2, 2, 4],
      residualBlocks: 2,
      attentionResolutions: [],
      attention: true,
    },
  });
});

test.each([
  [{ rope_theta: 5e5, rope_scaling: null }, 5e5],
  [{ rope_parameters: { rope_theta: 2e4, rope_type: 'default' } }, 2e4],
  [{}, 10000],
])('the rotary base of %j', (changes, theta) => {
  expect(parseChameleonConfig(json(changes), 'c').ropeTheta).toBe(theta);
});

test.each([
  [{ num_attention_heads: 3 }, {}, /hidden_size 32, num_attention_heads 3 and num_key_value_heads 3 do not divide/],
  [{ vocab_size: 40 }, {}, /vocabulary_map\.IMGIMGAZ is 40, but vocab_size is 40/],
  [{ vocabulary_map: undefined }, {}, /vocabulary_map: /],
  [{ vocabulary_map: { IMGIMGAZ: 1 } }, {}, /vocabulary_map lacks <image>/],
  [{ vocabulary_map: { '<image>': 1, IMGIMGxZ: 2 } }, {}, /vocabulary_map\.IMGIMGxZ is no image code/],
  [{}, { num_embeddings: 14 }, /names no id for image code 12, but vq_config\.num_embeddings is 14/],
  [{}, { base_channels: 24 }, /vq_config\.base_channels 24 times the channel_multiplier 1 should be a multiple of 32/],
  [{}, { resolution: 63 }, /vq_config\.resolution 63 should be a multiple of 2/],
  [{}, { double_latent: true }, /vq_config\.double_latent: only false is known/],
  [{}, { attn_type: 'linear' }, /vq_config\.attn_type: /],
  [{ attention_bias: true }, {}, /attention_bias: only false is known/],
  [{ rope_scaling: { type: 'linear' } }, {}, /rope_scaling\.factor is missing, which rope_type linear needs/],
  [{ rope_parameters: { rope_type: 'yarn' } }, {}, /rope_parameters\.factor is missing, which rope_type yarn needs/],
  [{ hidden_act: 'gelu' }, {}, /hidden_act: only silu is known/],
])('%j %j is said', (changes, vq, message) => {
  expect(() => parseChameleonConfig(json(changes, vq), '/m/config.json')).toThrow(UserError);
  expect(() => parseChameleonConfig(json(changes, vq), '/m/config.json')).toThrow(message);
  expect(() => parseChameleonConfig(json(changes, vq), '/m/config.json')).toThrow(/^\/m\/config\.json: /);
});
