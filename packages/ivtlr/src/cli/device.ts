/** The --device flag. */
import { existsSync } from 'node:fs';
import { resolveDevice } from '../engine/device.ts';

/**
 * Tries the device before anything is loaded onto it. What `auto` has become is said on stderr where it matters: when it is a GPU, or when the machine has an
 * NVIDIA driver and it is none.
 * @throws UserError for a GPU that is not there or does not work
 */
export function deviceOfFlag(name: string): Promise<string> {
  return resolveDevice(name, '--device', noteDevice);
}

/** Says what `auto` has become, where it matters. */
export function noteDevice(line: string): void {
  if (!line.startsWith('device: cpu') || existsSync('/proc/driver/nvidia/version')) process.stderr.write(`${line}\n`);
}
