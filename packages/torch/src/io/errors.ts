/** A weight file that cannot be used: one sentence naming the file, the tensor where there is one, and what is wrong. */
export class CheckpointError extends Error {
  override name = 'CheckpointError';
}
