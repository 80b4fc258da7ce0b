/** One pass over neighbouring slots, as a function of tensors, gives every slot that takes part what the ordinary pass gives it, and leaves the others alone. */
import {
  arange,
  cat,
  inferenceMode,
  LayerNorm,
  liveTensorCount,
  manualSeed,
  randn,
  scope,
  type Tensor,
} from '@ivtlr/torch';
import { expect, test } from 'vitest';
import type { RowGroup } from '../types.ts';
import { Decoder, type DecoderConfig, type DecoderTraits } from './decoder.ts';
import { indexTensor } from './index-tensor.ts';
import type { SlotCache } from './slot-cache.ts';

const CONFIG: DecoderConfig = {
  ...{ hiddenSize: 16, layers: 2, heads: 4, keyValueHeads: 2, intermediateSize: 24, vocabularySize: 11 },
  ...{ normEps: 1e-6, ropeTheta: 10_000, ropeScaling: null, maxPositions: 200 },
};
/** What the families' decoders have. */
const TRAITS: Record<string, DecoderTraits> = {
  plain: { qkvBias: false },
  'M-RoPE in runs': { qkvBias: true, mropeSections: [1, 0, 1] },
  'M-RoPE in turns, further features': {
    ...{ qkvBias: false, mropeSections: [1, 1, 0], mropeInterleaved: true, deepstackLevels: 2 },
    headNorm: (_, headSize) => new LayerNorm(headSize),
  },
  'norms behind': { qkvBias: false, normAfter: true },
};
const LENGTHS = [5, 9, 3, 12];

function fill(decoder: Decoder, cache: SlotCache): void {
  LENGTHS.forEach((length) => {
    const slot = cache.take(length + 8);
    pass(decoder, cache, { slots: [slot], size: length, scores: false }, randn([1, length, widthOf(decoder)]));
  });
}

const widthOf = ({ deepstackLevels }: Decoder) => CONFIG.hiddenSize * (1 + deepstackLevels);

/** The ordinary pass. inputs (b, S, I) -> hidden (b, S, D), scores (b, T). */
function pass(decoder: Decoder, cache: SlotCache, group: Pick<RowGroup, 'slots' | 'size' | 'scores'>, inputs: Tensor) {
  const { slots, size } = group;
  const each = slots.map((slot) => arange(cache.length(slot), cache.length(slot) + size, 1, { dtype: 'int64' }));
  const { hidden, scores } = decoder.forwardRows(inputs.reshape([1, slots.length * size, inputs.shape[2]!]), {
    positions: cat(each, 0).view([1, 1, slots.length * size]),
    cache,
    groups: [{ ...group, prompt: false, hidden: null }],
  });
  return { hidden: hidden.view([slots.length, size, CONFIG.hiddenSize]), scores: scores[0] ?? null };
}

const numbers = (tensor: Tensor) => tensor.toNumbers();

function expectClose(got: Tensor, wanted: Tensor): void {
  expect(got.shape).toEqual(wanted.shape);
  expect(Math.max(...numbers(got.sub(wanted).abs()))).toBeLessThan(1e-5);
}

test.each(Object.entries(TRAITS))('%s', (_, traits) => {
  const before = liveTensorCount();
  manualSeed(4);
  const decoder = new Decoder(CONFIG, traits, { dtype: 'float32' });
  decoder.eval();
  inferenceMode(() =>
    scope(() => {
      const static_ = decoder.newSlotCache(4, 30, { spare: true });
      const ordinary = decoder.newSlotCache(4, 30);
      manualSeed(5);
      fill(decoder, static_);
      manualSeed(5);
      fill(decoder, ordinary);
      expect(static_.capacity).toBe(56);
      expect(ordinary.capacity).toBe(30);
      // Slots 1 to 3 make a pass in which 1 and 3 take part; then 2 and 3; and rows of one position.
      for (const [slots, size, scores] of [
        [[1, 3], 3, true],
        [[2, 3], 1, false],
        [[1], 1, true],
        [[1, 2, 3], 2, false],
      ] as const) {
        const own = slots.map((slot) => slot - 1);
        const inputs = randn([3, size, widthOf(decoder)]);
        const lengths = [1, 2, 3].map((slot) => (slots.some((one) => one === slot) ? static_.length(slot) : -1000));
        const columns = 40;
        static_.prepare(columns);
        const first = lengths.map((length) => Math.max(length, 0));
        const got = decoder.forwardSlots(inputs, {
          ...{ cache: static_, start: 1, columns, lengths: indexTensor(lengths, 'cpu'), scores },
          positions: indexTensor(first, 'cpu')
            .view([3, 1])
            .add(arange(0, size, 1, { dtype: 'int64' })),
        });
        static_.advance(slots, size);
        const picked = indexTensor(own, 'cpu');
        const wanted = pass(decoder, ordinary, { slots, size, scores }, inputs.indexSelect(0, picked));
        expectClose(got.hidden.indexSelect(0, picked), wanted.hidden);
        expect(got.scores === null).toBe(!scores);
        if (!scores) continue;
        const seen = wanted.scores!.shape[1]!;
        const probabilities = got.scores!.indexSelect(0, picked);
        expectClose(probabilities.narrow(1, 0, seen), wanted.scores!);
        expect(numbers(probabilities.narrow(1, seen, columns - seen)).every((value) => value === 0)).toBe(true);
      }
      static_.dispose();
      ordinary.dispose();
    }),
  );
  decoder.dispose();
  expect(liveTensorCount()).toBe(before);
});
