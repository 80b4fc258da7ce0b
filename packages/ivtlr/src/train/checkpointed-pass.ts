/**
 * A pass that remembers only the borders between decoder layers: memory for one layer's activations instead of all, for one more forward pass.
 * Backward never calls into JavaScript, so the layers are run again from here (see checkpoint in @ivtlr/torch).
 * Shapes: B batch, S sequence, D hidden size.
 */
import { checkpoint, type Tensor } from '@ivtlr/torch';
import type { LayerChain } from '../models/types.ts';

export interface CheckpointedPass {
  /** (B, S, D) after the final norm; its graph ends before the last layer's output. */
  hidden: Tensor;
  /** Carries the gradient that a backward pass through `hidden` has left into the layers' parameters and the inputs' graph. Once. */
  continueBackward(): void;
}

/** inputs (B, S, D). Call inside a scope: what is kept between the two passes belongs to it. */
export function checkpointedPass(inputs: Tensor, { layers, finish }: LayerChain): CheckpointedPass {
  let border = inputs;
  const calls = layers.map((layer, i) => {
    // Whether a parameter before this layer is trained is not known here, so every inner border asks for a gradient.
    const call = checkpoint(layer, [border], { needsGrad: [i > 0 || inputs.requiresGrad] });
    border = call.output;
    return call;
  });
  const last = border.detach();
  last.requiresGrad = true;
  return {
    hidden: finish(last),
    continueBackward() {
      let gradient = last.grad;
      for (const call of calls.reverse()) {
        if (!gradient) return;
        const [next] = call.backward(gradient);
        gradient.dispose();
        call.dispose();
        gradient = next ?? null;
      }
      if (gradient && inputs.requiresGrad) inputs.backward(gradient);
    },
  };
}
