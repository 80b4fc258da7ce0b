/**
 * Relay: follow dominoes through an image with a digit in hand that some of them replace. What a step has found out must reach the next one, so a
 * model whose latent steps remember nothing else (`latentMemory: last`) has to carry it in its latent text.
 */
import { imagesOfRow, type Row, shorten, textField } from '../../data/row.ts';
import type { Sample } from '../../data/sample.ts';
import { UserError } from '../../errors.ts';
import { m3cot } from '../m3cot/m3cot.ts';
import { strictAnswer } from '../scorers.ts';
import type { Answered, Score, Task } from '../task.ts';
import {
  checkOptions,
  digitReading,
  imageReading,
  parseSampleId,
  type RelayOptions,
  relaySample,
} from './generator.ts';
import { RELAY_VOCABULARY } from './vocabulary.ts';

/** The task with its generator's dials set. Files of any dials can be read whatever the options. */
export function createRelay(name: string, options: Partial<RelayOptions> = {}): Task {
  const dials = checkOptions(options);
  return {
    ...m3cot,
    name,
    columns: ['question', 'answer', 'image'],
    rowToSample: relayRow,
    score: scoreDigit,
    groups: ({ meta }) => ({ topic: meta.topic ?? '' }),
    generator: {
      vocabulary: RELAY_VOCABULARY,
      sample: (seed, split, index) => relaySample(seed, split, index, dials),
      pretraining: {
        picture: (seed, split, index, level = dials.dominoes) => imageReading(seed, split, index, level, dials),
        digits: (seed, split, index) => digitReading(seed, split, index, undefined, dials),
      },
    },
  };
}

export const relay = createRelay('relay');
/** Dots are added to the digit in hand instead of replacing it. */
export const relayAdd = createRelay('relay-add', { rule: 'add', share: 0.75 });
/** Six hops instead of three. */
export const relay6 = createRelay('relay-6', { hops: 6 });

/** A row of a file in M3CoT's schema whose answer is a digit and which has no choices; null without image. */
function relayRow(row: Row, place: string, index: number): Sample | null {
  const images = imagesOfRow(row, place);
  if (!images) return null;
  const answer = textField(row, 'answer', place);
  if (!/^[1-9]$/.test(answer))
    throw new UserError(
      `${place}, column answer: should be a digit from 1 to 9, but is ${JSON.stringify(shorten(answer))}`,
    );
  const sample: Sample = {
    id: textField(row, 'id', place, `row-${index}`),
    images,
    question: textField(row, 'question', place),
    choices: [],
    rationale: textField(row, 'rationale', place, ''),
    answer,
    meta: { domain: textField(row, 'domain', place, ''), topic: textField(row, 'topic', place, '') },
  };
  addTargets(sample);
  return sample;
}

/** M3CoT's schema has no place for the cells a step looks at, nor for what it hands on; drawing the sample again from its id gives them back. */
function addTargets(sample: Sample): void {
  const source = parseSampleId(sample.id);
  if (!source) return;
  const drawn = relaySample(source.seed, source.split, source.index, source.options);
  // A file made by another version may hold other samples under the same ids; wrong targets would be worse than none.
  const same = drawn.rationale === sample.rationale && drawn.question === sample.question;
  const { pickTargets, pickGrid, carried } = drawn;
  if (same) Object.assign(sample, { pickTargets, pickGrid, carried });
}

/** Strict: the one digit after "answer is". The official code does not know the task; its rule for letters, which looks at all of them, is applied to digits. */
function scoreDigit({ answer, choices }: Sample, { generated }: Answered): Score {
  const predicted = strictAnswer(generated, { answer, choices });
  const named = [...generated.matchAll(/the\s+answer\s+is\s*(\d)/gi)].map((match) => match[1]);
  return { official: named.includes(answer), strict: predicted === answer, predicted };
}
