/** What every process that owns a model for its parent does: it lives as long as its parent, and opens the model as it is told. */
import { writeSync } from 'node:fs';
import { dieWithParent, hasInput, setNumThreads } from '@ivtlr/torch';
import { deviceOfWorker } from '../engine/device.ts';
import type { LoadedModel } from '../engine/loaded-model.ts';
import { openToAnswer } from '../engine/open-to-answer.ts';
import { UserError } from '../errors.ts';
import { CHANNEL_FD, MESSAGES_FD, type OpenWorker, type SentError } from './worker-messages.ts';

/** Call first. The parent's process id is the program's argument. */
export function liveAsWorker(): void {
  // Signals of a terminal or a scheduler reach workers too. Whether the work stops is decided by the parent, with which they end.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
  process.on('disconnect', () => process.exit());
  process.stderr.on('error', () => {});
  if (!dieWithParent(Number(process.argv[2]))) process.exit();
}

/**
 * Opens the model, on the device of the process's place, to be asked.
 * @returns also what a device `auto` has become, in one line; null where a device was named
 * @throws UserError naming what is missing or wrong
 */
export async function openForParent({
  model,
  index,
  threads,
}: Omit<OpenWorker, 'type'>): Promise<{ opened: LoadedModel; deviceNote: string | null }> {
  const { folder, device: name, deviceSetting, dtype, settings, mergeAdapters, graphs } = model;
  let deviceNote: string | null = null;
  const device = await deviceOfWorker(name, deviceSetting, index, (line) => {
    deviceNote = line;
  });
  setNumThreads(threads);
  const opened = openToAnswer(folder, { device, settings, mergeAdapters, graphs, ...(dtype && { dtype }) });
  return { opened, deviceNote };
}

/** An error in a form that can be sent; see receivedError. */
export function sendable(error: unknown): SentError {
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  return { message, stack, user: error instanceof UserError };
}

/** Whether a message of the parent may have come that the event loop has not read yet. */
export function parentSays(): boolean {
  return hasInput(CHANNEL_FD);
}

/**
 * Sends the parent a message that JSON can hold. Cheaper than `process.send` after work that has emptied the caches: the message is in the pipe when
 * this returns, and leaves nothing to the event loop.
 */
export function tellParent(message: object): void {
  const line = `${JSON.stringify(message)}\n`;
  try {
    const written = writeSync(MESSAGES_FD, line);
    if (written === Buffer.byteLength(line)) return;
    let rest = Buffer.from(line).subarray(written);
    while (rest.length > 0) rest = rest.subarray(writeSync(MESSAGES_FD, rest));
  } catch {
    process.exit(); // the parent has gone
  }
}
