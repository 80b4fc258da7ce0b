/** What the server says of its model and of itself. */
import type { FastifyInstance } from 'fastify';
import { ABLATIONS } from '../latent/options.ts';
import { taskNames } from '../tasks/registry.ts';
import { takesOtherImage } from './chat-schema.ts';
import type { Engine } from './engine.ts';
import { HttpError } from './http-error.ts';
import type { ModelList } from './protocol.ts';
import { type Doorkeeper, findModel, type ServedModel, type Service } from './service.ts';

/** Without an answer for so long, a server that has questions in hand is not ready. */
const STALE_MS = 120_000;

export function addModelRoutes(app: FastifyInstance, service: Service, door: Doorkeeper): void {
  const { maxNewTokens, metrics } = service;
  const created = Math.floor(Date.now() / 1000);
  const describe = ({ id, engine }: ServedModel): ModelList['data'][number] => {
    const { family, task, latents, patches, oneImage } = engine.info;
    const ablations = Object.entries(ABLATIONS).map(([name, { title }]) => {
      const otherImage = takesOtherImage(name);
      return { name, title, otherImage };
    });
    const ivtlr = { family, task, tasks: taskNames, latents, patches, oneImage, ablations, maxTokens: maxNewTokens };
    return { id, object: 'model', created, owned_by: 'ivtlr', ivtlr };
  };
  app.get('/v1/models', (): ModelList => ({ object: 'list', data: service.models.map(describe) }));
  app.get<{ Params: { '*': string } }>('/v1/models/*', (request) =>
    describe(findModel(service.models, request.params['*'])),
  );
  app.get('/health', () => ({ status: 'ok' }));
  app.get('/ready', () => {
    const why = whyNotReady(service, door);
    if (why !== null) throw new HttpError(503, why, { code: 'not_ready', retryAfter: 2 });
    return { status: 'ready' };
  });
  app.get('/metrics', async (_, reply) => {
    reply.type(metrics.registry.contentType);
    return metrics.registry.metrics();
  });
}

function whyNotReady({ models }: Service, door: Doorkeeper): string | null {
  if (door.draining) return 'the server is stopping';
  for (const { id, engine } of models) {
    const why = whyEngineNotReady(engine);
    if (why !== null) return models.length === 1 ? why : `${id}: ${why}`;
  }
  return null;
}

function whyEngineNotReady(engine: Engine): string | null {
  if (engine.state !== 'ready') return 'the engine is loading the model';
  if (!engine.responsive) return 'the engine does not answer its heartbeat';
  const since = engine.sinceAnswer;
  if (since === null) return 'the engine has not answered its first question yet';
  if (since > STALE_MS) return 'the engine has answered no question for a while';
  return null;
}
