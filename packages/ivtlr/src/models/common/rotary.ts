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
import { indexTensor } from './index-tensor.ts';
import type { RopeScaling } from './rope-config.ts';

/** Cosines and sines, each (B, 1, S, E), ready to broadcast over heads. */
export interface RotaryAngles {
  cos: Tensor;
  sin: Tensor;
}

export interface RotaryOptions {
  headSize: number;
  theta: number;
  scaling: RopeScaling | null;
  /** Rows of the table: one more than the largest position. */
  maxPositions: number;
  /** M-RoPE: how many of the E/2 frequencies follow each axis. */
  sections: readonly number[] | null;
  /** Whether the axes take turns along the frequencies; without it each has a run of them, in order. */
  interleaved?: boolean;
}

/**
 * Tables of cos and sin over all positions a model may see, made at the first pass; a forward pass only looks rows up.
 * Angles are position / theta^(2i/E), scaled as the model's file says, computed in float32 as Hugging Face does, then rounded to the model's
 * dtype.
 */
export class Rotary {
  #table: RotaryAngles | null = null;
  readonly #options: RotaryOptions;

  constructor(options: RotaryOptions) {
    const { sections, headSize } = options;
    if (sections && sections.reduce((a, b) => a + b, 0) !== headSize / 2)
      throw new RangeError(`M-RoPE sections ${sections.join('+')} should add up to half the head size ${headSize}`);
    this.#options = options;
  }

  /** positions (A, B, S) int64, all below maxPositions. */
  angles(positions_ABS: Tensor, dtype: DType, device: Device): RotaryAngles {
    const table = this.#tableFor(dtype, device);
    const { headSize, sections } = this.#options;
    const [axes, B, S] = positions_ABS.shape as [number, number, number];
    const rows = (axis: number, source: Tensor) =>
      source.indexSelect(0, positions_ABS.select(0, axis).reshape([B * S])).view([B, 1, S, headSize]);
    if (axes === 1 || !sections) return { cos: rows(0, table.cos), sin: rows(0, table.sin) };
    if (this.#options.interleaved) {
      // (B*S, E): the position that each channel's angle is looked up at.
      const axis = indexTensor(interleavedAxes(sections), device);
      const at = positions_ABS
        .reshape([axes, B * S])
        .indexSelect(0, axis)
        .transpose(0, 1);
      const pick = (source: Tensor) => source.gather(0, at).view([B, 1, S, headSize]);
      return { cos: pick(table.cos), sin: pick(table.sin) };
    }
    const mixed = (source: Tensor) => {
      const perAxis = sections.map((_, axis) => rows(axis, source));
      // The sections repeat for the second half of the head, whose angles are those of the first.
      let start = 0;
      const parts = [...sections, ...sections].map((size, i) => {
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
      const { scaling, maxPositions } = this.#options;
      const frequencies = rotaryFrequencies(this.#options);
      const angles = arange(0, maxPositions, 1).to('float32').unsqueeze(1).mul(frequencies.unsqueeze(0));
      const both = cat([angles, angles], 1);
      const magnitude = scaling?.type === 'yarn' ? scaling.attentionFactor : 1;
      const scaled = (x: Tensor) => (magnitude === 1 ? x : x.mul(magnitude)).to({ dtype, device });
      return { cos: scaled(ops.cos(both)), sin: scaled(ops.sin(both)) };
    });
    return this.#table;
  }

  dispose(): void {
    this.#table?.cos.dispose();
    this.#table?.sin.dispose();
    this.#table = null;
  }
}

/**
 * The axis that each of E channels follows where axes take turns: the axes behind the first have every third frequency up to three times their number,
 * the first all others. Source: Hugging Face Qwen3VLTextRotaryEmbedding.
 */
function interleavedAxes(sections: readonly number[]): number[] {
  const count = sections.reduce((a, b) => a + b, 0);
  const half = Array.from({ length: count }, (_, i) => {
    const axis = i % sections.length;
    return i < sections.length * sections[axis]! ? axis : 0;
  });
  return [...half, ...half];
}

/** (E/2) float32: radians a position turns each pair of a head's channels by. Source: Hugging Face modeling_rope_utils. */
function rotaryFrequencies({ headSize, theta, scaling }: RotaryOptions): Tensor {
  const exponents = arange(0, headSize, 2, { dtype: 'int64' }).to('float32').div(headSize);
  const frequencies = ops.reciprocal(ops.pow_Scalar(theta, exponents));
  if (!scaling) return frequencies;
  const divided = frequencies.div(scaling.factor);
  if (scaling.type === 'linear') return divided;
  // The pair that turns `turns` times over the original positions, as a real number.
  const pairWith = (turns: number) =>
    (headSize * Math.log(scaling.originalPositions / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const whole = scaling.truncate ? { down: Math.floor, up: Math.ceil } : { down: Number, up: Number };
  const low = Math.max(whole.down(pairWith(scaling.betaFast)), 0);
  const high = Math.min(whole.up(pairWith(scaling.betaSlow)), headSize - 1);
  // 0 up to `low`, where frequencies are kept, 1 from `high` on, where they are divided.
  const ramp = ops.clamp(
    arange(0, headSize / 2, 1)
      .to('float32')
      .sub(low)
      .div(high === low ? 0.001 : high - low),
    0,
    1,
  );
  return divided.mul(ramp).add(frequencies.mul(ops.rsub_Scalar(ramp, 1)));
}

/** Makes tensors that outlive every scope and serve training too, though the first use may be at inference. The caller disposes them. */
export function makeTable<Table extends object>(make: () => Table): Table {
  return inferenceMode(() => noGrad(() => scope(() => keep(make()))), false);
}

/** Rotates the halves of each head: x (B, H, S, E) with angles that broadcast over it. */
export function rotate(x: Tensor, { cos, sin }: RotaryAngles): Tensor {
  return rotateHalves(x, cos, sin);
}
