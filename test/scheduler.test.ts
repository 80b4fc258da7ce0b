/** The reading of the scheduler's record behind what `bench/serve.mjs --parts alone` says of a server's cost. */
import { expect, test } from 'vitest';
import { waits } from '../bench/scheduler.mjs';

const ENGINE = [11, 12];
const SERVER = [21];
const OTHER = 31;

/** Lines as tracefs writes them. */
const switched = (ms: number, core: number, from: number, state: string, to: number) =>
  `  node-${from}  [00${core}] d..2.  ${(100 + ms / 1000).toFixed(6)}: sched_switch: prev_comm=a b prev_pid=${from} prev_prio=120 prev_state=${state} ==> next_comm=node next_pid=${to} next_prio=120`;
const woken = (ms: number, thread: number, core: number) =>
  `  node-1  [000] d..2.  ${(100 + ms / 1000).toFixed(6)}: sched_waking: comm=node pid=${thread} prio=120 target_cpu=00${core}`;
const both = [switched(0, 0, 0, 'S', 11), switched(0, 1, 0, 'S', 12)];
const milliseconds = (lines: string[]) => {
  const { waited, ran } = waits(['# tracer: nop', ...lines].join('\n'), new Set(ENGINE), new Set(SERVER));
  return { waited: Math.round(1e6 * waited) / 1000, ran: Math.round(1e6 * ran) / 1000 };
};

test('a thread that lost its core to the server waits until it has one again', () => {
  const lines = [...both, switched(10, 1, 12, 'R', 21), switched(13, 1, 21, 'S', 12), switched(20, 0, 11, 'S', 0)];
  expect(milliseconds(lines)).toEqual({ waited: 3, ran: 3 });
});

test('so does one that was woken meanwhile, and goes to another core', () => {
  const lines = [
    ...both,
    switched(10, 1, 12, 'S', 21),
    woken(11, 12, 1),
    switched(15, 0, 11, 'S', 12),
    switched(16, 1, 21, 'S', 0),
  ];
  expect(milliseconds(lines)).toEqual({ waited: 4, ran: 6 });
});

test('waiting for other programs is not counted, nor is a server on a core that nobody wants', () => {
  expect(milliseconds([...both, switched(10, 1, 12, 'R', OTHER), switched(15, 1, OTHER, 'S', 12)]).waited).toBe(0);
  const slept = [...both, switched(10, 1, 12, 'S', 21), switched(15, 1, 21, 'S', 0), switched(16, 0, 11, 'S', 0)];
  expect(milliseconds(slept)).toEqual({ waited: 0, ran: 5 });
});

test('a woken thread takes a core that is idle, though its switch is not in the record', () => {
  const lines = [
    ...both,
    switched(10, 1, 12, 'S', 0),
    woken(11, 12, 0),
    switched(14, 0, 11, 'R', 21),
    switched(16, 0, 21, 'S', 11),
    switched(18, 1, 12, 'S', 0),
  ];
  expect(milliseconds(lines)).toEqual({ waited: 2, ran: 2 });
});
