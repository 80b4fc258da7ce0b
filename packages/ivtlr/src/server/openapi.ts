/** GET /openapi.json: what the server takes and gives. */
import { z } from 'zod';
import { chatSchema } from './chat-schema.ts';

type Json = Record<string, unknown>;

const error = (description: string): Json => ({
  description,
  content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
});
const json = (description: string, schema: Json = { type: 'object' }): Json => ({
  description,
  content: { 'application/json': { schema } },
});

const KEY_ERRORS = { 401: error('An API key is needed, or not known.') };
const SECURED = { security: [{ key: [] }, {}] };

export function openApi(version: string): Json {
  return {
    openapi: '3.1.0',
    info: {
      title: 'ivtlr serve',
      version,
      description:
        "OpenAI's chat API with a model that reasons in latent steps; the field `ivtlr` is this server's own.",
    },
    paths: {
      '/v1/chat/completions': { post: chat() },
      '/v1/models': {
        get: { ...SECURED, operationId: 'models', responses: { 200: json('The models.'), ...KEY_ERRORS } },
      },
      '/v1/models/{id}': {
        get: {
          ...{ ...SECURED, operationId: 'model' },
          parameters: [{ name: 'id', in: 'path', required: true, schema: { type: 'string' } }],
          responses: { 200: json('The model.'), 404: error('There is no such model.'), ...KEY_ERRORS },
        },
      },
      '/health': { get: { operationId: 'health', responses: { 200: json('The server runs.') } } },
      '/ready': {
        get: {
          operationId: 'ready',
          responses: { 200: json('The engine answers questions.'), 503: error('It loads, hangs or stops.') },
        },
      },
      '/metrics': {
        get: {
          operationId: 'metrics',
          responses: {
            200: { description: 'For Prometheus.', content: { 'text/plain': { schema: { type: 'string' } } } },
          },
        },
      },
      '/openapi.json': { get: { operationId: 'openapi', responses: { 200: json('This document.') } } },
      '/api/puzzle': {
        get: {
          ...{ ...SECURED, operationId: 'puzzle' },
          parameters: [
            {
              name: 'seed',
              in: 'query',
              required: false,
              schema: { type: 'integer', minimum: 0, maximum: 2 ** 32 - 1 },
            },
          ],
          responses: {
            200: json('A fresh question of the task.'),
            400: error('The seed is wrong.'),
            404: error('The task makes no questions.'),
            ...KEY_ERRORS,
          },
        },
      },
      '/api/runs': {
        get: {
          ...{ ...SECURED, operationId: 'runs' },
          responses: { 200: json('The training runs.'), 404: error('No folder of runs was given.'), ...KEY_ERRORS },
        },
      },
      '/api/runs/{name}': {
        get: {
          ...{ ...SECURED, operationId: 'run' },
          parameters: [
            { name: 'name', in: 'path', required: true, schema: { type: 'string' } },
            { name: 'after', in: 'query', required: false, schema: { type: 'integer', minimum: 0, maximum: 1e12 - 1 } },
          ],
          responses: {
            200: json('Measurements of a run.'),
            400: error('A parameter is wrong.'),
            404: error('There is no such run.'),
            ...KEY_ERRORS,
          },
        },
      },
    },
    components: {
      securitySchemes: { key: { type: 'http', scheme: 'bearer' } },
      schemas: { Error: errorSchema() },
    },
  };
}

function chat(): Json {
  const { $schema, ...schema } = z.toJSONSchema(chatSchema, { io: 'input', unrepresentable: 'any' });
  return {
    ...SECURED,
    operationId: 'chat',
    summary: 'Answers a question about a picture',
    requestBody: { required: true, content: { 'application/json': { schema } } },
    responses: {
      200: {
        description: 'The answer; with `stream` its pieces as server-sent events.',
        content: {
          'application/json': { schema: { type: 'object' } },
          'text/event-stream': { schema: { type: 'string' } },
        },
      },
      400: error('The request is wrong; `param` names the field.'),
      ...KEY_ERRORS,
      404: error('There is no such model.'),
      408: error('The request did not come in time.'),
      413: error('The body is too large.'),
      415: error('The body is no JSON.'),
      429: error('A limit was reached or the queue is full; see Retry-After.'),
      500: error('Something went wrong in the server.'),
      503: error('The engine is being started again, or the server stops.'),
      504: error('The answer took too long.'),
    },
  };
}

function errorSchema(): Json {
  const text = { type: 'string' };
  const maybe = { type: ['string', 'null'] };
  return {
    type: 'object',
    required: ['error'],
    properties: {
      error: {
        type: 'object',
        required: ['message', 'type', 'param', 'code'],
        properties: { message: text, type: text, param: maybe, code: maybe },
      },
    },
  };
}
