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
import type { ServedModel } from './service.ts';

export interface ServeOptions
  extends Pick<
    ServerOptions,
    | 'version'
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
  /** By the names that clients use; the first is asked by requests that name none. */
  models: readonly { id: string; model: WorkerModel }[];
  /** Of each model. */
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
  /** In the order of the models. */
  engines: readonly Engine[];
  /** Lets what is under way end, at most so long, and stops. */
  stop(deadlineMs: number): Promise<void>;
}

/** Opens the models, asks each a first question, and listens. @throws UserError when one cannot be opened */
export async function serve(options: ServeOptions): Promise<Serving> {
  // Log lines go to stderr, so that stdout has the address alone.
  const logger = pino(
    { level: options.logLevel, base: { pid: process.pid } },
    pino.destination({ dest: 2, sync: true }),
  );
  const models: ServedModel[] = [];
  const probes: NodeJS.Timeout[] = [];
  const close = async () => {
    for (const probe of probes) clearInterval(probe);
    await Promise.all(models.map(({ engine }) => engine.close()));
  };
  try {
    // One after the other: how much memory keys and values may take is known when a model is loaded.
    for (const { id, model } of options.models) {
      const note = (line: string) => logger.warn({ line, model: id }, 'engine');
      const engine = await Engine.open({ ...options.engine, model, note });
      models.push({ id, engine });
      const { device, deviceNote, cacheBytes } = engine.info;
      logger.info({ device, deviceNote, cacheBytes, model: id, engine: engine.pid }, 'model opened');
      probes.push(await startProbes(engine));
    }
    const engines = models.map(({ engine }) => engine);
    const tasks = engines.map(({ info }) => info.task).filter((task) => task !== null && taskNames.includes(task));
    const server = await Server.listen({
      ...options,
      ...{ models, logger, metrics: new Metrics(engines), keys: new Keys(options.keys, options.keyLimits) },
      task: tasks.map((task) => findTask(task!)).find(({ generator }) => generator) ?? null,
    });
    const stop = async (deadlineMs: number) => {
      for (const probe of probes) clearInterval(probe);
      await server.drain(deadlineMs);
    };
    return { url: server.url, server, engines, stop };
  } catch (error) {
    await close();
    throw error;
  }
}

async function startProbes(engine: Engine): Promise<NodeJS.Timeout> {
  const bytes = await pictureOfNothing();
  const question: EngineQuestion = {
    ...{ pictures: [{ bytes, name: 'probe' }], other: null, question: 'What is this?', choices: [], messages: null },
    stream: false,
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
