/** An error raised by libtorch or by the binding: the first line of the message, and the op it came from. */
export class TorchError extends Error {
  override name = 'TorchError';
  /** Full op name such as `aten::add.Tensor`, or the binding's function; empty when none was involved. */
  readonly op: string;

  constructor(op: string, message: string) {
    super(op ? `${op}: ${message}` : message);
    this.op = op;
  }
}

/**
 * A tensor was asked for that the memory of its device cannot hold. The message says how much was asked for, and on a GPU how much was free.
 * What was made before stays valid: code that frees some of it can go on.
 */
export class OutOfMemoryError extends TorchError {
  override name = 'OutOfMemoryError';
}

/** What the addon throws. */
export function makeError(op: string, message: string, outOfMemory: boolean): TorchError {
  if (!outOfMemory) return new TorchError(op, message);
  // The sentences after that one list what each process holds, and settings of PyTorch.
  const free = message.indexOf('is free.');
  return new OutOfMemoryError(op, free < 0 ? message : message.slice(0, free + 'is free.'.length));
}
