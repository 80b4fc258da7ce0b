/**
 * Questions about dominoes, drawn at will. A domino's right colour names the next one's left colour, and all dominoes of an image form one
 * cycle, so following a chain takes one look at the image per hop. Every sample is a pure function of (seed, split, index, options).
 */
import type { RawImage, Sample, SupervisedSample } from '../../data/sample.ts';
import { UserError } from '../../errors.ts';
import { Random } from '../../random.ts';
import { choiceLetter } from '../../text/prompt.ts';
import { SPLITS, type Split } from '../task.ts';
import { COLOURS, drawImage, GRID, IMAGE_SIDE, type PlacedDomino } from './image.ts';

export interface DominoesOptions {
  /** Dominoes to follow from the first colour to the answer. */
  hops: number;
  /** Dominoes in the image, at least one more than hops. */
  dominoes: number;
}

export const DEFAULT_OPTIONS: DominoesOptions = { hops: 3, dominoes: 7 };

const CELLS = GRID * GRID;
const NAMES = COLOURS.map(([name]) => name);
const CHOICES = 4;

/** The first words of a stream's key, so that no two kinds of sample share random numbers. */
const STREAM = { question: 1, letters: 2, image: 3, options: 4 };

/** A cycle of dominoes: domino i shows colours i and i+1 of `colours`. */
interface Cycle {
  colours: number[];
  cells: number[];
}

/** @throws UserError when no question can be asked with these options. */
export function checkOptions(options: Partial<DominoesOptions> = {}): DominoesOptions {
  const { hops = DEFAULT_OPTIONS.hops, dominoes = DEFAULT_OPTIONS.dominoes } = options;
  if (!Number.isInteger(hops) || hops < 1 || hops > COLOURS.length - 1) {
    throw new UserError(`dominoes: hops should be a whole number from 1 to ${COLOURS.length - 1}, not ${hops}`);
  }
  if (!Number.isInteger(dominoes) || dominoes <= hops || dominoes > COLOURS.length) {
    throw new UserError(
      `dominoes: the number of dominoes should be from ${hops + 1} (hops + 1) to ${COLOURS.length}, not ${dominoes}`,
    );
  }
  return { hops, dominoes };
}

/** Sample `index` of a seed and split. Of every four neighbouring samples each has another answer letter. */
export function dominoesSample(
  seed: number,
  split: Split,
  index: number,
  options: DominoesOptions = DEFAULT_OPTIONS,
): Sample {
  const { hops, dominoes } = options;
  const splitIndex = SPLITS.indexOf(split);
  const random = new Random(STREAM.question, seed, splitIndex, index);
  const colours = random.permutation(COLOURS.length);
  const cells = random.permutation(CELLS).slice(0, dominoes);
  const name = (place: number) => NAMES[colours[place]!]!;
  const letters = new Random(STREAM.letters, seed, splitIndex, Math.floor(index / CHOICES)).permutation(CHOICES);
  const letter = letters[index % CHOICES]!;
  const choices = distractors(hops, dominoes, random).map(name);
  choices.splice(letter, 0, name(hops));
  const steps = Array.from({ length: hops }, (_, hop) => `${name(hop)} to ${name(hop + 1)}`);
  steps.push(`${name(hops)} is ${choiceLetter(letter)}`);
  return {
    id: sampleId(seed, split, index, options),
    images: [image({ colours: colours.slice(0, dominoes), cells }, random)],
    question: `Start at ${name(0)}, follow ${hops} ${hops === 1 ? 'domino' : 'dominoes'}: which colour?`,
    choices,
    rationale: steps.join('. '),
    answer: choiceLetter(letter),
    pickTargets: cells.slice(0, hops + 1).map((cell) => [cell]),
    pickGrid: [GRID, GRID],
    carried: {
      targets: [...Array.from({ length: hops }, (_, hop) => name(hop + 1)), choiceLetter(letter)],
      values: [...NAMES, ...Array.from({ length: CHOICES }, (_, i) => choiceLetter(i))],
    },
    meta: { domain: 'dominoes', topic: `${hops} hops`, category: `${dominoes} dominoes`, split },
  };
}

/**
 * Three wrong answers as places in the colour order, shuffled: one colour on the way, the rest later than the answer. Places beyond the
 * dominoes name colours the image does not show; they serve only when it shows too few.
 */
function distractors(hops: number, dominoes: number, random: Random): number[] {
  const onTheWay = random.shuffle(places(1, hops));
  const later = random.shuffle(places(hops + 1, dominoes));
  const absent = random.shuffle(places(dominoes, COLOURS.length));
  const chosen = onTheWay.splice(0, 1);
  // With 7 hops hardly anything comes later, so further colours on the way fill up.
  chosen.push(...[...later, ...absent, ...onTheWay].slice(0, CHOICES - 1 - chosen.length));
  return random.shuffle(chosen);
}

/** Teaches to see: an image of `dominoes` dominoes and a line for each in random order; the far colour of each line is predicted. */
export function imageReading(seed: number, split: Split, index: number, dominoes: number): SupervisedSample {
  if (!Number.isInteger(dominoes) || dominoes < 1 || dominoes > COLOURS.length) {
    throw new UserError(`dominoes: an image should have 1 to ${COLOURS.length} dominoes, not ${dominoes}`);
  }
  const random = new Random(STREAM.image, seed, SPLITS.indexOf(split), index);
  const cycle = {
    colours: random.permutation(COLOURS.length).slice(0, dominoes),
    cells: random.permutation(CELLS).slice(0, dominoes),
  };
  const drawn = image(cycle, random);
  const segments = random.permutation(dominoes).flatMap((place) => [
    { text: `${NAMES[cycle.colours[place]!]} to `, loss: false },
    { text: NAMES[cycle.colours[(place + 1) % dominoes]!]!, loss: true },
    { text: '\n', loss: false },
  ]);
  return { image: drawn, segments };
}

/** Teaches to read: options and `lines` lines "colour is letter", drawn with replacement; the letters are predicted. */
export function optionReading(seed: number, split: Split, index: number, lines = 8): SupervisedSample {
  const random = new Random(STREAM.options, seed, SPLITS.indexOf(split), index);
  const colours = random.permutation(COLOURS.length).slice(0, CHOICES);
  const options = colours.map((colour, place) => `(${choiceLetter(place)}).{${NAMES[colour]}}\n`).join('');
  const segments = [{ text: `}\n[Options]:\n${options}Answer:\n`, loss: false }];
  for (let line = 0; line < lines; line++) {
    const place = random.below(CHOICES);
    segments.push(
      { text: `${NAMES[colours[place]!]} is `, loss: false },
      { text: choiceLetter(place), loss: true },
      { text: '\n', loss: false },
    );
  }
  return { segments };
}

/** Name of a sample; `parseSampleId` gives back what it was drawn from. */
function sampleId(seed: number, split: Split, index: number, { hops, dominoes }: DominoesOptions): string {
  return `dominoes-${split}-seed${seed}-hops${hops}-of${dominoes}-${index}`;
}

/** What a sample id was made from, or null when it is none of ours. */
export function parseSampleId(
  id: string,
): { seed: number; split: Split; index: number; options: DominoesOptions } | null {
  const match = /^dominoes-(train|validation|test)-seed(\d+)-hops(\d+)-of(\d+)-(\d+)$/.exec(id);
  if (!match) return null;
  const [, split, seed, hops, dominoes, index] = match;
  const options = { hops: Number(hops), dominoes: Number(dominoes) };
  return { seed: Number(seed), split: split as Split, index: Number(index), options };
}

function image({ colours, cells }: Cycle, random: Random): RawImage {
  const dominoes: PlacedDomino[] = cells.map((cell, place) => ({
    cell,
    left: colours[place]!,
    right: colours[(place + 1) % colours.length]!,
  }));
  return { kind: 'rgb', width: IMAGE_SIDE, height: IMAGE_SIDE, data: drawImage(dominoes, random) };
}

function places(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from) }, (_, index) => from + index);
}
