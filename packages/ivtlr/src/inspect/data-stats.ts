/** Walks through a data set and counts. */
import { type LengthSummary, summarizeLengths, Tally } from '../data/lengths.ts';
import { splitSteps, tokenizeSample } from '../data/render.ts';
import type { Sample } from '../data/sample.ts';
import type { FolderWithoutWeights } from '../engine/folder-rendering.ts';
import { UserError } from '../errors.ts';
import type { Task } from '../tasks/task.ts';

export interface StatsOptions {
  /** Lengths are tokens of this model's tokenizer; characters without it. */
  opened: Pick<FolderWithoutWeights, 'tokenizer' | 'renderOptions'> | null;
  maxSteps: number;
  onSample?(done: number): void;
}

export interface DataStats {
  samples: number;
  /** Without image tokens, which depend on the images' sizes. */
  lengths: Record<'question' | 'prompt' | 'rationale' | 'step' | 'choice' | 'answer', LengthSummary | null>;
  /** Name of a grouping -> values with their counts, most frequent first. */
  groups: Record<string, [value: string, count: number][]>;
}

/** @throws UserError when there is no sample */
export async function gatherStats(
  samples: AsyncIterable<Sample>,
  task: Task,
  { opened, maxSteps, onSample }: StatsOptions,
): Promise<DataStats> {
  const render = opened && { ...opened.renderOptions(task.name), maxSteps };
  const lists = { question: [], prompt: [], rationale: [], step: [], choice: [], answer: [] } as Record<
    keyof DataStats['lengths'],
    number[]
  >;
  const tallies = new Map<string, Tally>();
  const count = (name: string, value: string) => {
    const tally = tallies.get(name) ?? new Tally();
    tallies.set(name, tally);
    tally.add(value);
  };
  let done = 0;
  for await (const sample of samples) {
    const steps = splitSteps(sample.rationale, maxSteps);
    const texts = [sample.question, sample.rationale, ...sample.choices];
    const lengths = opened
      ? (await opened.tokenizer.encodeBatch(texts)).map((ids) => ids.length)
      : texts.map((text) => [...text].length);
    lists.question.push(lengths[0]!);
    lists.rationale.push(lengths[1]!);
    lists.choice.push(...lengths.slice(2));
    if (render) {
      const { promptIds, stepIds, answerIds } = await tokenizeSample(sample, [{ tokens: 0 }], 'train', render);
      lists.prompt.push(promptIds.length);
      lists.step.push(...stepIds.map((ids) => ids.length));
      lists.answer.push(answerIds.length);
    } else {
      lists.step.push(...steps.map((step) => [...step].length));
    }
    count('steps', String(steps.length));
    count('pieces before merging', String(splitSteps(sample.rationale, Number.POSITIVE_INFINITY).length));
    count('choices', String(sample.choices.length));
    count('answer', sample.answer);
    for (const [name, value] of Object.entries(task.groups(sample))) count(name, value);
    onSample?.(++done);
  }
  if (done === 0) throw new UserError('there is no sample with an image');
  const lengths = Object.entries(lists).map(([name, values]) => [name, summarizeLengths(values)]);
  return {
    samples: done,
    lengths: Object.fromEntries(lengths) as DataStats['lengths'],
    groups: Object.fromEntries([...tallies].map(([name, tally]) => [name, tally.entries()])),
  };
}
