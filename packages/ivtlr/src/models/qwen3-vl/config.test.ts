import { expect, test } from 'vitest';
import { parseQwen3VLConfig } from './config.ts';

const text = {
  hidden_size: 16,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 16,
  intermediate_size: 24,
  vocab_size: 64,
  rope_scaling: { rope_type: 'default', mrope_interleaved: true, mrope_section: [4, 2, 2] },
};
const vision = {
  ...{ depth: 3, hidden_size: 16, num_heads: 2, intermediate_size: 20, out_hidden_size: 16 },
  ...{ num_position_embeddings: 36, deepstack_visual_indexes: [2, 0] },
};
const parse = (top: object, textMore: object = {}, visionMore: object = {}) =>
  parseQwen3VLConfig(
    {
      ...{ model_type: 'qwen3_vl', image_token_id: 60, ...top },
      text_config: { ...text, ...textMore },
      vision_config: { ...vision, ...visionMore },
    },
    'config.json',
  );

test('heads may be wider than the hidden size says; levels keep their order', () => {
  const { headSize, hiddenSize, ropeTheta, maxPositions, vision: tower } = parse({});
  expect([headSize, hiddenSize, ropeTheta, maxPositions]).toEqual([16, 16, 5e5, 128000]);
  expect(tower).toMatchObject({ positionSide: 6, deepstackBlocks: [2, 0], patchSize: 16, merge: 2, frames: 2 });
});

test.each([
  [{}, {}, { num_position_embeddings: 35 }, 'num_position_embeddings is 35, but the embeddings should form a square'],
  [{}, {}, { deepstack_visual_indexes: [3] }, 'should name different blocks below depth 3, and has 3'],
  [{}, {}, { deepstack_visual_indexes: [1, 1] }, 'should name different blocks below depth 3, and has 1'],
  [{}, { num_hidden_layers: 1 }, {}, 'names 2 blocks, but the decoder has 1 layers to add their features to'],
  [{}, {}, { out_hidden_size: 24 }, "vision_config.out_hidden_size is 24, but the decoder's hidden_size is 16"],
  [{}, {}, { num_heads: 3 }, 'vision_config.hidden_size 16 should be a multiple of 4 times num_heads, 12'],
  [{}, {}, { hidden_act: 'gelu' }, 'vision_config.hidden_act: only gelu_pytorch_tanh is supported'],
  [{}, { attention_bias: true }, {}, 'text_config.attention_bias: only false is supported'],
  [{}, { head_dim: 20 }, {}, 'mrope_section 4+2+2 should add up to half the head size 20'],
  [{}, { num_key_value_heads: 3 }, {}, 'do not divide evenly'],
  [
    {},
    { rope_scaling: { rope_type: 'llama3' } },
    {},
    /text_config\.rope_scaling\.rope_type: "llama3" is not supported/,
  ],
  [{ model_type: 'qwen3_vl_moe' }, {}, {}, /model_type/],
  [{ image_token_id: 64 }, {}, {}, 'image_token_id is 64, but vocab_size is 64'],
])('refuses %o %o %o', (top, textMore, visionMore, message) => {
  expect(() => parse(top, textMore, visionMore)).toThrow(message);
});
