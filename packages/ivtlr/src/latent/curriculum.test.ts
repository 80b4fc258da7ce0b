import { expect, test } from 'vitest';
import { curriculum, stageOf } from './curriculum.ts';

const options = { maxLatentStage: 3, padLatentToMax: true };

test('up to the last stage one more step is dropped each time, however many steps the sample has', () => {
  expect([0, 1, 2, 3].map((stage) => curriculum(stage, options, 2))).toEqual([
    { latentSteps: 0, droppedSteps: 0 },
    { latentSteps: 1, droppedSteps: 1 },
    { latentSteps: 2, droppedSteps: 2 },
    { latentSteps: 3, droppedSteps: 3 },
  ]);
});

test('beyond the last stage every step is dropped', () => {
  expect(curriculum(4, options, 7)).toEqual({ latentSteps: 3, droppedSteps: 7 });
  expect(curriculum(4, options, 2)).toEqual({ latentSteps: 3, droppedSteps: 2 });
  const unpadded = { ...options, padLatentToMax: false };
  expect(curriculum(9, unpadded, 2)).toEqual({ latentSteps: 2, droppedSteps: 2 });
  expect(curriculum(9, unpadded, 7)).toEqual({ latentSteps: 3, droppedSteps: 7 });
});

test('stages follow epochs', () => {
  expect([0, 3, 4, 15, 20].map((epoch) => stageOf(epoch, 4))).toEqual([0, 0, 1, 3, 5]);
  expect([0, 1, 2, 3, 4, 9].map((epoch) => stageOf(epoch, [2, 1, 1, 1]))).toEqual([0, 0, 1, 2, 3, 3]);
  expect([0, 1, 2].map((epoch) => stageOf(epoch, [0, 0, 2, 1]))).toEqual([2, 2, 3]);
});

test('a stage is a whole number', () => {
  expect(() => curriculum(-1, options, 1)).toThrow(RangeError);
  expect(() => curriculum(0.5, options, 1)).toThrow(RangeError);
});
