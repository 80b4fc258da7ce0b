import { scope, tensor, zeros } from '@ivtlr/torch';
import { expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { requireSoundWeight } from './sound-weights.ts';

test('numbers that are not finite, and an embedding of zeros, are refused by file and name', () => {
  scope(() => {
    const check = (name: string, values: number[], dtype: 'float32' | 'bfloat16' = 'float32') =>
      requireSoundWeight(name, tensor(values, { dtype }), 'model.pth');
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
      expect(() => check('lm_head.weight', [1, value])).toThrow(
        new UserError(
          'model.pth: lm_head.weight holds numbers that are not finite: the weights are damaged, or too large for float32',
        ),
      );
    expect(() => check('model.embed_tokens.weight', [0, 0], 'bfloat16')).toThrow(
      new UserError('model.pth: model.embed_tokens.weight is all zero: these are no trained weights'),
    );
    check('model.embed_tokens.weight', [0, 1e-30], 'bfloat16');
    requireSoundWeight('lora_B.weight', zeros([2, 2]), 'model.pth'); // adapters begin so
  });
});
