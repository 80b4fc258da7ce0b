/**
 * A linear layer with a low-rank adapter: y = x W^T + b + (dropout(x) A^T) B^T * scaling.
 * Arithmetic and dtypes follow PEFT's lora.Linear, which trains a float32 adapter on a 16-bit base: the input is widened for the adapter, the sum
 * is taken in the wider dtype and rounded back.
 * Shapes: B any leading sizes, I inputs, O outputs, R rank.
 */
import { type DType, type Linear, LinearLayer, linear, Module, noGrad, scope, type Tensor, zeros } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';

/** One factor; a module of its own because the stored name is `lora_A.weight`. */
class Factor extends Module {
  weight: Tensor;

  constructor(weight: Tensor) {
    super();
    this.weight = this.parameter(weight);
  }
}

export interface LoraLinearOptions {
  rank: number;
  /** What the adapter's output is multiplied by: alpha / rank. */
  scaling: number;
  /** Share of the adapter's inputs dropped in training. */
  dropout: number;
}

export class LoraLinear extends LinearLayer {
  /** The base layer's own tensors, under the base layer's names. */
  weight: Tensor;
  bias: Tensor | null;
  /** (R, I) */
  readonly lora_A: Factor;
  /** (O, R) */
  readonly lora_B: Factor;
  readonly scaling: number;
  /** May be changed between passes. */
  dropout: number;
  readonly #base: Linear;
  #merged = false;

  /**
   * Takes over a layer. Its weight stops needing a gradient; A starts as torch.nn.Linear does (kaiming_uniform with a = sqrt(5)), B at zero, so
   * the layer computes what it did before.
   */
  constructor(base: Linear, { rank, scaling, dropout }: LoraLinearOptions) {
    super();
    const { inputs, outputs } = base;
    const { device } = base.weight;
    const dtype = adapterDtype(base.dtype);
    base.setRequiresGrad(false);
    this.#base = base;
    this.weight = base.weight;
    this.bias = base.bias;
    this.scaling = scaling;
    this.dropout = dropout;
    this.training = base.training;
    const bound = 1 / Math.sqrt(inputs);
    // Drawn on the CPU so that the device does not change the start.
    const drawn = noGrad(() => scope(() => ops.uniform_(zeros([rank, inputs]), -bound, bound).to({ dtype, device })));
    this.lora_A = new Factor(drawn);
    this.lora_B = new Factor(zeros([outputs, rank], { dtype, device }));
  }

  get inputs(): number {
    return this.weight.shape[1]!;
  }
  get outputs(): number {
    return this.weight.shape[0]!;
  }
  get dtype(): DType {
    return this.weight.dtype;
  }
  get rank(): number {
    return this.lora_A.weight.shape[0]!;
  }

  /** Whether the base weight contains the adapter; forward then leaves the adapter out. */
  get merged(): boolean {
    return this.#merged;
  }

  /** x (B, I) -> (B, O), in x's dtype. */
  forward(x: Tensor): Tensor {
    if (this.#merged) return linear(x, this.weight, this.bias);
    // Two-dimensional, so that the product is no view and the adapter can be added in place.
    const rows = x.ndim === 2 ? x : x.flatten(0, -2);
    const result = linear(rows, this.weight, this.bias);
    const { weight: a } = this.lora_A;
    const wide = rows.dtype === a.dtype ? rows : rows.to(a.dtype);
    // native_dropout draws what torch.nn.Dropout draws, and keeps one byte an element for the backward pass.
    const kept = this.training && this.dropout > 0 ? ops.native_dropout(wide, this.dropout, true)[0] : wide;
    const narrow = linear(kept, a);
    // Scaled here, where it is R wide and float32; as a factor of the sum it would scale a 16-bit gradient.
    result.add_(linear(narrow.mul(this.scaling), this.lora_B.weight));
    return x.ndim === 2 ? result : result.view([...x.shape.slice(0, -1), result.shape[1]!]);
  }

  /** Adds the adapter to the base weight. A 16-bit weight is rounded once, as PEFT's merge does it. */
  merge(): void {
    if (this.#merged) return;
    noGrad(() => scope(() => this.weight.add_(this.#product())));
    this.#merged = true;
  }

  /** Takes the adapter out again; on 16-bit weights what rounding lost stays lost, as in PEFT. */
  unmerge(): void {
    if (!this.#merged) return;
    noGrad(() => scope(() => this.weight.add_(this.#product().to(this.weight.dtype), -1)));
    this.#merged = false;
  }

  /** The layer that was taken over, with the weight as it is now. The factors are freed and this module is used no more. */
  release(): Linear {
    this.#base.weight = this.weight;
    this.#base.bias = this.bias;
    this.#base.training = this.training;
    this.lora_A.dispose();
    this.lora_B.dispose();
    return this.#base;
  }

  /** What the adapter adds to the weight: (O, I) in the adapter's dtype. */
  #product(): Tensor {
    return this.lora_B.weight.matmul(this.lora_A.weight).mul(this.scaling);
  }
}

/** 16-bit adapters would lose AdamW's small steps; PEFT widens them too (autocast_adapter_dtype). */
function adapterDtype(base: DType): DType {
  return base === 'float64' ? 'float64' : 'float32';
}
