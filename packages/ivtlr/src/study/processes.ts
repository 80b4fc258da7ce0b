/** The runs of a study in several processes, each run in one of its own. */
import { join } from 'node:path';
import { compiledModule } from '../compiled-module.ts';
import { makeFolder } from '../files.ts';
import { Log } from '../launch/log.ts';
import { WorkerProcess } from '../pool/worker-process.ts';
import { readMeasured } from './measurement.ts';
import type { FromRunWorker, ToRunWorker } from './messages.ts';
import type { StudyPlan, StudyRun } from './plan.ts';

export interface StudyFailure {
  run: StudyRun;
  reason: string;
  /** What its process has written; null where it has not been started. */
  log: string | null;
}

export interface RunAllOptions {
  /** Runs at a time. */
  processes: number;
  /** When it is aborted, runs that train write a checkpoint, and all end. */
  stop: AbortSignal;
  /** Told in a line what happens. */
  note(line: string): void;
  /** Runs that are done, with the parts of those under way, and what these do. */
  progress(done: number, doing: string): void;
  /** A run is done or has failed; the failures so far. */
  ended(run: StudyRun, failures: readonly StudyFailure[]): void;
}

/** The part of a run's time that training takes, about; the measurement takes the rest. For the time left only. */
const TRAINING_SHARE = 0.8;

export function isDone({ folder, measurement }: StudyRun): boolean {
  return readMeasured(folder, measurement) !== null;
}

export function titleOf({ name, seed }: StudyRun): string {
  return `${name} seed ${seed}`;
}

/**
 * Trains and measures what is not done yet. A run that fails does not stop the others, except those that start from its model.
 * @returns the runs that failed
 */
export async function runAll(plan: StudyPlan, options: RunAllOptions): Promise<StudyFailure[]> {
  const { processes, stop, note } = options;
  const done = new Set(plan.runs.filter(isDone));
  const waiting = plan.runs.filter((run) => !done.has(run));
  const failures: StudyFailure[] = [];
  const active = new Map<StudyRun, { ended: Promise<void>; part: number; doing: string }>();
  const tell = () => {
    const under = [...active];
    const parts = under.reduce((sum, [, { part }]) => sum + part, 0);
    options.progress(done.size + parts, under.map(([run, { doing }]) => `${titleOf(run)}: ${doing}`).join(', '));
  };
  const fail = (failure: StudyFailure) => {
    failures.push(failure);
    note(`${titleOf(failure.run)} failed: ${failure.reason}${failure.log === null ? '' : ` (log: ${failure.log})`}`);
    options.ended(failure.run, failures);
  };
  const begin = (run: StudyRun) => {
    const log = join(run.folder, 'study.log');
    const heard = (part: number, doing: string) => {
      Object.assign(active.get(run)!, { part, doing });
      tell();
    };
    const ended = runOne(run, log, { stop, note, heard }).then((end) => {
      active.delete(run);
      if (end === 'done') {
        done.add(run);
        options.ended(run, failures);
      } else if (end !== 'stopped') fail({ run, reason: end.reason, log });
    });
    active.set(run, { ended, part: 0, doing: 'starting' });
    tell();
  };
  for (;;) {
    while (!stop.aborted && active.size < processes) {
      const at = waiting.findIndex(({ base }) => base === null || done.has(base));
      if (at < 0) break;
      begin(waiting.splice(at, 1)[0]!);
    }
    if (active.size === 0) break;
    await Promise.race([...active.values()].map(({ ended }) => ended));
  }
  // Runs that could not begin wait for one that failed.
  if (!stop.aborted)
    for (const run of waiting)
      fail({ run, reason: `it starts from the model of ${titleOf(run.base!)}, which failed`, log: null });
  return failures;
}

type RunEnd = 'done' | 'stopped' | { reason: string };

interface RunOneOptions extends Pick<RunAllOptions, 'stop' | 'note'> {
  /** The part of the run that is done, from 0 to 1, and what it does. */
  heard(part: number, doing: string): void;
}

async function runOne(run: StudyRun, logFile: string, { stop, note, heard }: RunOneOptions): Promise<RunEnd> {
  const { recipe, measurement, folder } = run;
  makeFolder(folder);
  const log = new Log(logFile, note);
  let resolve: (end: RunEnd) => void = () => {};
  const ended = new Promise<RunEnd>((settle) => {
    resolve = settle;
  });
  const worker = new WorkerProcess<ToRunWorker, FromRunWorker, null>(
    compiledModule('./run-worker', import.meta.url),
    { type: 'run', recipe, measurement },
    {
      message(message) {
        if (message.type === 'step') {
          const { step, steps, phase } = message;
          heard((TRAINING_SHARE * step) / steps, `${phase} ${step}/${steps}`);
        } else if (message.type === 'answers') {
          const { title, at, of, answered, samples } = message;
          const part = (at + (samples === null ? 0 : answered / samples)) / of;
          heard(
            TRAINING_SHARE + (1 - TRAINING_SHARE) * part,
            `${title} ${answered}${samples === null ? '' : `/${samples}`}`,
          );
        } else if (message.type === 'error') resolve({ reason: message.message });
        else if (message.type === 'done' || message.type === 'stopped') resolve(message.type);
      },
      line: (text) => log.write(text),
      ended: (how) => resolve({ reason: `its process has ended early: ${how}` }),
    },
  );
  worker.ref();
  worker.opened.catch((error: Error) => resolve({ reason: `its process has ended early: ${error.message}` }));
  log.write(`--- ${new Date().toISOString()} ${titleOf(run)}, pid ${worker.pid}`);
  const passOn = () => worker.send({ type: 'stop' });
  stop.addEventListener('abort', passOn);
  try {
    return await ended;
  } finally {
    stop.removeEventListener('abort', passOn);
    await worker.close();
    log.close();
  }
}
