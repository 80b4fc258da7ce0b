/** What goes wrong in one process ends all of them, at the same point and with the same message. */
import { DistributedError } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import type { Ranks } from '../parallel/ranks.ts';

/** An error that a process keeps until all processes have come to a point where they tell each other. */
export interface Failure {
  failed: unknown;
}

/** Errors that all processes have heard of. */
const agreed = new WeakSet<Error>();

/**
 * Called by all processes when one of them has failed.
 * @param own what went wrong in this process, if something did
 * @throws UserError where the first failure is the user's to mend, in every process; otherwise this process's own error, or one that names the other's
 */
export function raiseTogether(ranks: Ranks, own: Failure | null): never {
  if (ranks.size === 1 || isAgreed(own)) throw own!.failed;
  const error = togetherError(ranks, own);
  agreed.add(error);
  throw error;
}

/** Whether this failure has ended all processes already, or the group is broken, so that they cannot be told. */
function isAgreed(failure: Failure | null): boolean {
  const error = failure?.failed;
  return error instanceof DistributedError || (error instanceof Error && agreed.has(error));
}

function togetherError(ranks: Ranks, own: Failure | null): Error {
  const isUsers = own?.failed instanceof UserError;
  const texts = ranks.texts(own === null ? '' : `${isUsers ? 'u' : 'o'}${messageOf(own.failed)}`, 'what went wrong');
  const first = texts.findIndex((text) => text !== '');
  const message = texts[first]!.slice(1);
  const failed = texts.filter((text) => text !== '');
  const everywhere = failed.length === ranks.size && failed.every((text) => text === failed[0]);
  if (texts[first]!.startsWith('u')) {
    return new UserError(everywhere ? message : `process ${first} of ${ranks.size}: ${message}`);
  }
  if (own?.failed instanceof Error && !isUsers) return own.failed;
  return new Error(`process ${first} of ${ranks.size} failed: ${message}`);
}

/**
 * Ends all processes if one of them has failed. Called by all of them.
 * @param stop why this process was asked to stop, or null
 * @returns why any process was, the same in all
 */
export function agree(ranks: Ranks, failure: Failure | null, stop: string | null = null): string | null {
  if (isAgreed(failure)) throw failure!.failed;
  const [failures, stops] = ranks.max([failure ? 1 : 0, stop === null ? 0 : 1], 'whether to go on');
  if (failures! > 0) raiseTogether(ranks, failure);
  return stops === 0 ? null : ranks.texts(stop ?? '', 'the reason to stop').find((reason) => reason !== '')!;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
