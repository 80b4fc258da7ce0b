/** How much work a writing row waits for while others come: counted, not timed. */
import { inferenceMode, liveTensorCount, scope, setNumThreads } from '@ivtlr/torch';
import { afterAll, expect, test, vi } from 'vitest';
import { TINY_CONFIG, TINY_IDS, tinyImage } from '../../../../test/tiny-model.ts';
import { createModel } from '../models/registry.ts';
import { ImagesAhead } from './images-ahead.ts';
import { LATENT_DEFAULTS } from './options.ts';
import type { RowRequest } from './row.ts';
import { RowBatch } from './row-batch.ts';

setNumThreads(1);
const tower = { ...TINY_CONFIG.vision_config, depth: 4 };
const model = createModel({ ...TINY_CONFIG, vision_config: tower }, 3, { dtype: 'float32' });
afterAll(() => model.module.dispose());

const PIECE = 8;

function request(grid: [number, number], maxNewTokens: number): RowRequest {
  const image = tinyImage(grid, 1);
  return {
    promptIds: [1, ...new Array<number>(image.tokens).fill(TINY_IDS.image), 2, 3],
    ...{ images: [image], latentSteps: 1, afterLatentIds: [] },
    options: { ...LATENT_DEFAULTS, patches: 2, maxNewTokens, eosIds: [] },
  };
}

test('the units of the tower give what it gives at once', () => {
  scope(() => {
    const [image] = request([6, 8], 1).images;
    const whole = inferenceMode(() => model.encodeImages([image!])[0]!.toNumbers());
    const before = liveTensorCount();
    const ahead = new ImagesAhead(model);
    expect(ahead.get(image!)).toBeNull();
    let pieces = 1;
    while (!ahead.advance(image!, 1)) pieces++;
    expect(pieces).toBeGreaterThan(1);
    expect(ahead.get(image!)!.toNumbers()).toEqual(whole);
    ahead.forget(image!);
    // One that is given up half-way leaves nothing either.
    ahead.advance(image!, 1);
    ahead.dispose();
    expect(liveTensorCount()).toBe(before);
  });
});

test('between two steps of a writing row there is one piece of a prompt or of an image, whatever comes', () => {
  scope(() => {
    /** Since the writing row's last step: units of images, the work of the largest one, and positions of prompts. */
    let units: number[] = [];
    let prompts = 0;
    const inUnits = model.encodeInUnits.bind(model);
    const spy = vi.spyOn(model, 'encodeInUnits').mockImplementation(function* (image) {
      const each = inUnits(image);
      for (let step = each.next(); ; step = each.next()) {
        if (step.done) return step.value;
        units.push(step.value);
        yield step.value;
      }
    });
    const whole = vi.spyOn(model, 'encodeImages');
    const forward = model.forwardRows.bind(model);
    const passes = vi.spyOn(model, 'forwardRows').mockImplementation((inputs, options) => {
      prompts += inputs.shape[1]!;
      return forward(inputs, options);
    });
    const batch = new RowBatch(model, { slots: 4, pieceTokens: PIECE });
    const [writing] = batch.add([request([2, 2], 200)]);
    while (writing!.tokens.length === 0) batch.step();
    whole.mockClear();
    const coming = [request([8, 8], 3), request([6, 8], 3), request([2, 2], 3)];
    const added = [];
    let mostPrompt = 0;
    let piecesOfImages = 0;
    while (added.length < 3 || batch.size > 1) {
      units = [];
      prompts = 0;
      const next = coming[0];
      if (next && batch.readAhead([next])) added.push(...batch.add([coming.shift()!]));
      const tokens = writing!.tokens.length;
      batch.step();
      // Every pass is a step of the writing row.
      expect(writing!.tokens.length).toBe(tokens + 1);
      // Without the unit that filled it, a piece is smaller than it may be.
      const filled = units.slice(0, -1).reduce((sum, unit) => sum + unit, 0);
      expect(filled).toBeLessThan(PIECE);
      // Besides the piece each of the others runs a token or the rows of a latent step.
      expect(prompts).toBeLessThanOrEqual(PIECE + 1 + added.length * 3);
      if (units.length > 0) {
        piecesOfImages++;
        expect(prompts).toBeLessThanOrEqual(1 + added.length * 3);
      }
      mostPrompt = Math.max(mostPrompt, prompts);
    }
    expect(piecesOfImages).toBeGreaterThan(coming.length + added.length);
    expect(mostPrompt).toBeGreaterThanOrEqual(PIECE);
    expect(whole).not.toHaveBeenCalled();
    batch.dispose();
    for (const each of [spy, whole, passes]) each.mockRestore();
  });
});

test('a picture and the prompt behind it share a piece', () => {
  scope(() => {
    const [picture] = request([4, 4], 1).images;
    const ahead = new ImagesAhead(model);
    expect(ahead.advance(picture!, Number.POSITIVE_INFINITY)).toBe(true);
    const { work } = ahead;
    ahead.dispose();
    const tokens = request([4, 4], 1).promptIds.length;
    // A piece in which all of the picture's work has room, and all of the prompt but two tokens.
    const batch = new RowBatch(model, { slots: 4, pieceTokens: Math.ceil(work) + tokens - 2 });
    const [writing] = batch.add([request([2, 2], 200)]);
    while (writing!.tokens.length === 0) batch.step();
    const forward = model.forwardRows.bind(model);
    const sizes: number[] = [];
    const spy = vi.spyOn(model, 'forwardRows').mockImplementation((inputs, options) => {
      sizes.push(inputs.shape[1]!);
      return forward(inputs, options);
    });
    const coming = request([4, 4], 3);
    expect(batch.readAhead([coming])).toBe(true);
    batch.add([coming]);
    batch.step();
    batch.step();
    // Beside the token that is written: the prompt but for what has no room, and then the rest of it.
    expect(sizes[0]).toBeLessThan(1 + tokens);
    expect(sizes[0]).toBeGreaterThanOrEqual(1 + tokens - 3);
    expect(sizes[0]! + sizes[1]!).toBe(2 + tokens);
    spy.mockRestore();
    batch.dispose();
  });
});
