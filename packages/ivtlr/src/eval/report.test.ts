import { describe, expect, it } from 'vitest';
import { type EvalResult, groupTable, resultTable, toReport, wilsonInterval } from './report.ts';
import { Tally } from './tally.ts';

describe('wilsonInterval', () => {
  it('gives the published values', () => {
    // Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29.
    const cases: [number, number, number, number][] = [
      [81, 263, 0.2553, 0.3662],
      [15, 148, 0.0624, 0.1605],
      [0, 20, 0, 0.1611],
      [1, 29, 0.0061, 0.1718],
    ];
    for (const [correct, total, low, high] of cases) {
      const [a, b] = wilsonInterval(correct, total);
      expect(a).toBeCloseTo(low, 4);
      expect(b).toBeCloseTo(high, 4);
    }
  });

  it('says nothing about no samples', () => {
    expect(wilsonInterval(0, 0)).toEqual([0, 1]);
  });
});

describe('tables', () => {
  const result: EvalResult = {
    name: 'full',
    samples: 200,
    correctStrict: 199,
    correctOfficial: 200,
    latentSteps: 3,
    generatedTokens: 11,
    autoregressiveSteps: 14,
    secondsPerSample: 0.0123,
  };

  it('shows accuracy beside steps', () => {
    const { columns, rows } = resultTable([result, { ...result, name: 'zero latents', correctStrict: 50 }]);
    expect(rows[0]).toEqual(['full', '0.995', '0.972-0.999', '1.000', '14.0', '3.0 + 11.0', '12.3', '200']);
    expect(rows[1]!.slice(0, 2)).toEqual(['zero latents', '0.250']);
    expect(columns).toHaveLength(8);
    expect(resultTable([{ ...result, pickAccuracy: 0.5 }]).columns.at(-1)).toBe('picks right');
  });

  it('adds ratios for JSON', () => {
    expect(toReport(result)).toMatchObject({ accuracyStrict: 0.995, accuracyOfficial: 1, autoregressiveSteps: 14 });
    expect(toReport({ ...result, samples: 0, correctStrict: 0 }).accuracyStrict).toBe(0);
  });

  it('shows groups by both scorers, largest first', () => {
    const tally = new Tally();
    const one = { latentSteps: 3, generatedTokens: 5, seconds: 0.1, picks: { named: 2, right: 1 } };
    tally.add({ ...one, strict: true, official: true, groups: { domain: 'science', topic: '' } });
    tally.add({ ...one, strict: false, official: true, groups: { domain: 'science', topic: '' } });
    tally.add({ ...one, strict: false, official: false, groups: { domain: 'arts', topic: '' } });
    const grouped = tally.result('full');
    expect(grouped).toMatchObject({ samples: 3, correctStrict: 1, correctOfficial: 2, pickAccuracy: 0.5 });
    const table = groupTable([grouped])!;
    expect(table.rows).toEqual([
      ['domain', 'science', '0.500', '0.095-0.905', '1.000', '0.342-1.000', '2'],
      ['domain', 'arts', '0.000', '0.000-0.793', '0.000', '0.000-0.793', '1'],
    ]);
    expect(toReport(grouped).groups!.domain![0]).toMatchObject({ group: 'science', accuracyStrict: 0.5 });
    expect(groupTable([grouped, { ...grouped, name: 'other' }])!.rows[2]![0]).toBe('other');
    expect(groupTable([result])).toBeNull();
  });
});
