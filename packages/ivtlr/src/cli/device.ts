/** The --device flag. */
import { UserError } from '../errors.ts';

/**
 * Checks that libtorch can use a device before anything is loaded onto it.
 *
 * @param name `cpu`, `cuda` or `cuda:1`.
 * @throws UserError saying what can be used instead.
 */
export async function requireDevice(name: string): Promise<void> {
  if (!/^(cpu|cuda(:\d+)?)$/.test(name)) throw new UserError(`--device ${name}: known are cpu, cuda and cuda:N`);
  if (name === 'cpu') return;
  const { cudaAvailable } = await import('@ivtlr/torch');
  if (!cudaAvailable()) {
    throw new UserError(
      `--device ${name}: this libtorch sees no CUDA GPU (\`ivtlr doctor\` says more); use --device cpu`,
    );
  }
}
