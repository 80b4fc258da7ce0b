import { expect, it } from 'vitest';
import { applicableAblations, STUDY_ABLATIONS } from './measurement.ts';

const keysOf = (latents: number, latentText: 'on' | 'off', latentVision: 'on' | 'off') =>
  applicableAblations(STUDY_ABLATIONS, { latents, latentText, latentVision }).map(([key]) => key);

it('leaves out what changes nothing of a model', () => {
  expect(keysOf(3, 'on', 'on')).toEqual(STUDY_ABLATIONS);
  expect(keysOf(0, 'on', 'on')).toEqual(['full']);
  const ofText = ['text-zeroed', 'text-swapped', 'last-text-swapped'];
  expect(keysOf(3, 'on', 'off')).toEqual(['full', 'zero-latents', ...ofText]);
  expect(keysOf(3, 'off', 'on')).toEqual(STUDY_ABLATIONS.filter((key) => !ofText.includes(key)));
});
