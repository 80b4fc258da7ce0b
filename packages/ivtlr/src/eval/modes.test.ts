import { expect, it } from 'vitest';
import { ABLATIONS } from '../latent/options.ts';
import { planRuns } from './modes.ts';

it('plans runs, and refuses ablations of steps a mode does not take', () => {
  expect(planRuns('ivt-lr', ['full', 'zero-latents', 'full']).map(({ name }) => name)).toEqual([
    'full',
    'zero latent steps',
  ]);
  expect(planRuns('ivt-lr', ['all'])).toHaveLength(Object.keys(ABLATIONS).length);
  expect(planRuns('coconut', ['full'])[0]!.ablation.options).toMatchObject({ latentText: 'on', latentVision: 'off' });
  expect(planRuns('cot', ['full'])[0]).toMatchObject({ ablation: { latentSteps: 0 } });
  expect(planRuns('cot', ['full'])[0]!.answerStart).toBeUndefined();
  expect(planRuns('no-cot', ['full'])[0]!.answerStart).toBe('Therefore, the answer is');
  expect(() => planRuns('cot', ['random-patches'])).toThrow('without --mode cot');
});
