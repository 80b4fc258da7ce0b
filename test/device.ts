/**
 * The device that parity, latent, training, LoRA and resume tests run on: the environment variable IVTLR_TEST_DEVICE, `cpu` (default) or `cuda`.
 * `device-setup.ts` has seen to it that it works before any test begins.
 */
import { type Module, setAllowTf32 } from '@ivtlr/torch';

export const TEST_DEVICE = process.env.IVTLR_TEST_DEVICE ?? 'cpu';
export const ON_GPU = TEST_DEVICE !== 'cpu';

/** A GPU multiplies float32 in float32 here, as goldens were made. */
if (ON_GPU) setAllowTf32(false);

/** Moves a model there. */
export function placed<M extends Module>(model: M): M {
  return ON_GPU ? model.to({ device: TEST_DEVICE }) : model;
}

/** The bound of a relative error: a GPU adds in another order, and is allowed 1e-3 where a CPU is held to less. */
export function tolerance(onCpu: number): number {
  return ON_GPU ? Math.max(onCpu, 1e-3) : onCpu;
}
