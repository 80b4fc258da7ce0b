import { expect, test } from 'vitest';
import { parseQwen25VLConfig } from './config.ts';

const tiny = {
  model_type: 'qwen2_5_vl',
  hidden_size: 16,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  intermediate_size: 24,
  vocab_size: 64,
  rope_scaling: { mrope_section: [2, 1, 1] },
  image_token_id: 60,
};
const vision = { depth: 2, hidden_size: 16, num_heads: 2, intermediate_size: 20, out_hidden_size: 16 };
const parse = (more: object, visionMore: object = {}) =>
  parseQwen25VLConfig({ ...tiny, ...more, vision_config: { ...vision, ...visionMore } }, 'config.json');

test('fills in the defaults of transformers', () => {
  expect(parse({}).vision).toMatchObject({
    window: 4,
    fullAttention: new Set([7, 15, 23, 31]),
    patchSize: 14,
    merge: 2,
  });
  expect(parse({}, { window_size: 80 }).vision.window).toBe(2);
});

test.each([
  [{}, { out_hidden_size: 24 }, "vision_config.out_hidden_size is 24, but the decoder's hidden_size is 16"],
  [{}, { window_size: 27 }, 'vision_config.window_size is 27, but an image token alone spans 28 pixels'],
  [{}, { num_heads: 3 }, 'vision_config.hidden_size 16 should be a multiple of 4 times num_heads, 12'],
  [{}, { hidden_act: 'gelu' }, 'vision_config.hidden_act: only silu is supported'],
  [{}, { in_chans: 1 }, 'vision_config.in_chans: only 3 is supported'],
  [{}, { fullatt_block_indexes: [-1] }, /vision_config\.fullatt_block_indexes/],
  [{ model_type: 'qwen2_vl' }, {}, /model_type/],
  [{ image_token_id: 64 }, {}, 'image_token_id is 64, but vocab_size is 64'],
])('refuses %o %o', (more, visionMore, message) => {
  expect(() => parse(more, visionMore)).toThrow(message);
});
