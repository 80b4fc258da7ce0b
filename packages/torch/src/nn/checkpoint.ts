/**
 * Activation checkpointing driven from TypeScript.
 *
 * Backward never calls into JavaScript, so a graph cannot re-run a block by itself as torch.utils.checkpoint does. Instead blocks run without
 * a graph first, keeping only their borders; the backward pass then walks the blocks from the last to the first, runs each again with a graph,
 * and lets libtorch differentiate that one block. Gradients of parameters accumulate in `.grad` exactly as with one `backward()`.
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
  /** Keep and restore the random state, so that dropout draws the same masks again. Default true; false saves a little time without dropout. */
  preserveRng?: boolean;
}

/**
 * Runs `fn` without a graph and returns its output together with the way back.
 * `fn` may close over parameters (leaves); anything else that needs a gradient must be an input. It must not change its inputs in place.
 */
export function checkpoint(
  fn: (...inputs: Tensor[]) => Tensor,
  inputs: readonly Tensor[],
  { needsGrad = inputs.map((input) => input.requiresGrad), preserveRng = true }: CheckpointOptions = {},
): CheckpointedCall {
  const devices = preserveRng ? rngDevices(inputs) : [];
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

export interface CheckpointedBackwardOptions {
  /** Given to every block and to the loss after x, such as position tables and masks; those with `requiresGrad` get their gradient too. */
  extras?: readonly Tensor[];
  /** See CheckpointOptions. */
  preserveRng?: boolean;
}

/**
 * The same gradients as `loss(block_n(.. block_1(input))).backward()` with the memory of the borders and one block.
 * Gradients flow into parameters, into `input` and into `extras` (further through their own graphs, if they have one). Returns the loss,
 * detached. The loss itself (final norm, head, cross-entropy) runs once, with a graph.
 */
export function checkpointedBackward(
  blocks: readonly ((x: Tensor, ...extras: Tensor[]) => Tensor)[],
  input: Tensor,
  loss: (x: Tensor, ...extras: Tensor[]) => Tensor,
  { extras = [], preserveRng = true }: CheckpointedBackwardOptions = {},
): Tensor {
  return scope(() => {
    const calls: CheckpointedCall[] = [];
    const extrasNeed = extras.map((extra) => extra.requiresGrad);
    let border = input;
    for (const [i, block] of blocks.entries()) {
      // Whether a parameter before this block needs a gradient is not known here, so every inner border asks for one.
      const needsGrad = [i > 0 || input.requiresGrad, ...extrasNeed];
      const call = checkpoint(block, [border, ...extras], { needsGrad, preserveRng });
      calls.push(call);
      border = call.output;
    }
    const last = checkpointLoss(loss, border, extras, blocks.length > 0 || input.requiresGrad);
    let [gradient, ...extraGrads] = last.grads;
    for (const call of calls.reverse()) {
      if (!gradient) break;
      const [next, ...more] = call.backward(gradient);
      gradient.dispose();
      call.dispose();
      gradient = next;
      extraGrads = extraGrads.map((sum, i) => addGradients(sum ?? null, more[i] ?? null));
    }
    if (input.requiresGrad && gradient) input.backward(gradient);
    for (const [i, extra] of extras.entries()) if (extraGrads[i]) extra.backward(extraGrads[i]);
    return last.value;
  });
}

function checkpointLoss(
  loss: (x: Tensor, ...extras: Tensor[]) => Tensor,
  x: Tensor,
  extras: readonly Tensor[],
  needsGrad: boolean,
) {
  return scope(() => {
    const leaves = [leafOf(x, needsGrad), ...extras.map((extra) => leafOf(extra, extra.requiresGrad))];
    const value = enableGrad(() => loss(...(leaves as [Tensor, ...Tensor[]])));
    value.backward();
    return { value: value.detach(), grads: leaves.map((leaf) => leaf.grad) };
  });
}

function leafOf(tensor: Tensor, needsGrad: boolean): Tensor {
  const leaf = tensor.detach();
  if (needsGrad) leaf.requiresGrad = true;
  return leaf;
}

function addGradients(a: Tensor | null, b: Tensor | null): Tensor | null {
  return a && b ? a.add(b) : (a ?? b);
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
