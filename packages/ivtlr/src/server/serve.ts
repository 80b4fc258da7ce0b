/** A model served, from the flags of `ivtlr serve` until it is told to stop. */
import { pino } from 'pino';
import type { WorkerModel } from '../pool/worker-messages.ts';
import { findTask, taskNames } from '../tasks/registry.ts';
import { Engine, type EngineOptions } from './engine.ts';
import type { EngineQuestion } from './engine-messages.ts';
import { type KeyLimits, Keys } from './keys.ts';
import { Metrics } from './metrics.ts';
import { pictureOfNothing } from './probe.ts';
import { Server, type ServerOptions } from './server.ts';

export interface ServeOptions
  extends Pick<
    ServerOptions,
    | 'version'
    | 'modelId'
    | 'host'
    | 'port'
    | 'maxBody'
    | 'receiveTimeoutMs'
    | 'requestTimeoutMs'
    | 'pictures'
    | 'runs'
    | 'app'
    | 'maxNewTokens'
  > {
  model: WorkerModel;
  engine: Omit<EngineOptions, 'model' | 'note'>;
  /** Null: everybody may ask. */
  keys: readonly string[] | null;
  keyLimits: KeyLimits;
  logLevel: string;
}

/** A question is asked of the engine when nobody has asked any for so long, so that /ready speaks of something real. */
const PROBE_MS = 30_000;

export interface Serving {
  url: string;
  server: Server;
  engine: Engine;
  /** Lets what is under way end, at most so long, and stops. */
  stop(deadlineMs: number): Promise<void>;
}

/** Opens the model, asks it a first question, and listens. @throws UserError when the model cannot be opened */
export async function serve(options: ServeOptions): Promise<Serving> {
  // Log lines go to stderr, so that stdout has the address alone.
  const logger = pino(
    { level: options.logLevel, base: { pid: process.pid } },
    pino.destination({ dest: 2, sync: true }),
  );
  const engine = await Engine.open({
    ...options.engine,
    model: options.model,
    note: (line) => logger.warn({ line }, 'engine'),
  });
  const { device, deviceNote, cacheBytes } = engine.info;
  logger.info({ device, deviceNote, cacheBytes, model: options.modelId, engine: engine.pid }, 'model opened');
  const probe = await startProbes(engine);
  try {
    const { task } = engine.info;
    const server = await Server.listen({
      ...options,
      ...{ engine, logger, metrics: new Metrics(engine), keys: new Keys(options.keys, options.keyLimits) },
      task: task !== null && taskNames.includes(task) ? findTask(task) : null,
    });
    const stop = async (deadlineMs: number) => {
      clearInterval(probe);
      await server.drain(deadlineMs);
    };
    return { url: server.url, server, engine, stop };
  } catch (error) {
    clearInterval(probe);
    await engine.close();
    throw error;
  }
}

async function startProbes(engine: Engine): Promise<NodeJS.Timeout> {
  const bytes = await pictureOfNothing();
  const question: EngineQuestion = {
    ...{ pictures: [{ bytes, name: 'probe' }], other: null, question: 'What is this?', choices: [], messages: null },
    options: { maxNewTokens: 1, trace: 'none' },
  };
  let asking = false;
  const ask = () =>
    new Promise<void>((resolve) => {
      asking = true;
      engine.ask(question, (event) => {
        if (event.type !== 'end' && event.type !== 'error') return;
        asking = false;
        resolve();
      });
    });
  await ask();
  const timer = setInterval(() => {
    const idle = engine.queued === 0 && engine.inHand === 0 && (engine.sinceAnswer ?? PROBE_MS) >= PROBE_MS;
    if (engine.state === 'ready' && idle && !asking) void ask();
  }, PROBE_MS / 3);
  timer.unref();
  return timer;
}
