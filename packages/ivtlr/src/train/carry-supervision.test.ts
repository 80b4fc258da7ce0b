/** The loss over what latent steps should carry on (`carrySupervision`), beside what loss.test.ts checks of it. */
import { scope, setNumThreads } from '@ivtlr/torch';
import { afterAll, expect, test } from 'vitest';
import { LOSS_OPTIONS as OPTIONS, LOSS_ROWS as ROWS } from '../../../../test/loss-rows.ts';
import { type TinyRow, tinyBatch, tinyModel } from '../../../../test/tiny-model.ts';
import { type LossOptions, trainingLoss } from './loss.ts';

setNumThreads(1);

const model = tinyModel({ seed: 5, dtype: 'float64' });
const batch = tinyBatch(ROWS);
afterAll(() => model.dispose());

test('values that are not known are left out of their loss', () => {
  scope(() => {
    const carryLoss = (rows: TinyRow[]) =>
      trainingLoss(model, tinyBatch(rows), { ...OPTIONS, carrySupervision: 1 }).carryLoss;
    const [first, second] = ROWS as [TinyRow, TinyRow];
    const { carried: _, ...untold } = second;
    expect(carryLoss([first, untold])!.item()).toBeCloseTo(carryLoss([first])!.item(), 12);
    expect(carryLoss([untold])).toBeNull();
    expect(carryLoss([{ ...first, latentSteps: 0 }])).toBeNull();
    expect(trainingLoss(model, batch, OPTIONS).carryLoss).toBeNull();
  });
});

test('a pass that is cut into segments gives the same loss and gradient with supervised values', () => {
  const options: LossOptions = { ...OPTIONS, carrySupervision: 0.6, latentGradient: 'detached' };
  const gradientOf = (observer: LossOptions['observer']) =>
    scope(() => {
      const parameter = model.namedParameters().get('model.embed_tokens.weight')!;
      const { loss, carryLoss, backward } = trainingLoss(model, batch, { ...options, ...(observer && { observer }) });
      backward();
      const gradient = parameter.grad!.tolist();
      for (const each of model.parameters()) each.grad = null;
      return { loss: loss.item(), carryLoss: carryLoss!.item(), gradient };
    });
  const whole = gradientOf(null);
  const cut = gradientOf({ require() {}, gradientsComplete() {} });
  expect(cut.loss).toBeCloseTo(whole.loss, 12);
  expect(cut.carryLoss).toBeCloseTo(whole.carryLoss, 12);
  (cut.gradient as number[][]).flat().forEach((value, i) => {
    expect(value).toBeCloseTo((whole.gradient as number[][]).flat()[i]!, 12);
  });
});
