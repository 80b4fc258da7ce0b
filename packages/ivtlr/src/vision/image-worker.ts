/** The inside of an image thread (see image-pool.ts): takes images one after the other and sends them back prepared. */
import { parentPort, workerData } from 'node:worker_threads';
import sharp from 'sharp';
import { UserError } from '../errors.ts';
import type { RawImage } from './image.ts';
import type { ImageJob, ImageResult, PreparedImage } from './image-pool.ts';

interface FamilyModule {
  prepareImage(image: RawImage, rules: unknown): Promise<PreparedImage>;
}

const { module, rules } = workerData as { module: string; rules: unknown };
const { prepareImage } = (await import(module)) as FamilyModule;
// Threads are as many as the owner wants; libvips should add none, nor keep images that never come again.
sharp.concurrency(1);
sharp.cache(false);

let last: Promise<void> = Promise.resolve();
parentPort!.on('message', (job: ImageJob) => {
  last = last.then(() => work(job));
});

async function work({ id, image }: ImageJob): Promise<void> {
  let result: ImageResult;
  try {
    result = { id, prepared: await prepareImage(image, rules) };
  } catch (error) {
    const { message, stack } = error as Error;
    result = { id, message, stack, user: error instanceof UserError };
  }
  if ('prepared' in result) {
    const { image, whole } = result.prepared;
    // Only a buffer of its own may move away; one of Node's shared pool is copied.
    const own = [image, ...(whole ? [whole] : [])]
      .filter(({ data }) => data.byteLength === data.buffer.byteLength)
      .map(({ data }) => data.buffer as ArrayBuffer);
    parentPort!.postMessage(result, own);
  } else {
    parentPort!.postMessage(result);
  }
}
