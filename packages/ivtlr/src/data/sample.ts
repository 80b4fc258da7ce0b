/** What every task turns its rows into, before any model family is involved. */

import type { RawImage } from '../vision/image.ts';

export type { RawImage };

/** One multiple-choice question, about one image or several, or none. */
export interface Sample {
  id: string;
  /** In the order in which the prompt shows them. */
  images: RawImage[];
  question: string;
  choices: string[];
  /** Written reasoning as the data set gives it; `splitSteps` cuts it into steps. */
  rationale: string;
  /** The gold answer as the model should write it: a letter ('B'), or what the data set's convention is. */
  answer: string;
  /** Per rationale step (before merging): cells of `pickGrid` (row-major, those of a second image behind those of the first; without it image tokens) the step looks at, where a task knows them. */
  pickTargets?: number[][];
  /** Rows and columns of equal cells that `pickTargets` cuts every whole image into. Models see it through grids of their own: `pickTargetTokens`. */
  pickGrid?: readonly [number, number];
  /** What the reasoning has found out after each of its steps (before merging), where a task knows it. */
  carried?: CarriedValues;
  /** Anything reports group by, such as domain and topic. */
  meta: Record<string, string>;
}

/** A value that each step of a reasoning hands to the next one. */
export interface CarriedValues {
  /** Per rationale step, the value after it. */
  targets: readonly string[];
  /** All values that there can be; each ends with a token of its own. */
  values: readonly string[];
}

/** Training samples by place in the epoch; the same arguments must give the same sample in every process. */
export interface SampleSource {
  samplesPerEpoch: number;
  sample(epoch: number, place: number): Promise<Sample>;
}

/** A training text that is no question: pieces of text, some of them predicted. Used before the stages to teach a model to see and read. */
export interface SupervisedSample {
  image?: RawImage;
  segments: { text: string; loss: boolean }[];
}
