/** Dominoes: follow a chain of colours through an image. Small enough to train from scratch, and each hop needs another look. */
import type { Sample } from '../../data/sample.ts';
import { m3cot, m3cotSample } from '../m3cot/m3cot.ts';
import type { Task } from '../task.ts';
import {
  checkOptions,
  DEFAULT_OPTIONS,
  type DominoesOptions,
  dominoesSample,
  imageReading,
  optionReading,
  parseSampleId,
} from './generator.ts';
import { DOMINOES_VOCABULARY } from './vocabulary.ts';

/** The task with its generator set to a size. Files of any size can be read whatever the options. */
export function createDominoes(options: Partial<DominoesOptions> = {}): Task {
  const size = checkOptions(options);
  return {
    ...m3cot,
    name: 'dominoes',
    rowToSample(row, place, index) {
      const sample = m3cotSample(row, place, index);
      if (sample) addTargets(sample);
      return sample;
    },
    groups: ({ meta }) => ({ topic: meta.topic ?? '' }),
    generator: {
      vocabulary: DOMINOES_VOCABULARY,
      sample: (seed, split, index) => dominoesSample(seed, split, index, size),
      pretraining: {
        picture: (seed, split, index, level = size.dominoes) => imageReading(seed, split, index, level),
        options: (seed, split, index) => optionReading(seed, split, index),
      },
    },
  };
}

export const dominoes = createDominoes(DEFAULT_OPTIONS);

/** M3CoT's schema has no place for the cells a step looks at, nor for what it hands on; drawing the sample again from its id gives them back. */
function addTargets(sample: Sample): void {
  const source = parseSampleId(sample.id);
  if (!source) return;
  const drawn = dominoesSample(source.seed, source.split, source.index, source.options);
  // A file made by another version may hold other samples under the same ids; wrong targets would be worse than none.
  const same = drawn.rationale === sample.rationale && drawn.choices.join() === sample.choices.join();
  const { pickTargets, pickGrid, carried } = drawn;
  if (same) Object.assign(sample, { pickTargets, pickGrid, carried });
}
