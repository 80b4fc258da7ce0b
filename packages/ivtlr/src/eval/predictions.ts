/**
 * A file of answers as JSON lines, written batch by batch, so that a stopped run can go on from it. Each line says which run it belongs to;
 * answers of another model or another way of answering are refused.
 */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, truncateSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import type { AnsweredSample, StoredAnswer } from './runner.ts';

interface Stored extends StoredAnswer {
  id: string;
  line: number;
}

export class PredictionFile {
  readonly #path: string;
  readonly #run: string;
  readonly #stored: Map<number, Stored>;
  readonly #handle: number;
  #waiting: string[] = [];

  /**
   * @param run what the answers depend on, readable, the same for every run that may go on from the file
   * @param resume keep the answers the file has; without it the file begins anew
   * @throws UserError when the file cannot be written, or holds what is no answer of this run
   */
  constructor(path: string, run: string, resume: boolean) {
    this.#path = path;
    this.#run = run;
    try {
      mkdirSync(dirname(path), { recursive: true });
      this.#stored = resume && existsSync(path) ? this.#read() : new Map();
      this.#handle = openSync(path, resume ? 'a' : 'w');
    } catch (error) {
      if (error instanceof UserError) throw error;
      throw new UserError(`cannot write predictions to ${path}: ${(error as Error).message}`);
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
        `${this.#path}, line ${stored.line}: sample ${index} is ${stored.id}, but in the data it is ${sample.id}; these are answers to other data`,
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
    this.#waiting.push(`${JSON.stringify(line)}\n`);
  }

  /** Writes what waits through to the disk: one write a batch, so that a stop between batches leaves whole lines. */
  flush(): void {
    if (this.#waiting.length === 0) return;
    const bytes = Buffer.from(this.#waiting.join(''), 'utf8');
    this.#waiting = [];
    for (let at = 0; at < bytes.length; ) at += writeSync(this.#handle, bytes, at);
    fsyncSync(this.#handle);
  }

  close(): void {
    this.flush();
    closeSync(this.#handle);
  }

  #read(): Map<number, Stored> {
    const bytes = readFileSync(this.#path);
    // A line without its end was cut off by a crash; its sample is asked again.
    const end = bytes.lastIndexOf(0x0a) + 1;
    const stored = new Map<number, Stored>();
    const lines = bytes.subarray(0, end).toString('utf8').split('\n').slice(0, -1);
    lines.forEach((text, at) => {
      const line = at + 1;
      const value = this.#parse(text, line);
      stored.set(value.index, { ...value.answer, line });
    });
    if (end < bytes.length) truncateSync(this.#path, end);
    return stored;
  }

  #parse(text: string, line: number): { index: number; answer: Omit<Stored, 'line'> } {
    const place = `${this.#path}, line ${line}`;
    let value: Record<string, unknown>;
    try {
      value = JSON.parse(text) as Record<string, unknown>;
    } catch {
      throw new UserError(`${place}: this is no JSON; give the file that --predictions wrote`);
    }
    const { id, index, run, messages, steps, latentSteps, seconds, picks } = value ?? {};
    const numbers = [index, steps, latentSteps, seconds].every((entry) => typeof entry === 'number');
    const texts = Array.isArray(messages) && messages.length === 2 && messages.every((m) => typeof m === 'string');
    if (
      !numbers ||
      !texts ||
      typeof id !== 'string' ||
      typeof run !== 'string' ||
      typeof picks !== 'object' ||
      !picks
    ) {
      throw new UserError(`${place}: this is no answer that --predictions wrote, so there is nothing to go on from`);
    }
    if (run !== this.#run) {
      throw new UserError(
        `${place}: it belongs to the run "${run}", not to "${this.#run}"; give another --predictions file`,
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
