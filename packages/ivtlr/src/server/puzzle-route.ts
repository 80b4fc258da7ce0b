/** GET /api/puzzle: a fresh question of the model's task, where the task makes its own. */
import type { FastifyInstance } from 'fastify';
import { encodePng } from '../tasks/make-file.ts';
import { badRequest, HttpError } from './http-error.ts';
import type { Puzzle } from './protocol.ts';
import type { Service } from './service.ts';

const SEEDS = 2 ** 32;

export function addPuzzleRoute(app: FastifyInstance, { task }: Service): void {
  app.get<{ Querystring: { seed?: unknown } }>('/api/puzzle', async (request): Promise<Puzzle> => {
    const { seed = String(Math.floor(Math.random() * SEEDS)) } = request.query;
    if (typeof seed !== 'string' || !/^\d{1,10}$/.test(seed) || Number(seed) >= SEEDS)
      throw badRequest('seed should be a whole number from 0 to 4294967295', 'seed');
    if (!task?.generator)
      throw new HttpError(404, "the model's task makes no questions of its own", { code: 'no_puzzles' });
    const { images, question, choices, answer } = task.generator.sample(Number(seed), 'test', 0);
    const png = Buffer.from(await encodePng(images[0]!)).toString('base64');
    return { image: `data:image/png;base64,${png}`, question, choices, answer };
  });
}
