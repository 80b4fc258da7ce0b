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
