/** `ivtlr demo`: fresh images, answered by the bundled models with and without their latent steps, with drawings of what these looked at. */
import { join } from 'node:path';
import type { Command } from 'commander';
import type { Sample } from '../data/sample.ts';
import type { Answer } from '../engine/ask.ts';
import type { LoadedModel } from '../engine/loaded-model.ts';
import type { EvalResult } from '../eval/report.ts';
import { ABLATIONS } from '../latent/options.ts';
import { seedNumber, wholeNumberWithin } from './number-flags.ts';
import { formatDuration, Progress } from './progress.ts';
import { renderTable } from './table.ts';

interface DemoOptions {
  seed?: number;
  rows: number;
  traces: number;
  out: string;
  json?: boolean;
}

/** A sample whose latent steps were drawn. */
interface Drawn {
  image: string;
  question: string;
  answer: string;
  gold: string;
}

/** Longer than any answer of the task, so that a model that has lost its way is cut off soon. */
const maxNewTokens = 40;
const batch = 50;
const MAX_IMAGES = 1_000_000;
const MAX_STRIPS = 1000;

export function registerDemo(program: Command): void {
  program
    .command('demo')
    .description('answer fresh images with the bundled model and draw what it looked at')
    .option('--seed <n>', 'seed of the images (default: the clock)', seedNumber)
    .option('--rows <n>', 'images', wholeNumberWithin(1, MAX_IMAGES), 300)
    .option('--traces <n>', 'images to draw a strip for', wholeNumberWithin(0, MAX_STRIPS), 4)
    .option('--out <folder>', 'where the strips go', join('out', 'demo'))
    .option('--json', 'print the results as JSON')
    .action(demo);
}

async function demo(options: DemoOptions): Promise<void> {
  const started = performance.now();
  const { setNumThreads } = await import('@ivtlr/torch');
  const { bundledModel } = await import('../engine/bundled-model.ts');
  const { openToAnswer } = await import('../engine/open-to-answer.ts');
  const { evaluate, generatedSamples } = await import('../eval/runner.ts');
  const { resultTable, toReport } = await import('../eval/report.ts');
  const { findTask } = await import('../tasks/registry.ts');
  const seed = options.seed ?? Date.now() % 2 ** 31;
  // A model this small gains nothing from a second thread, and loses much where another program wants that core.
  setNumThreads(1);
  const say = (text: string) => process.stderr.write(`${text}\n`);
  say(`${options.rows} fresh images (seed ${seed}, none of which any model was trained on)`);
  const runs = [
    { name: 'IVT-LR, 3 latent steps', folder: 'dominoes', ablation: ABLATIONS.full!, draw: true },
    { name: 'explicit chain of thought', folder: 'dominoes-cot', ablation: ABLATIONS.full!, draw: false },
    { name: 'IVT-LR, latent steps removed', folder: 'dominoes', ablation: ABLATIONS['zero-latents']!, draw: false },
    { name: 'relay, 3 latent steps', folder: 'relay', ablation: ABLATIONS.full!, draw: false },
    {
      name: "relay, last latent text another image's",
      folder: 'relay',
      ablation: ABLATIONS['last-text-swapped']!,
      draw: false,
    },
  ];
  const results: EvalResult[] = [];
  const drawn: Drawn[] = [];
  for (const { name, folder, ablation, draw } of runs) {
    const opened = openToAnswer(bundledModel(folder));
    const task = findTask(opened.settings.task!);
    // The first batch of a process pays for code that is compiled on first use; without this the first run would look slow.
    await evaluate(opened, task, generatedSamples(task, seed, 'validation', batch), {
      name,
      batch,
      maxNewTokens,
      ablation,
    });
    const progress = new Progress({ label: name, total: options.rows, unit: 'images' });
    const result = await evaluate(opened, task, generatedSamples(task, seed, 'test', options.rows), {
      name,
      batch,
      maxNewTokens,
      ablation,
      seed,
      onProgress: (done) => {
        progress.update(done);
        return true;
      },
    });
    progress.finish();
    results.push(result);
    if (draw) {
      for (const sample of generatedSamples(task, seed, 'test', Math.min(options.traces, options.rows))) {
        drawn.push(await drawSample(opened, sample, options.out, `trace-${drawn.length + 1}`));
      }
    }
    opened.model.module.dispose();
  }
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ seed, traces: drawn, results: results.map(toReport) }, null, 2)}\n`);
    return;
  }
  const { columns, rows } = resultTable(results);
  process.stdout.write(`${renderTable(columns, rows)}\n`);
  process.stdout.write('steps = latent steps + generated tokens; a guess would be right in 0.250 of the cases\n');
  for (const { image, question, answer, gold } of drawn) {
    process.stdout.write(
      `\n${image}: what the latent steps looked at\n  ${question}\n  ${answer} (right is ${gold})\n`,
    );
  }
  say(`done in ${formatDuration((performance.now() - started) / 1000)}`);
  process.stdout.write('\nTo ask it yourself in a browser: npx ivtlr serve, then open http://127.0.0.1:8000\n');
}

/** Answers a sample by itself and draws its latent steps. Returns what to tell about it. */
async function drawSample(opened: LoadedModel, sample: Sample, out: string, name: string): Promise<Drawn> {
  const { answer } = await import('../engine/ask.ts');
  const { writeTrace } = await import('../trace/trace-files.ts');
  let result: Answer | undefined;
  for await (const event of answer(opened, sample, { maxNewTokens, trace: true })) {
    if (event.type === 'end') result = event.answer;
  }
  const { image } = await writeTrace(out, name, sample, result!, { id: sample.id, gold: sample.answer });
  return {
    image,
    question: sample.question,
    answer: result!.text.trim().replaceAll('\n', '; '),
    gold: sample.answer,
  };
}
