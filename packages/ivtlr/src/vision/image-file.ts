/** The bytes of an image file. */
import { UserError } from '../errors.ts';
import { readWholeFile } from '../files.ts';

/**
 * Reads an image file. Pipes and devices, which may never end, are not read.
 * @throws UserError naming the path
 */
export function readImageFile(path: string): Uint8Array<ArrayBuffer> {
  try {
    return readWholeFile(path, 'an image file', (kind) => new UserError(`${path} is ${kind}; an image file is needed`));
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new UserError(code === 'ENOENT' ? `there is no image ${path}` : `cannot read ${path}: ${message}`);
  }
}
