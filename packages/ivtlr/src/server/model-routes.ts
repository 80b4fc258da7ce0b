/** What the server says of its model and of itself. */
import type { FastifyInstance } from 'fastify';
import { ABLATIONS } from '../latent/options.ts';
import { taskNames } from '../tasks/registry.ts';
import { takesOtherImage } from './chat-schema.ts';
import { HttpError } from './http-error.ts';
import type { ModelList } from './protocol.ts';
import type { Doorkeeper, Service } from './service.ts';

/** Without an answer for so long, a server that has questions in hand is not ready. */
const STALE_MS = 120_000;

export function addModelRoutes(app: FastifyInstance, service: Service, door: Doorkeeper): void {
  const { engine, modelId, maxNewTokens, metrics } = service;
  const created = Math.floor(Date.now() / 1000);
  const models = (): ModelList => {
    const { family, task, latents, patches } = engine.info;
    const ablations = Object.entries(ABLATIONS).map(([name, { title }]) => {
      const otherImage = takesOtherImage(name);
      return { name, title, otherImage };
    });
    const ivtlr = { family, task, tasks: taskNames, latents, patches, ablations, maxTokens: maxNewTokens };
    return { object: 'list', data: [{ id: modelId, object: 'model', created, owned_by: 'ivtlr', ivtlr }] };
  };
  app.get('/v1/models', models);
  app.get<{ Params: { '*': string } }>('/v1/models/*', (request) => {
    const name = request.params['*'];
    const found = models().data.find(({ id }) => id === name);
    if (!found)
      throw new HttpError(404, `there is no model ${name} here; this server has ${modelId}`, {
        param: 'model',
        code: 'model_not_found',
      });
    return found;
  });
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

function whyNotReady({ engine }: Service, door: Doorkeeper): string | null {
  if (door.draining) return 'the server is stopping';
  if (engine.state !== 'ready') return 'the engine is loading the model';
  if (!engine.responsive) return 'the engine does not answer its heartbeat';
  const since = engine.sinceAnswer;
  if (since === null) return 'the engine has not answered its first question yet';
  if (since > STALE_MS) return 'the engine has answered no question for a while';
  return null;
}
