/** Which processes of a group may read each other's memory: those of one machine and user, where the system lets them (see native/exchange.h). */
import { native } from '../core/native.ts';

/** Set to 0, the processes of a machine send everything through its network device, as those of several machines do. */
const SWITCH = 'IVTLR_READ_PEERS';

/**
 * Finds out, once a group. All its processes call it at the same time.
 * @param texts gives every process's text, in the order of ranks
 * @returns whether all may read each other's
 */
export function findMemoryPeers(group: string, rank: number, texts: (own: string) => string[]): boolean {
  const described = texts(process.env[SWITCH] === '0' ? '' : native.describeMemory(group)).map((text) =>
    text.split(' '),
  );
  const [machine, space] = described[rank]!;
  const reads = described.map(([otherMachine, otherSpace, pid, address, number], other) => {
    const here = other !== rank && machine !== '' && otherMachine === machine && otherSpace === space;
    return here && native.canReadMemory(Number(pid), address!, number!);
  });
  const all = texts(reads.map(Number).join('')).map((line) => [...line].map((digit) => digit === '1'));
  native.setPeers(
    group,
    described.map(
      ([, , pid = '0', mailbox = '0'], other) => [Number(pid), mailbox, reads[other]!, all[other]![rank]!] as const,
    ),
  );
  return all.every((line, reader) => line.every((may, other) => may || reader === other));
}

/** Bytes that this process has read from the memory of others so far. */
export function bytesReadFromPeers(): number {
  return native.bytesRead();
}
