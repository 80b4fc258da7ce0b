import { describe, expect, it } from 'vitest';
import { pairedBootstrap, quantile } from './bootstrap.ts';

describe('quantile', () => {
  it('draws straight lines between sorted numbers', () => {
    expect(quantile([1, 2, 3, 4], 0.25)).toBe(1.75); // R: quantile(1:4, .25)
    expect(quantile([1, 2, 3, 4], 1)).toBe(4);
    expect(quantile([7], 0.3)).toBe(7);
    expect(quantile([], 0.5)).toBeNaN();
  });
});

describe('pairedBootstrap', () => {
  // 30 lost, 10 gained of 200: mean -0.1, standard error sqrt((40/200 - 0.01) / 200) = 0.0308.
  const differences = Array.from({ length: 200 }, (_, i) => (i < 30 ? -1 : i < 40 ? 1 : 0));

  it('agrees with the normal interval where that holds', () => {
    const [low, high] = pairedBootstrap(differences, { seed: 1 });
    expect(low).toBeCloseTo(-0.1 - 1.96 * 0.0308, 1);
    expect(high).toBeCloseTo(-0.1 + 1.96 * 0.0308, 1);
    expect(Math.abs(low + 0.1604)).toBeLessThan(0.01);
    expect(Math.abs(high + 0.0396)).toBeLessThan(0.01);
  });

  it('is fixed by its seed, and narrower at a lower level', () => {
    expect(pairedBootstrap(differences, { seed: 1 })).toEqual(pairedBootstrap(differences, { seed: 1 }));
    const [low, high] = pairedBootstrap(differences, { seed: 1, level: 0.5 });
    const [wideLow, wideHigh] = pairedBootstrap(differences, { seed: 1 });
    expect(low).toBeGreaterThan(wideLow);
    expect(high).toBeLessThan(wideHigh);
  });

  it('has no width without differences', () => {
    expect(pairedBootstrap([0, 0, 0])).toEqual([0, 0]);
    expect(pairedBootstrap([])[0]).toBeNaN();
  });
});
