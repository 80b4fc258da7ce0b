import { describe, expect, it } from 'vitest';
import { fitToTerminal } from '../launch/worker-environment.ts';
import { formatDuration, Progress } from './progress.ts';

function fakeStream(isTTY: boolean, columns = 100) {
  const writes: string[] = [];
  return { writes, isTTY, columns, write: (text: string) => writes.push(text) };
}

describe('Progress', () => {
  it('redraws one line on a terminal, at most ten times a second', () => {
    const stream = fakeStream(true);
    let time = 0;
    const progress = new Progress({ label: 'answering', total: 200, unit: 'samples', stream, now: () => time });
    for (let done = 1; done <= 100; done++) {
      time += 20;
      progress.update(done, 'acc .9');
    }
    expect(stream.writes).toHaveLength(20);
    expect(stream.writes.every((text) => text.startsWith('\r\x1b[2K') && !text.includes('\n'))).toBe(true);
    expect(stream.writes.at(-1)).toBe('\r\x1b[2Kanswering 96/200  48%  50 samples/s  2.1 s left  acc .9');
    progress.finish();
    expect(stream.writes.slice(-2)).toEqual(['\r\x1b[2K', 'answering: 100 samples in 2.0 s\n']);
  });

  it('cuts the line to the terminal', () => {
    const stream = fakeStream(true, 20);
    new Progress({ label: 'a long label that does not fit', stream, now: () => 0 }).update(1);
    expect(stream.writes[0]).toBe('\r\x1b[2Ka long label that d');
  });

  it('follows a terminal whose width changes', () => {
    const stream = fakeStream(true, 20);
    let time = 0;
    const progress = new Progress({ label: 'a long label that does not fit', stream, now: () => time });
    for (const columns of [20, 7, 12]) {
      stream.columns = columns;
      time += 200;
      progress.update(1);
    }
    expect(stream.writes).toEqual(['\r\x1b[2Ka long label that d', '\r\x1b[2Ka long', '\r\x1b[2Ka long labe']);
  });

  it('of a worker is cut by its launcher, to the width of that moment', () => {
    const text = 'a note that is longer\n\r\x1b[2Kstep 10/36  27%\r\x1b[2Kstep 11/36\r\x1b[2K\r\x1b[2Kdone in 2 s\n';
    expect(fitToTerminal(text, 9)).toBe(
      'a note that is longer\n\r\x1b[2Kstep 10/\r\x1b[2Kstep 11/\r\x1b[2K\r\x1b[2Kdone in 2 s\n',
    );
    expect(fitToTerminal(text, 100)).toBe(text);
  });

  it('writes plain lines every few seconds into a log', () => {
    const stream = fakeStream(false);
    let time = 0;
    const progress = new Progress({
      label: 'training',
      total: 1000,
      unit: 'steps',
      initial: 400,
      stream,
      now: () => time,
    });
    for (let second = 1; second <= 12; second++) {
      time += 1000;
      progress.update(400 + 10 * second);
    }
    expect(stream.writes).toEqual([
      'training 450/1000  45%  10 steps/s  55 s left\n',
      'training 500/1000  50%  10 steps/s  50 s left\n',
    ]);
  });

  it('keeps logged lines above the progress line', () => {
    const stream = fakeStream(true);
    const progress = new Progress({ label: 'x', stream, now: () => 0 });
    progress.update(1);
    progress.log('saved');
    expect(stream.writes).toEqual(['\r\x1b[2Kx 1', '\r\x1b[2K', 'saved\n', '\r\x1b[2Kx 1']);
  });
});

it('formats durations', () => {
  expect([0.42, 59, 61, 3725, Number.POSITIVE_INFINITY].map(formatDuration)).toEqual([
    '0.4 s',
    '59 s',
    '1:01 min',
    '1:02:05 h',
    '?',
  ]);
});

it('shows no rate before it means something', () => {
  const stream = fakeStream(true);
  let time = 0;
  const progress = new Progress({ label: 'x', total: 10_000, stream, now: () => time });
  time = 1;
  progress.update(500);
  time = 1000;
  progress.update(600);
  expect(stream.writes).toEqual(['\r\x1b[2Kx 500/10000  5%', '\r\x1b[2Kx 600/10000  6%  600 items/s  16 s left']);
});
