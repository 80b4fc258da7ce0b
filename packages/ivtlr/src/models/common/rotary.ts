/** Rotary position embedding. Shapes: A axes (1, or 3 for M-RoPE), B batch, S sequence, E head size. */
import {
  arange,
  cat,
  type Device,
  type DType,
  inferenceMode,
  keep,
  noGrad,
  rotateHalves,
  scope,
  type Tensor,
} from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';

/** Cosines and sines, each (B, 1, S, E), ready to broadcast over heads. */
export interface RotaryAngles {
  cos: Tensor;
  sin: Tensor;
}

/**
 * Tables of cos and sin over all positions a model may see, made at the first pass; a forward pass only looks rows up.
 * Angles are position / theta^(2i/E), computed in float32 as Hugging Face does, then rounded to the model's dtype.
 */
export class Rotary {
  #table: RotaryAngles | null = null;
  readonly headSize: number;
  readonly theta: number;
  /** Rows of the table: one more than the largest position. */
  readonly maxPositions: number;
  /** M-RoPE: how many of the E/2 frequencies follow each axis, in order. */
  readonly sections: readonly number[] | null;

  constructor(headSize: number, theta: number, maxPositions: number, sections: readonly number[] | null = null) {
    if (sections && sections.reduce((a, b) => a + b, 0) !== headSize / 2)
      throw new RangeError(`M-RoPE sections ${sections.join('+')} should add up to half the head size ${headSize}`);
    this.headSize = headSize;
    this.theta = theta;
    this.maxPositions = maxPositions;
    this.sections = sections;
  }

  /** positions (A, B, S) int64, all below maxPositions. */
  angles(positions_ABS: Tensor, dtype: DType, device: Device): RotaryAngles {
    const table = this.#tableFor(dtype, device);
    const [axes, B, S] = positions_ABS.shape as [number, number, number];
    const rows = (axis: number, source: Tensor) =>
      source.indexSelect(0, positions_ABS.select(0, axis).reshape([B * S])).view([B, 1, S, this.headSize]);
    if (axes === 1 || !this.sections) return { cos: rows(0, table.cos), sin: rows(0, table.sin) };
    const mixed = (source: Tensor) => {
      const perAxis = this.sections!.map((_, axis) => rows(axis, source));
      // The sections repeat for the second half of the head, whose angles are those of the first.
      let start = 0;
      const parts = [...this.sections!, ...this.sections!].map((size, i) => {
        const part = perAxis[i % perAxis.length]!.narrow(3, start, size);
        start += size;
        return part;
      });
      return cat(parts, 3);
    };
    return { cos: mixed(table.cos), sin: mixed(table.sin) };
  }

  #tableFor(dtype: DType, device: Device): RotaryAngles {
    const table = this.#table;
    if (table && table.cos.dtype === dtype && table.cos.device === device) return table;
    table?.cos.dispose();
    table?.sin.dispose();
    this.#table = makeTable(() => {
      const half = arange(0, this.headSize, 2, { dtype: 'int64' }).to('float32').div(this.headSize);
      const frequencies = ops.reciprocal(ops.pow_Scalar(this.theta, half));
      const angles = arange(0, this.maxPositions, 1).to('float32').unsqueeze(1).mul(frequencies.unsqueeze(0));
      const both = cat([angles, angles], 1);
      return { cos: ops.cos(both).to({ dtype, device }), sin: ops.sin(both).to({ dtype, device }) };
    });
    return this.#table;
  }

  dispose(): void {
    this.#table?.cos.dispose();
    this.#table?.sin.dispose();
    this.#table = null;
  }
}

/** Makes angles that outlive every scope and serve training too, though the first use may be at inference. The caller disposes them. */
export function makeTable(make: () => RotaryAngles): RotaryAngles {
  return inferenceMode(() => noGrad(() => scope(() => keep(make()))), false);
}

/** Rotates the halves of each head: x (B, H, S, E) with angles that broadcast over it. */
export function rotate(x: Tensor, { cos, sin }: RotaryAngles): Tensor {
  return rotateHalves(x, cos, sin);
}
