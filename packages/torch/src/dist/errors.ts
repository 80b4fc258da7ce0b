import { TorchError } from '../core/errors.ts';

/** A collective or a wait that failed because of another process. The message names rank, collective, purpose, and who is missing where it is known. */
export class DistributedError extends TorchError {
  override name = 'DistributedError';
}
