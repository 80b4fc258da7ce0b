/** What every task turns its rows into, before any model family is involved. */

/** A picture as it comes from a file (`encoded`: PNG, JPEG, ...) or from a generator (`rgb`). */
export type RawImage =
  | {
      kind: 'rgb';
      width: number;
      height: number;
      /** height * width * 3 values, row by row, R G B. */
      data: Uint8Array;
    }
  | {
      kind: 'encoded';
      bytes: Uint8Array;
      /** Where the bytes came from, for error messages. */
      name: string;
    };

/** One multiple-choice question about one picture. */
export interface Sample {
  id: string;
  image: RawImage;
  question: string;
  choices: string[];
  /** Written reasoning as the data set gives it; `splitSteps` cuts it into steps. */
  rationale: string;
  /** The gold answer as the model should write it: a letter ('B'), or what the data set's convention is. */
  answer: string;
  /** Per rationale step (before merging): image tokens (row-major over the merged grid) the step looks at, where a task knows them. */
  pickTargets?: number[][];
  /** Anything reports group by, such as domain and topic. */
  meta: Record<string, string>;
}

/** A training text that is no question: pieces of text, some of them predicted. Used before the stages to teach a model to see and read. */
export interface SupervisedSample {
  image?: RawImage;
  segments: { text: string; loss: boolean }[];
}
