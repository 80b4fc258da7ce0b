/**
 * A file of answers as JSON lines, written batch by batch, so that a stopped run can go on from it. Each line says which run it belongs to;
 * answers of another model, other data or another way of answering are refused.
 */
import type { Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { AppendedLines, type WhenPresent } from './appended-lines.ts';
import { differingParts, type RunKey } from './run-key.ts';
import type { AnsweredSample, StoredAnswer } from './runner.ts';

interface Stored extends StoredAnswer {
  id: string;
  place: string;
}

export class PredictionFile {
  readonly #lines: AppendedLines;
  readonly #run: RunKey;
  readonly #stored = new Map<number, Stored>();

  /**
   * @param run what the answers depend on, the same for every run that may go on from the file
   * @throws UserError when the file cannot be written, is there and should not be, or holds what is no answer of this run
   */
  constructor(path: string, run: RunKey, whenPresent: WhenPresent) {
    this.#run = run;
    this.#lines = new AppendedLines(path, whenPresent);
    for (const { value, place } of this.#lines.present) {
      const { index, answer } = this.#parse(value, place);
      this.#stored.set(index, { ...answer, place });
    }
  }

  /** Answers the file had when it was opened. */
  get stored(): number {
    return this.#stored.size;
  }

  /** For `evaluate`. @throws UserError when the file has another sample in this place */
  restore(sample: Sample, index: number): StoredAnswer | undefined {
    const stored = this.#stored.get(index);
    if (!stored) return undefined;
    if (stored.id !== sample.id) {
      throw new UserError(
        `${stored.place}: sample ${index} is ${stored.id}, but in the data it is ${sample.id}; these are answers to other data`,
      );
    }
    return stored;
  }

  /** Keeps an answer until `flush`; restored ones are in the file already. */
  add(answer: AnsweredSample): void {
    if (answer.restored) return;
    const { sample, index, answered, score, autoregressiveSteps, latentSteps, seconds, picks } = answer;
    const { id, choices, meta } = sample;
    const line = {
      ...{ id, choices, answer: sample.answer, domain: meta.domain, topic: meta.topic },
      messages: [answered.prompt, answered.generated],
      ...{ predicted: score.predicted, correct: score.strict, correctOfficial: score.official },
      ...{ steps: autoregressiveSteps, latentSteps, seconds, picks, index, run: this.#run },
    };
    this.#lines.add(line);
  }

  /** Writes what waits through to the disk. */
  flush(): void {
    this.#lines.flush();
  }

  /**
   * Puts the answers into the order of the samples, when all are there. They end in an order that depends on the batch and the number of
   * processes; the sorted file does not.
   */
  sort(): void {
    this.#lines.sortBy((line) => (line as { index: number }).index);
  }

  close(): void {
    this.#lines.close();
  }

  #parse(value: Record<string, unknown>, place: string): { index: number; answer: Omit<Stored, 'place'> } {
    const { id, index, run, messages, steps, latentSteps, seconds, picks } = value;
    const numbers = [index, steps, latentSteps, seconds].every((entry) => typeof entry === 'number');
    const texts = Array.isArray(messages) && messages.length === 2 && messages.every((m) => typeof m === 'string');
    const objects = [run, picks].every((entry) => typeof entry === 'object' && entry !== null);
    if (!numbers || !texts || !objects || typeof id !== 'string') {
      throw new UserError(
        `${place}: this is no answer that --predictions of this version wrote, so there is nothing to go on from`,
      );
    }
    const differing = differingParts(run as RunKey, this.#run);
    if (differing.length > 0) {
      const parts = differing.map(([part, theirs, ours]) => `${part} (there ${theirs}, now ${ours})`).join(', ');
      throw new UserError(
        `${place}: the answer belongs to a run with another ${parts}; give another --predictions file`,
      );
    }
    const latents = latentSteps as number;
    return {
      index: index as number,
      answer: {
        id,
        answered: { prompt: messages[0] as string, generated: messages[1] as string },
        latentSteps: latents,
        generatedTokens: (steps as number) - latents,
        seconds: seconds as number,
        picks: picks as StoredAnswer['picks'],
      },
    };
  }
}
