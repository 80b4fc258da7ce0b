import { loadImage } from '@napi-rs/canvas';
import { expect, it } from 'vitest';
import { spread } from '../eval/analyze.ts';
import { drawStepPlot, valueScale } from './step-plot.ts';

it('spread gives mean and quartiles', () => {
  expect(spread([4, 1, 3, 2])).toEqual({ samples: 4, mean: 2.5, quartiles: [1.75, 2.5, 3.25] });
});

it('scales with round ticks, by powers of ten where values lie far apart', () => {
  const straight = valueScale([0.2, 0.93]);
  expect(straight.ticks.map((tick) => Number(tick.toFixed(6)))).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1]);
  expect(straight.place(0.5)).toBeCloseTo(0.5);
  const powers = valueScale([0.01, 5]);
  expect(powers.ticks).toHaveLength(4); // 0.01, 0.1, 1, 10
  expect(powers.place(0.1)).toBeCloseTo(1 / 3);
  expect(valueScale([0.4], [0, 1]).place(1)).toBeCloseTo(1);
  expect(valueScale([0, 0]).place(0)).toBe(0);
});

it('draws series in different colours', async () => {
  const points = (from: number) => [1, 2, 3].map((step) => ({ step: step + from, value: spread([step, step + 1]) }));
  const plot = { title: 't', label: 'l' };
  const one = drawStepPlot({ ...plot, series: [{ name: 'a', points: points(0) }] });
  const two = drawStepPlot({
    ...plot,
    series: [
      { name: 'a', points: points(0) },
      { name: 'b', points: points(3) },
    ],
  });
  expect(one.equals(two)).toBe(false);
  const image = await loadImage(two);
  expect([image.width, image.height]).toEqual([900, 480]);
});
