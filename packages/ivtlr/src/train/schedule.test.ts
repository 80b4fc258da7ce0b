import { describe, expect, it } from 'vitest';
import { learningRate, planRun, positionOf } from './schedule.ts';

const stages = [0, 0, 1, 2, 2];
const plan = planRun([{ name: 'describe', steps: 7 }], 5, 3, (epoch) => stages[epoch]!);

describe('planRun', () => {
  it('puts pretrain phases first and joins epochs of one stage', () => {
    expect(plan.totalSteps).toBe(7 + 15);
    expect(plan.phases.map((p) => [p.name, p.start, p.steps, p.firstEpoch])).toEqual([
      ['describe', 0, 7, 0],
      ['stage-0', 7, 6, 0],
      ['stage-1', 13, 3, 2],
      ['stage-2', 16, 6, 3],
    ]);
  });

  it('finds every step exactly once, in order', () => {
    const seen: string[] = [];
    for (let step = 0; step < plan.totalSteps; step++) {
      const p = positionOf(plan, step);
      expect(p.phase.start + p.phaseStep).toBe(step);
      if (p.epochEnd) seen.push(`e${p.epoch}`);
      if (p.phaseEnd) seen.push(p.phase.name);
    }
    expect(seen).toEqual(['describe', 'e0', 'e1', 'stage-0', 'e2', 'stage-1', 'e3', 'e4', 'stage-2']);
    expect(() => positionOf(plan, plan.totalSteps)).toThrow(RangeError);
  });
});

describe('learningRate', () => {
  it('warms up only with a fresh optimiser and decays to its floor', () => {
    const o = { warmupSteps: 4, decayFrom: 0.5, decayTo: 0.1 };
    expect(learningRate(1, o, 0, 100, true)).toBeCloseTo(0.25);
    expect(learningRate(1, o, 0, 100, false)).toBe(1);
    expect(learningRate(1, o, 50, 100, true)).toBe(1);
    expect(learningRate(1, o, 75, 100, true)).toBeCloseTo(0.55);
    expect(learningRate(1, o, 99, 100, true)).toBeCloseTo(0.118);
  });

  it('is constant by default', () => {
    const o = { warmupSteps: 0, decayFrom: 0, decayTo: 1 };
    for (const step of [0, 5, 9]) expect(learningRate(4e-5, o, step, 10, true)).toBe(4e-5);
  });
});
