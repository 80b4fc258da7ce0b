import { expect, it } from 'vitest';
import { heatColour } from './heat-colours.ts';
import { heatShares } from './step-panel.ts';

it('gives heat from the coldest to the hottest colour, whatever the scores', () => {
  expect(heatShares([0, 0.25, 1])).toEqual([0, 0.5, 1]);
  expect(heatShares([0, 0])).toEqual([0, 0]);
  expect(heatShares([Number.NaN, -1, 4])).toEqual([0, 0, 1]);
  const brightness = (value: number) => heatColour(value).reduce((sum, part) => sum + part, 0);
  const shares = heatShares([0, 1, 4, 9, 16]);
  for (const [index, share] of shares.entries())
    if (index > 0) expect(brightness(share)).toBeGreaterThan(brightness(shares[index - 1]!));
});
