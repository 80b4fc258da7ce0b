/**
 * The inside of a worker process (see answer-pool.ts): opens a model once and answers the questions it is sent, as many together as it was
 * told. It holds nothing that its parent does not hold too, so it may be killed at any moment.
 */
import { ImagesAhead } from '../data/images-ahead.ts';
import { requireRoomForAnswers } from '../engine/answer-memory.ts';
import { type AskEvent, Asker, type Question } from '../engine/ask.ts';
import type { LoadedModel } from '../engine/loaded-model.ts';
import { ImagePool } from '../vision/image-pool.ts';
import { liveAsWorker, openForParent, sendable } from './worker-inside.ts';
import type { FromWorker, OpenWorker, ToWorker, WorkerRun } from './worker-messages.ts';

/** A question and where it stands among those that were sent. */
type Sent = Question & { seed?: number; group: number; at: number };

liveAsWorker();

/** Answers the questions of one run. */
class RunningAsker {
  readonly #run: number;
  readonly #asker: Asker<Sent>;
  readonly #images: ImagesAhead;
  readonly #threads: ImagePool | null;
  readonly #waiting: Sent[][] = [];

  static async open(opened: LoadedModel, { run, options }: WorkerRun): Promise<RunningAsker> {
    const { imageThreads, ...asking } = options;
    const threads = imageThreads > 0 ? new ImagePool(opened.inputs.preparation, imageThreads) : null;
    const images = new ImagesAhead(opened.inputs, threads);
    const asker = await Asker.open<Sent>(opened, {
      ...{ ...asking, textDeltas: false, processImage: (image) => images.processImage(image) },
      seed: ({ seed }) => seed,
    });
    return new RunningAsker(run, asker, images, threads);
  }

  private constructor(run: number, asker: Asker<Sent>, images: ImagesAhead, threads: ImagePool | null) {
    this.#run = run;
    this.#asker = asker;
    this.#images = images;
    this.#threads = threads;
  }

  get idle(): boolean {
    return this.#asker.size === 0 && this.#waiting.length === 0;
  }

  take(group: number, questions: readonly (Question & { seed?: number })[]): void {
    for (const image of questions.flatMap(({ images }) => images))
      this.#images.handOut(image, this.#images.start(image));
    this.#waiting.push(questions.map((question, at) => ({ ...question, group, at })));
  }

  /** Begins what there is room for, and makes one pass. */
  async step(): Promise<void> {
    for (let next = this.#waiting[0]; next && this.#asker.hasRoomFor(next.length); next = this.#waiting[0]) {
      this.#waiting.shift();
      this.#tell(await this.#asker.begin(next));
    }
    this.#tell(this.#asker.step());
  }

  async close(): Promise<void> {
    this.#asker.dispose();
    await this.#threads?.close();
  }

  #tell(events: readonly AskEvent<Sent>[]): void {
    for (const event of events) {
      const { group, at } = event.question;
      const from = { run: this.#run, group, at };
      if (event.type === 'end') send({ type: 'end', ...from, answer: event.answer });
      else if (event.type === 'error') send({ type: 'error', ...from, error: sendable(event.error) });
    }
  }
}

const inbox: ToWorker[] = [];
let wake = () => {};
process.on('message', (message: ToWorker) => {
  inbox.push(message);
  wake();
});

let opened: LoadedModel | null = null;
let asker = null as RunningAsker | null;

async function take(message: ToWorker): Promise<void> {
  switch (message.type) {
    case 'open':
      opened = await open(message);
      return;
    case 'room':
      requireRoomForAnswers(opened!, message.needs);
      send({ type: 'room' });
      return;
    case 'run':
      await asker?.close();
      asker = null;
      asker = await RunningAsker.open(opened!, message);
      return;
    case 'ask':
      asker?.take(message.group, message.questions);
  }
}

async function open(message: OpenWorker): Promise<LoadedModel> {
  const { opened, deviceNote } = await openForParent(message);
  const { folder, settings, model } = opened;
  send({
    type: 'opened',
    opened: { folder, settings, maxPositions: model.maxPositions, device: model.device, deviceNote },
  });
  return opened;
}

function send(message: FromWorker): void {
  process.send!(message);
}

for (;;) {
  try {
    for (let message = inbox.shift(); message; message = inbox.shift()) await take(message);
    if (asker && !asker.idle) {
      await asker.step();
      // Between passes the event loop runs, so that messages come in and answers go out.
      await new Promise((resolve) => setImmediate(resolve));
    } else {
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (inbox.length > 0) resolve();
      });
    }
  } catch (error) {
    asker = null;
    send({ type: 'failed', error: sendable(error) });
  }
}
