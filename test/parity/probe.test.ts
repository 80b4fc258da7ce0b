/** The probes of `ivtlr analyze --probe` against scikit-learn; see README.md for the golden. */
import { liveTensorCount, setNumThreads } from '@ivtlr/torch';
import { afterEach, expect, test } from 'vitest';
import { PENALTIES, ridgeClassify } from '../../packages/ivtlr/src/eval/ridge-classifier.ts';
import { readGolden } from './model.ts';

interface Case {
  name: string;
  train: number[][];
  labels: string[];
  test: number[][];
  penalty: number;
  predicted: string[];
}

setNumThreads(1);
const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));
const { penalties, cases } = readGolden<{ penalties: number[]; cases: Case[] }>('probe.json');

test('the same penalties are tried', () => expect(PENALTIES).toEqual(penalties));

test.each(cases)('$name', ({ train, labels, test: tested, penalty, predicted }) => {
  const fit = ridgeClassify(train, labels, tested);
  expect(fit.penalty).toBe(penalty);
  expect(fit.predicted.map((index) => fit.classes[index])).toEqual(predicted);
});
