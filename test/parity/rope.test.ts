/** Linear and YaRN rotary positions against Hugging Face transformers, at positions beyond the original ones. */
import { liveTensorCount, scope } from '@ivtlr/torch';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { embedPrompt, Sequence } from '../../packages/ivtlr/src/latent/sequence.ts';
import type { PositionKind, VisionLanguageModel } from '../../packages/ivtlr/src/models/types.ts';
import { type ChameleonCase, seededChameleon, seededChameleonImages } from './chameleon-model.ts';
import { type GoldenCase, makeBatch, readGolden, relativeError, seededImages, seededModel } from './model.ts';

interface Expected {
  last_logits: number[][];
  probes: { row: number; column: number; logits: number[] }[];
  attention_row: number[][];
}

interface Rows {
  input_ids: number[][];
  attention_mask: number[][];
}

const { original, qwen, chameleon } = readGolden<{
  original: number;
  qwen: (GoldenCase & Rows & Record<PositionKind, Expected>)[];
  chameleon: (ChameleonCase & Rows & Expected & { masked: number[] })[];
}>('rope.json');

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));

/** Inside a scope. */
function compare(
  model: VisionLanguageModel,
  batch: ReturnType<typeof makeBatch>,
  kind: PositionKind,
  expected: Expected,
  masked: readonly number[] = [],
): void {
  const kept = (logits: number[]) => logits.filter((_, id) => !masked.includes(id));
  const { hidden, scores } = new Sequence(model, embedPrompt(model, batch, kind), null).run('detached');
  const logits = model.logits(hidden);
  const last = (logits.select(1, -1).tolist() as number[][]).flatMap(kept);
  expect(relativeError(last, expected.last_logits.flat())).toBeLessThan(1e-4);
  for (const { row, column, logits: probe } of expected.probes) {
    const got = kept(logits.select(0, row).select(0, column).toNumbers()).slice(0, probe.length);
    expect(relativeError(got, probe), `${row} ${column}`).toBeLessThan(1e-4);
  }
  expect(relativeError(scores!.toNumbers(), expected.attention_row.flat())).toBeLessThan(1e-4);
}

test('the rows go beyond the original positions', () => {
  expect(qwen.length).toBe(5);
  expect(chameleon.length).toBe(3);
  for (const { input_ids } of [...qwen, ...chameleon]) expect(input_ids[0]!.length).toBeGreaterThan(2.5 * original);
});

test.each(
  qwen.flatMap((golden) =>
    (['mrope', 'sequential'] as const).map((kind) => [`${golden.name}, ${kind} positions`, kind, golden] as const),
  ),
)('Qwen2-VL: %s', (_, kind, golden) => {
  using model = seededModel(golden);
  scope(() => {
    const batch = makeBatch(golden.input_ids, golden.attention_mask, seededImages(golden), golden.ids);
    compare(model, batch, kind, golden[kind]);
  });
});

test.each(chameleon.map((golden) => [golden.name, golden] as const))('Chameleon: %s', (_, golden) => {
  using model = seededChameleon(golden);
  scope(() => {
    const batch = makeBatch(golden.input_ids, golden.attention_mask, seededChameleonImages(golden), golden.ids);
    compare(model, batch, 'sequential', golden, golden.masked);
  });
});
