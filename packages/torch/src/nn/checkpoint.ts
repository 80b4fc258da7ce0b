/**
 * Activation checkpointing driven from TypeScript.
 *
 * Backward never calls into JavaScript, so a graph cannot re-run a block by itself as torch.utils.checkpoint does. Instead blocks run without
 * a graph first, keeping only their borders; the caller's backward pass then walks the blocks from the last to the first, and each is run again
 * with a graph, which libtorch differentiates for that one block. Gradients of parameters accumulate in `.grad` exactly as with one `backward()`.
 */
import { enableGrad, noGrad } from '../core/autograd.ts';
import { getRngState, setRngState } from '../core/random.ts';
import { scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';

/** A computation that has run once without a graph. */
export interface CheckpointedCall {
  /** Carries no graph. */
  readonly output: Tensor;
  /**
   * Runs the computation again, with the random state it had, and differentiates it: parameters get their `.grad`, and the gradients of the
   * inputs come back (null where `needsGrad` is false or nothing flowed). The random state afterwards is the one before the call.
   */
  backward(gradOutput: Tensor): (Tensor | null)[];
  /** Frees the output and the kept random state. */
  dispose(): void;
}

export interface CheckpointOptions {
  /** Which inputs need a gradient; default: those that have `requiresGrad`. */
  needsGrad?: readonly boolean[];
}

/**
 * Runs `fn` without a graph and returns its output together with the way back.
 * `backward` draws the same random numbers again, so dropout has the same masks. `fn` may close over parameters (leaves); anything else that needs a gradient must be an input. It must not change its inputs in place.
 */
export function checkpoint(
  fn: (...inputs: Tensor[]) => Tensor,
  inputs: readonly Tensor[],
  { needsGrad = inputs.map((input) => input.requiresGrad) }: CheckpointOptions = {},
): CheckpointedCall {
  const devices = rngDevices(inputs);
  const before = saveRng(devices);
  const output = noGrad(() => scope(() => fn(...inputs)));
  return {
    output,
    backward(gradOutput) {
      const after = saveRng(devices);
      restoreRng(before);
      try {
        return scope(() => {
          const leaves = inputs.map((input, i) => leafOf(input, needsGrad[i] ?? false));
          const again = enableGrad(() => fn(...leaves));
          if (again.requiresGrad) again.backward(gradOutput);
          return leaves.map((leaf) => leaf.grad);
        });
      } finally {
        restoreRng(after);
        for (const { state } of after) state.dispose();
      }
    },
    dispose() {
      for (const { state } of before) state.dispose();
      if (!inputs.includes(output)) output.dispose();
    },
  };
}

function leafOf(tensor: Tensor, needsGrad: boolean): Tensor {
  const leaf = tensor.detach();
  if (needsGrad) leaf.requiresGrad = true;
  return leaf;
}

interface SavedRng {
  device: string;
  state: Tensor;
}

function rngDevices(inputs: readonly Tensor[]): string[] {
  return [...new Set(['cpu', ...inputs.map(({ device }) => device)])];
}

function saveRng(devices: readonly string[]): SavedRng[] {
  return devices.map((device) => ({ device, state: getRngState(device) }));
}

function restoreRng(saved: readonly SavedRng[]): void {
  for (const { device, state } of saved) setRngState(state, device);
}
