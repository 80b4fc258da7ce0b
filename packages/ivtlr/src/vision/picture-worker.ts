/** The inside of a picture thread (see picture-pool.ts): takes pictures one after the other and sends them back prepared. */
import { parentPort, workerData } from 'node:worker_threads';
import sharp from 'sharp';
import { UserError } from '../errors.ts';
import type { RawImage } from './image.ts';
import type { PictureJob, PictureResult, PreparedPicture } from './picture-pool.ts';

interface FamilyModule {
  preparePicture(image: RawImage, rules: unknown): Promise<PreparedPicture>;
}

const { module, rules } = workerData as { module: string; rules: unknown };
const { preparePicture } = (await import(module)) as FamilyModule;
// Threads are as many as the owner wants; libvips should add none, nor keep pictures that never come again.
sharp.concurrency(1);
sharp.cache(false);

let last: Promise<void> = Promise.resolve();
parentPort!.on('message', (job: PictureJob) => {
  last = last.then(() => work(job));
});

async function work({ id, image }: PictureJob): Promise<void> {
  let result: PictureResult;
  try {
    result = { id, prepared: await preparePicture(image, rules) };
  } catch (error) {
    const { message, stack } = error as Error;
    result = { id, message, stack, user: error instanceof UserError };
  }
  if ('prepared' in result) {
    const { data } = result.prepared.image;
    // Only a buffer of its own may move away; one of Node's shared pool is copied.
    const own = data.byteLength === data.buffer.byteLength ? [data.buffer as ArrayBuffer] : [];
    parentPort!.postMessage(result, own);
  } else {
    parentPort!.postMessage(result);
  }
}
