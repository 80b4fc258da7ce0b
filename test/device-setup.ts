/** Run once before all tests: a test device that cannot be used ends the run at once, with the reason, and no test is skipped for it. */
import { cudaAvailable, full, scope, TorchError } from '../packages/torch/src/index.ts';

export default function setup(): void {
  const reason = whyUnusable(process.env.IVTLR_TEST_DEVICE ?? 'cpu');
  if (reason !== null) throw new Error(reason);
}

/** Null for a device that computes. */
export function whyUnusable(device: string): string | null {
  if (device === 'cpu') return null;
  if (!/^cuda(:\d+)?$/.test(device)) return `IVTLR_TEST_DEVICE should be cpu or cuda, not ${device}`;
  if (!cudaAvailable())
    return `IVTLR_TEST_DEVICE is ${device}, but this libtorch sees no GPU; npx ivtlr doctor says why. Without the variable tests run on the CPU`;
  try {
    scope(() => full([2], 1, { device }).sum().item());
    return null;
  } catch (error) {
    if (!(error instanceof TorchError)) throw error;
    return `IVTLR_TEST_DEVICE is ${device}, which cannot be used: ${error.message}`;
  }
}
