/** What a training loop asks of an optimizer; its options and arithmetic are the class's own. */
import type { Tensor } from '../core/tensor.ts';

export interface OptimizerState {
  /** Calls of `step()` so far. */
  step: number;
  /** By parameter and quantity, such as `NAME.exp_avg`. The live tensors, no copies. */
  tensors: Map<string, Tensor>;
}

export interface Optimizer extends Disposable {
  /** Learning rate; may be changed between steps. */
  lr: number;
  /** Updates every parameter that has a gradient; the others, and their state, are left alone. */
  step(): void;
  /** Drops all gradients. */
  zeroGrad(): void;
  stateDict(): OptimizerState;
  /** Copies a state in, bit for bit. Throws RangeError, before anything is changed, when names, shapes or dtypes differ. */
  loadStateDict(state: OptimizerState): void;
  /** Frees the state; parameters and their gradients are not touched. */
  dispose(): void;
}
