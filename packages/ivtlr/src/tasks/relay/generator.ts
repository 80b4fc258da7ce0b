/**
 * Questions about dominoes with dots, drawn at will. They are followed by colour as in the task dominoes, with a digit in hand: dots above a domino
 * take its place, a domino without dots leaves it. Which digit is it at the end? Neither the first digit nor the last domino says so: the last
 * one that is followed never has dots, and some earlier one does, each of them being the last such one equally often. By another rule dots are added
 * to the digit, which starts again at 1 beyond the largest one; then no domino can be left out. Every sample is a pure function of (seed, split, index, dials).
 */
import type { RawImage, Sample, SupervisedSample } from '../../data/sample.ts';
import { UserError } from '../../errors.ts';
import { Random } from '../../random.ts';
import { COLOURS, GRID, IMAGE_SIDE } from '../dominoes/image.ts';
import { SPLITS, type Split } from '../task.ts';
import { drawImage, MOST_DOTS } from './image.ts';

export interface RelayOptions {
  /** Dominoes to follow. */
  hops: number;
  /** Dominoes in the image, at least as many as hops. They form one cycle. */
  dominoes: number;
  /** How likely a domino has dots, where the question does not say whether it has. */
  share: number;
  /** Digits are 1 to this; a domino has none or so many dots. */
  digits: number;
  /** What dots do to the digit in hand. */
  rule: Rule;
}

export const RULES = ['replace', 'add'] as const;
export type Rule = (typeof RULES)[number];

export const DEFAULT_OPTIONS: RelayOptions = { hops: 3, dominoes: 7, share: 0.5, digits: 4, rule: 'replace' };

const CELLS = GRID * GRID;
const NAMES = COLOURS.map(([name]) => name);

/** The first words of a stream's key, so that no two kinds of sample share random numbers, with dominoes neither. */
const STREAM = { question: 11, answers: 12, image: 13, digits: 14 };

/** A cycle of dominoes: domino i shows colours i and i+1 of `colours` and has `dots[i]` dots. */
interface Cycle {
  colours: number[];
  cells: number[];
  dots: number[];
}

/** @throws UserError when no question can be asked with these dials. */
export function checkOptions(options: Partial<RelayOptions> = {}): RelayOptions {
  const { hops = DEFAULT_OPTIONS.hops, share = DEFAULT_OPTIONS.share, digits = DEFAULT_OPTIONS.digits } = options;
  const { rule = DEFAULT_OPTIONS.rule } = options;
  const { dominoes = Math.max(DEFAULT_OPTIONS.dominoes, hops) } = options;
  const whole = (name: string, value: number, least: number, most: number) => {
    if (!Number.isInteger(value) || value < least || value > most)
      throw new UserError(`relay: ${name} should be a whole number from ${least} to ${most}, not ${value}`);
  };
  whole('hops', hops, 2, COLOURS.length);
  whole('dominoes', dominoes, hops, COLOURS.length);
  whole('digits', digits, 2, MOST_DOTS);
  if (!(share >= 0 && share <= 1))
    throw new UserError(`relay: the share of dominoes with dots should be from 0 to 1, not ${share}`);
  if (!RULES.includes(rule)) throw new UserError(`relay: the rule should be ${RULES.join(' or ')}, not ${rule}`);
  return { hops, dominoes, share, digits, rule };
}

/** Sample `index` of a seed and split. Of so many neighbouring samples as there are digits each has another answer. */
export function relaySample(
  seed: number,
  split: Split,
  index: number,
  options: RelayOptions = DEFAULT_OPTIONS,
): Sample {
  const { hops, dominoes, digits, rule } = options;
  const splitIndex = SPLITS.indexOf(split);
  const random = new Random(STREAM.question, seed, splitIndex, index);
  const colours = random.permutation(COLOURS.length).slice(0, dominoes);
  const cells = random.permutation(CELLS).slice(0, dominoes);
  const dots = cells.map(() => drawDots(random, options));
  const answers = new Random(STREAM.answers, seed, splitIndex, Math.floor(index / digits)).permutation(digits);
  const answer = answers[index % digits]! + 1;
  const first = 1 + random.below(digits);
  if (rule === 'replace') {
    // Whichever domino decides, but the last one, it is equally likely: a single look finds it in one of hops - 1 cases.
    const deciding = random.below(hops - 1);
    dots[deciding] = answer;
    dots.fill(0, deciding + 1, hops);
  } else {
    // What the others leave over is the first domino's, so that all of them are drawn alike and the answers are dealt out.
    const others = dots.slice(1, hops).reduce((sum, number) => sum + number, first);
    dots[0] = (((answer - others) % digits) + digits) % digits;
  }
  const name = (place: number) => NAMES[colours[place % dominoes]!]!;
  const carried: string[] = [];
  let digit = first;
  const steps = Array.from({ length: hops }, (_, hop) => {
    digit = afterDots(digit, dots[hop]!, options);
    carried.push(String(digit));
    return `${name(hop)} to ${name(hop + 1)} plus ${dots[hop]} is ${digit}`;
  });
  return {
    id: sampleId(seed, split, index, options),
    images: [image({ colours, cells, dots }, random)],
    question: `Start at ${name(0)} with ${first}, follow ${hops} dominoes: which digit?`,
    choices: [],
    rationale: steps.join('. '),
    answer: String(answer),
    pickTargets: cells.slice(0, hops).map((cell) => [cell]),
    pickGrid: [GRID, GRID],
    carried: { targets: carried, values: Array.from({ length: digits }, (_, i) => String(i + 1)) },
    meta: { domain: 'relay', topic: `${hops} hops`, category: `${dominoes} dominoes`, split },
  };
}

/** Teaches to see: an image of `dominoes` dominoes and a line for each in random order; far colour and dots of each line are predicted. */
export function imageReading(
  seed: number,
  split: Split,
  index: number,
  dominoes: number,
  options: RelayOptions = DEFAULT_OPTIONS,
): SupervisedSample {
  if (!Number.isInteger(dominoes) || dominoes < 1 || dominoes > COLOURS.length) {
    throw new UserError(`relay: an image should have 1 to ${COLOURS.length} dominoes, not ${dominoes}`);
  }
  const random = new Random(STREAM.image, seed, SPLITS.indexOf(split), index);
  const colours = random.permutation(COLOURS.length).slice(0, dominoes);
  const cells = random.permutation(CELLS).slice(0, dominoes);
  const dots = cells.map(() => drawDots(random, options));
  const drawn = image({ colours, cells, dots }, random);
  const segments = random.permutation(dominoes).flatMap((place) => [
    { text: `${NAMES[colours[place]!]} to `, loss: false },
    { text: NAMES[colours[(place + 1) % dominoes]!]!, loss: true },
    { text: ' plus ', loss: false },
    { text: String(dots[place]), loss: true },
    { text: '\n', loss: false },
  ]);
  return { image: drawn, segments };
}

/** Teaches what dots do to a digit: `lines` lines such as "2 plus 0 is 2" and "2 plus 3 is 3", whose last digit is predicted. */
export function digitReading(
  seed: number,
  split: Split,
  index: number,
  lines = 6,
  options: RelayOptions = DEFAULT_OPTIONS,
): SupervisedSample {
  const random = new Random(STREAM.digits, seed, SPLITS.indexOf(split), index);
  const segments = Array.from({ length: lines }, () => {
    const digit = 1 + random.below(options.digits);
    const dots = drawDots(random, options);
    return [
      { text: `${digit} plus ${dots} is `, loss: false },
      { text: String(afterDots(digit, dots, options)), loss: true },
      { text: '\n', loss: false },
    ];
  });
  return { segments: segments.flat() };
}

/** As many dots as digits would add nothing, so there are fewer where dots are added. */
function drawDots(random: Random, { share, digits, rule }: RelayOptions): number {
  return random.between(0, 1) < share ? 1 + random.below(rule === 'add' ? digits - 1 : digits) : 0;
}

function afterDots(digit: number, dots: number, { digits, rule }: RelayOptions): number {
  if (rule === 'add') return ((digit + dots - 1) % digits) + 1;
  return dots || digit;
}

/** Name of a sample; `parseSampleId` gives back what it was drawn from. */
function sampleId(seed: number, split: Split, index: number, options: RelayOptions): string {
  const { hops, dominoes, share, digits, rule } = options;
  const added = rule === 'add' ? '-add' : '';
  return `relay-${split}-seed${seed}-hops${hops}-of${dominoes}-share${share}-digits${digits}${added}-${index}`;
}

/** What a sample id was made from, or null when it is none of ours. */
export function parseSampleId(id: string): { seed: number; split: Split; index: number; options: RelayOptions } | null {
  const match =
    /^relay-(train|validation|test)-seed(\d+)-hops([2-8])-of([2-8])-share([01](?:\.\d+)?)-digits([2-4])(-add)?-(\d+)$/.exec(
      id,
    );
  if (!match) return null;
  const [, split, seed, hops, dominoes, share, digits, added, index] = match;
  const options: RelayOptions = {
    ...{ hops: Number(hops), dominoes: Number(dominoes), share: Number(share), digits: Number(digits) },
    rule: added ? 'add' : 'replace',
  };
  return { seed: Number(seed), split: split as Split, index: Number(index), options };
}

function image({ colours, cells, dots }: Cycle, random: Random): RawImage {
  const dominoes = cells.map((cell, place) => ({
    cell,
    left: colours[place]!,
    right: colours[(place + 1) % colours.length]!,
    dots: dots[place]!,
  }));
  return { kind: 'rgb', width: IMAGE_SIDE, height: IMAGE_SIDE, data: drawImage(dominoes, random) };
}
