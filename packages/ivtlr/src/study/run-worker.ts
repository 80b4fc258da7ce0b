/** The process of one run of a study: trains it, or goes on training it, then measures it. It may be killed at any moment. */
import { manualSeed, setNumThreads } from '@ivtlr/torch';
import { defaultSplit } from '../data/find-files.ts';
import { requireRoomForAnswers } from '../engine/answer-memory.ts';
import { resolveDevice } from '../engine/device.ts';
import { openToAnswer } from '../engine/open-to-answer.ts';
import { ablate } from '../eval/ablate.ts';
import { answerable } from '../eval/answerable.ts';
import { toReport } from '../eval/report.ts';
import { generatedSamples } from '../eval/runner.ts';
import { writeFileAtomic } from '../files.ts';
import { dataFolder } from '../hub/resolve.ts';
import { liveAsWorker } from '../pool/worker-inside.ts';
import { runRecipe } from '../runs/run-recipe.ts';
import { streamSamples } from '../tasks/read-samples.ts';
import { loadTask } from '../tasks/task-file.ts';
import { applicableAblations, type Measured, measuredFile } from './measurement.ts';
import type { FromRunWorker, ToRunWorker } from './messages.ts';

liveAsWorker();

let stopped = false;

/** Ends a measurement that nobody waits for any more. */
class Stopped extends Error {}

function send(message: FromRunWorker): void {
  process.send!(message);
}

/** Goes to the run's log. */
function note(line: string): void {
  process.stderr.write(`${line}\n`);
}

async function work({ recipe, measurement }: Extract<ToRunWorker, { type: 'run' }>): Promise<void> {
  const trained = await runRecipe(recipe, {
    resume: true,
    stopRequested: () => (stopped ? 'the study' : null),
    reporter: {
      step: ({ step, phase }, steps) => send({ type: 'step', step, steps, phase }),
      note,
    },
    hub: { note },
  });
  if (trained.model === null) throw new Stopped();
  const measured = await measure(trained.model, trained, { recipe, measurement });
  writeFileAtomic(measuredFile(recipe.out), `${JSON.stringify(measured, null, 2)}\n`);
}

async function measure(
  folder: string,
  { totalSteps, seconds }: { totalSteps: number; seconds: number },
  { recipe, measurement }: Omit<Extract<ToRunWorker, { type: 'run' }>, 'type'>,
): Promise<Measured> {
  const { limit, seed, maxNewTokens, batch } = measurement;
  const task = await loadTask(recipe.task);
  const data = measurement.data === null ? null : await dataFolder(measurement.data, { note });
  const split = data === null ? 'test' : await defaultSplit(data, 'test');
  if (recipe.threads !== null) setNumThreads(recipe.threads);
  manualSeed(seed);
  const opened = openToAnswer(folder, { device: await resolveDevice(recipe.device, 'device', note) });
  const { latents } = opened.settings;
  const { maxPositions } = opened.model;
  const usable = answerable(opened, { task: task.name, maxPositions, latentSteps: latents });
  const samples = () =>
    data === null
      ? generatedSamples(task, seed, 'test', limit!)
      : streamSamples(data, task, {
          split,
          limit: limit ?? Number.POSITIVE_INFINITY,
          columnNames: recipe.data.columns,
          ...(recipe.data.onBadRow === 'skip' && { onBad: () => {}, usable }),
        });
  requireRoomForAnswers(opened, { rows: batch, latentSteps: latents, maxNewTokens });
  const plan = applicableAblations(measurement.ablations, opened.settings);
  const titles: string[] = [];
  const rows = await ablate(opened, task, samples, {
    ...{ plan, batch, maxNewTokens, seed, maxLatents: 0, imageThreads: data === null ? 0 : recipe.data.threads },
    onRun: (title, answered) => {
      if (stopped) throw new Stopped();
      if (titles.at(-1) !== title) titles.push(title);
      send({ type: 'answers', title, at: titles.length - 1, of: plan.length, answered, samples: limit });
    },
  });
  opened.model.module.dispose();
  return {
    ...{ model: folder, task: task.name, seed, split, trainedLatents: latents, measurement },
    training: { steps: totalSteps, seconds },
    results: rows.map((row) => ({ ...row, result: row.result && toReport(row.result) })),
  };
}

process.on('message', (message: ToRunWorker) => {
  if (message.type === 'stop') {
    stopped = true;
    return;
  }
  work(message).then(
    () => send({ type: 'done' }),
    (error: unknown) => {
      if (error instanceof Stopped) return send({ type: 'stopped' });
      note(String(error instanceof Error ? error.stack : error));
      send({ type: 'error', message: error instanceof Error ? error.message : String(error) });
    },
  );
});
send({ type: 'opened', opened: null });
