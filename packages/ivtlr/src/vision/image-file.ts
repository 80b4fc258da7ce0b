/** The bytes of an image file. */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { UserError } from '../errors.ts';

/** Far more than an image of DEFAULT_MAX_PIXELS takes in any format that is read. */
const MAX_BYTES = 512 * 2 ** 20;

/**
 * Reads an image file. Pipes and devices, which may never end, are not read.
 * @throws UserError naming the path
 */
export function readImageFile(path: string): Uint8Array<ArrayBuffer> {
  try {
    // Without O_NONBLOCK a pipe that nobody writes to would wait here for ever.
    const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const stat = fstatSync(file);
      if (!stat.isFile()) {
        const kind = stat.isDirectory() ? 'a folder' : 'a pipe or a device';
        throw new UserError(`${path} is ${kind}; an image file is needed`);
      }
      if (stat.size > MAX_BYTES) {
        throw new UserError(
          `${path} has ${Math.ceil(stat.size / 2 ** 20)} MiB, over the ${MAX_BYTES / 2 ** 20} MiB that an image file may have`,
        );
      }
      // Not more than the size it had: files below /proc say 0 and may be endless.
      const bytes = new Uint8Array(stat.size);
      let read = 0;
      while (read < bytes.length) {
        const got = readSync(file, bytes, read, bytes.length - read, null);
        if (got === 0) break;
        read += got;
      }
      return bytes.subarray(0, read);
    } finally {
      closeSync(file);
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new UserError(code === 'ENOENT' ? `there is no image ${path}` : `cannot read ${path}: ${message}`);
  }
}
