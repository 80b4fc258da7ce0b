/**
 * The inside of the process that owns the model (see engine.ts): messages of the server come in between passes. It holds nothing that the server could
 * not do without.
 */
import { liveAsWorker, openForParent, parentSays, sendable, tellParent } from '../pool/worker-inside.ts';
import type { FromEngine, ToEngine } from './engine-messages.ts';
import { ServedQuestions } from './served-questions.ts';

liveAsWorker();

const inbox: Exclude<ToEngine, { type: 'coming' }>[] = [];
let wake = () => {};
/** Questions that were announced and are not here yet. */
let coming = 0;
process.on('message', (message: ToEngine) => {
  if (message.type === 'coming') coming++;
  else inbox.push(message);
  wake();
});

let serving = null as ServedQuestions | null;

/** Longest time without a turn of the event loop, ms. */
const LONGEST_WITHOUT_TURN = 1000;
let lastTurn = 0;

/**
 * Between passes the event loop runs when there is something for it: a turn, and more while questions are on their way. A turn takes some tenths of a
 * millisecond after a pass, which has emptied the caches.
 */
async function takeTurns(serving: ServedQuestions): Promise<void> {
  const now = performance.now();
  const waits = coming > 0 || serving.takesIn || parentSays();
  if (!waits && now - lastTurn < LONGEST_WITHOUT_TURN) return;
  const until = now + serving.patience;
  do {
    lastTurn = performance.now();
    await new Promise((resolve) => setImmediate(resolve));
    await takeAll();
  } while ((coming > 0 || serving.takesIn) && performance.now() < until);
}

async function takeAll(): Promise<void> {
  for (let message = inbox.shift(); message; message = inbox.shift()) await take(message);
}

async function take(message: Exclude<ToEngine, { type: 'coming' }>): Promise<void> {
  switch (message.type) {
    case 'open': {
      const { opened, deviceNote } = await openForParent(message);
      serving = await ServedQuestions.open(opened, message.limits, () => wake());
      const { settings, model, family, tokenizer } = opened;
      const { task, profile, latents, patches } = settings;
      const { infer, oneImage = false } = opened.renderOptions(task ?? 'm3cot').profile;
      send({
        type: 'opened',
        opened: {
          ...{ device: model.device, deviceNote, family: family.modelType, dtype: model.dtype },
          ...{ task, profile, latents, patches, maxPositions: model.maxPositions, chat: infer.chat, oneImage },
          maxCharacters: tokenizer.mostCharacters && tokenizer.mostCharacters * model.maxPositions,
          cacheBytes: serving.cacheBudget,
        },
      });
      return;
    }
    case 'ask':
      coming--;
      serving!.take(message.id, message.question);
      return;
    case 'cancel':
      serving!.cancel(message.id);
      return;
    case 'ping':
      serving!.measureMemory();
      send({ type: 'pong', stats: serving!.stats });
  }
}

function send(message: FromEngine): void {
  tellParent(message);
}

for (;;) {
  try {
    await takeAll();
    serving?.step();
    if (serving && !serving.idle) await takeTurns(serving);
    else {
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (inbox.length > 0 || serving?.idle === false) resolve();
      });
    }
  } catch (error) {
    send({ type: 'failed', error: sendable(error) });
    // The server ends a process that has failed; one without a model has nothing else to do.
    await new Promise(() => {});
  }
}
