/** Parameters side by side in one flat buffer, which is cut into equal shards, one a process. */
import {
  call,
  type Device,
  type DType,
  elementSize,
  empty,
  type Piece as GradientPiece,
  noGrad,
  scope,
  setStorageBytes,
  type Tensor,
  zeros,
} from '@ivtlr/torch';

/** A parameter's place in the buffer, in elements. */
export interface FlatParameter {
  name: string;
  tensor: Tensor;
  offset: number;
}

/** A stretch of a parameter's flattened elements, and where it is in a shard. */
export interface Piece {
  name: string;
  tensor: Tensor;
  start: number;
  end: number;
  shardOffset: number;
}

/** Parameters begin at multiples of so many bytes, as kernels like it. */
const ALIGNMENT = 64;
/** Shards are multiples of so many bytes: the usual page of memory, so that processes can map each other's. */
const PAGE = 4096;

export class Flat {
  /** The part of the model that the parameters belong to. */
  readonly part: string;
  /** Whether they are trained. */
  readonly trained: boolean;
  readonly dtype: DType;
  readonly device: Device;
  readonly parameters: readonly FlatParameter[];
  /** Elements of the whole buffer and of one shard. */
  readonly size: number;
  readonly shardSize: number;

  /** @param parameters at least one; of one dtype, on one device */
  constructor(part: string, trained: boolean, parameters: readonly (readonly [string, Tensor])[], processes: number) {
    const [, first] = parameters[0]!;
    this.part = part;
    this.trained = trained;
    this.dtype = first.dtype;
    this.device = first.device;
    const unit = ALIGNMENT / elementSize(first.dtype);
    const roundedUp = (count: number, to: number) => Math.ceil(count / to) * to;
    let end = 0;
    this.parameters = parameters.map(([name, tensor]) => {
      const offset = end;
      end = roundedUp(end + tensor.numel, unit);
      return { name, tensor, offset };
    });
    this.size = roundedUp(end, (processes * PAGE) / elementSize(first.dtype));
    this.shardSize = this.size / processes;
  }

  /** The parts of parameters that the shard of `rank` holds. */
  pieces(rank: number): Piece[] {
    const first = rank * this.shardSize;
    return this.parameters.flatMap(({ name, tensor, offset }) => {
      const start = Math.max(0, first - offset);
      const end = Math.min(tensor.numel, first + this.shardSize - offset);
      return start < end ? [{ name, tensor, start, end, shardOffset: offset + start - first }] : [];
    });
  }

  /** An uninitialised buffer of the whole size; the caller's. */
  newBuffer(): Tensor {
    return this.borrow(this.size);
  }

  /** Bytes of a shard. */
  get shardBytes(): number {
    return this.shardSize * elementSize(this.dtype);
  }

  /** As newBuffer, still without memory. */
  hollowBuffer(): Tensor {
    const buffer = empty([this.size], { dtype: this.dtype, device: this.device });
    setStorageBytes(buffer, 0);
    return buffer;
  }

  /** An uninitialised buffer of so many elements, in memory that was given back before if there is some; see `giveBack`. */
  borrow(elements: number): Tensor {
    const buffer = empty([elements], { dtype: this.dtype, device: this.device });
    const { nbytes } = buffer;
    setStorageBytes(buffer, 0);
    setStorageBytes(buffer, nbytes);
    return buffer;
  }

  /** The parameter's part of a buffer, in its shape. */
  viewOf({ tensor, offset }: FlatParameter, buffer: Tensor): Tensor {
    return buffer.narrow(0, offset, tensor.numel).view(tensor.shape);
  }

  /** Copies those of the parameter's elements that `buffer` holds, which is a part of the whole and begins at its element `first`. */
  copyInto(buffer: Tensor, first: number, { tensor, offset }: FlatParameter): void {
    const start = Math.max(0, first - offset);
    const end = Math.min(tensor.numel, first + buffer.numel - offset);
    if (start >= end) return;
    noGrad(() =>
      scope(() => {
        const values = tensor.flatten().narrow(0, start, end - start);
        buffer.narrow(0, offset + start - first, end - start).copy_(values);
      }),
    );
  }

  /** Makes the parameters views of a buffer of the whole size, which has memory at the moment; what they had before is freed. */
  makeViews(buffer: Tensor): void {
    noGrad(() =>
      scope(() => {
        for (const parameter of this.parameters)
          call('aten::set_data', '', parameter.tensor, this.viewOf(parameter, buffer));
      }),
    );
  }

  /**
   * The gradients as they are, which the parameters lose. Call inside a scope.
   */
  lendGradients(): GradientPiece[] {
    return this.parameters.map(({ tensor, offset }) => {
      const { grad } = tensor;
      tensor.grad = null;
      return { tensor: grad && contiguous(grad), offset, numel: tensor.numel };
    });
  }

  /** The gradients, which stay where they are; zeros where a parameter has none. Call inside a scope. */
  gradientsInPlace(): GradientPiece[] {
    return this.parameters.map(({ tensor, offset }) => {
      const { grad } = tensor;
      const own = grad ? contiguous(grad) : zeros(tensor.shape, { dtype: tensor.dtype, device: tensor.device });
      if (own !== grad) tensor.grad = own;
      return { tensor: own, offset, numel: tensor.numel };
    });
  }

  /** Makes the parts of a buffer the parameters' gradients. */
  setGradients(buffer: Tensor): void {
    noGrad(() =>
      scope(() => {
        for (const parameter of this.parameters) parameter.tensor.grad = this.viewOf(parameter, buffer);
      }),
    );
  }

  /**
   * The gradients side by side; zeros where a parameter has none. They are taken from the parameters.
   * @returns a borrowed buffer
   */
  takeGradients(): Tensor {
    return noGrad(() =>
      scope(() => {
        const buffer = this.borrow(this.size);
        let filled = 0;
        const clear = (end: number) => {
          if (end > filled) buffer.narrow(0, filled, end - filled).zero_();
        };
        for (const parameter of this.parameters) {
          const { tensor, offset } = parameter;
          const { grad } = tensor;
          if (!grad) continue;
          clear(offset);
          this.viewOf(parameter, buffer).copy_(grad);
          filled = offset + tensor.numel;
          tensor.grad = null;
        }
        clear(this.size);
        return buffer;
      }),
    );
  }
}

function contiguous(gradient: Tensor): Tensor {
  return noGrad(() => gradient.contiguous());
}

/** Gives the memory of a borrowed buffer back, and disposes of the buffer. */
export function giveBack(buffer: Tensor): void {
  setStorageBytes(buffer, 0);
  buffer.dispose();
}
