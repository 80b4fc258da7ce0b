/** What a task is: rows in, questions out, answers judged. Models and prompts are no part of it. */
import type { Row } from '../data/row.ts';
import type { Sample, SupervisedSample } from '../data/sample.ts';

export const SPLITS = ['train', 'validation', 'test'] as const;
export type Split = (typeof SPLITS)[number];

/** What a model made of a sample, as texts without special tokens. */
export interface Answered {
  prompt: string;
  generated: string;
}

export interface Score {
  /** Right by the official code's rule, which looks at prompt and output and may count several answers. */
  official: boolean;
  /** Right by ours: the generated text alone, one answer, which must be one of the offered choices. */
  strict: boolean;
  /** The answer the strict rule read, null when there is none or more than one. */
  predicted: string | null;
}

/** An answered sample as a prediction file sees it. */
export interface Prediction {
  sample: Sample;
  /** Row in its split, rows without an image counted too. */
  index: number;
  answered: Answered;
}

/** All that the texts of a task are made of. */
export interface Vocabulary {
  /** Pieces of a prompt's frame, longer before shorter where one begins like the other. */
  frame: readonly string[];
  /** Words, digits and punctuation marks. */
  words: readonly string[];
}

/** Draws samples at will; each is a pure function of its arguments. */
export interface SampleGenerator {
  sample(seed: number, split: Split, index: number): Sample;
  /** What a model that starts from random weights has to know. */
  vocabulary: Vocabulary;
  /** Texts for the time before stage 0, by name. `level` sets the difficulty; without it a text is as hard as the task's own samples. */
  pretraining: Readonly<
    Record<string, (seed: number, split: Split, index: number, level?: number) => SupervisedSample>
  >;
}

export interface Task {
  readonly name: string;
  /** Columns a question cannot do without; a file that lacks one is refused. */
  readonly columns: readonly string[];
  /** Needed besides to train: the written reasoning. Null where a file that is only answered lacks them. */
  readonly trainingColumns: readonly string[];
  /** Read where they are there, null where they are not. */
  readonly optionalColumns: readonly string[];
  /**
   * One row of a data file as a sample, or null when the row has no image.
   * @param row the columns above; `images` is a list of RawImage, or null when the row has none; `image` is its first.
   * @param place file and row, for error messages.
   * @param index of the row in its split, rows without an image counted too.
   * @throws UserError naming place and column when the row is unusable.
   */
  rowToSample(row: Row, place: string, index: number): Sample | null;
  score(sample: Sample, answered: Answered): Score;
  /** What a report groups the sample by: name of the grouping -> group. */
  groups(sample: Sample): Record<string, string>;
  /** The contents of a prediction file in the official code's form for this task. */
  officialPredictions(predictions: readonly Prediction[]): string;
  /** Present when the task can make its own samples. */
  readonly generator?: SampleGenerator;
}
