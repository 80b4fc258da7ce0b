/** `ivtlr analyze`: where a model looks, step by step, as drawings and JSON. */
import { join } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import type { Analysis } from '../eval/analyze.ts';
import { makeFolder, writeFileAtomic } from '../files.ts';
import type { Series } from '../trace/step-plot.ts';
import { askedAs } from './asking-flags.ts';
import { addEvaluationFlags, type EvaluationFlags } from './evaluation-flags.ts';
import { latentStepCount } from './number-flags.ts';
import { Progress } from './progress.ts';
import { renderTable } from './table.ts';

interface AnalyzeFlags extends EvaluationFlags {
  out: string;
  against?: string;
  latents?: number;
  /** True for the flag alone. */
  probe?: RegExp | true;
  json?: boolean;
}

/** Written tokens beyond this place are left out of drawings; JSON has them all. */
const DRAWN_TOKENS = 60;

export function registerAnalyze(program: Command): void {
  const command = program
    .command('analyze')
    .description(
      'where the model looks: of every step the attention ratio (attention on picks over attention on text), the focus (1 / entropy of the attention within the image), and how much of the image was picked',
    );
  addEvaluationFlags(command)
    .requiredOption('--out <folder>', 'where attention-ratio.png, focus.png, coverage.png and analysis.json go')
    .option('--against <folder>', 'a second model, such as one that writes its steps, drawn beside the first')
    .option('--latents <n>', 'latent steps of the first model (default: as trained)', latentStepCount)
    .option(
      '--probe [expression]',
      "where is the state? a linear classifier from each step's latent text, and from its picks, to the value that a regular expression finds in each written step of the sample (default: its last word)",
      regularExpression,
    )
    .option('--json', 'print the numbers too')
    .action(runAnalysis);
}

async function runAnalysis(flags: AnalyzeFlags): Promise<void> {
  const { drawStepPlot } = await import('../trace/step-plot.ts');
  const { drawProbe } = await import('../trace/probe-plot.ts');
  const { LAST_WORD, probeTable } = await import('../eval/probe.ts');
  makeFolder(flags.out); // before the work, so that a folder that cannot be made is reported at once
  const { task, split, skipped, asked, analysis } = await analyzeModel(flags, flags.model, {
    latentSteps: flags.latents,
    probe: flags.probe === true ? LAST_WORD : flags.probe,
  });
  const other = flags.against ? await analyzeModel({ ...flags, task: flags.task ?? task }, flags.against) : null;
  skipped.report();
  const models = [
    { model: flags.model, ...asked, ...analysis },
    ...(other ? [{ model: flags.against!, ...other.asked, ...other.analysis }] : []),
  ];
  const { seed, out } = flags;
  const text = `${JSON.stringify({ task, seed, split, skipped: skipped.rows, models }, null, 2)}\n`;
  const files: [name: string, bytes: string | Uint8Array][] = [['analysis.json', text]];
  const ratio = { title: 'Attention ratio', label: 'on picked patches / on text' };
  const focus = { title: 'Attention focus', label: '1 / entropy within the image' };
  const coverage = { title: 'Image covered by the picks so far', label: 'share of image tokens' };
  files.push(
    ['attention-ratio.png', drawStepPlot({ ...ratio, series: seriesOf(models, 'attentionRatio') })],
    ['focus.png', drawStepPlot({ ...focus, series: seriesOf(models, 'focus') })],
  );
  if (analysis.latent.length > 0) {
    const points = analysis.latent.map(({ step, coverage: value }) => ({ step, value }));
    files.push([
      'coverage.png',
      drawStepPlot({ ...coverage, series: [{ name: 'latent steps', points }], range: [0, 1] }),
    ]);
  }
  const { probe } = analysis;
  if (probe) files.push(['probe.png', drawProbe(probe)]);
  for (const [name, bytes] of files) writeFileAtomic(join(out, name), bytes);
  if (probe && !flags.json) {
    const { columns, rows } = probeTable(probe);
    process.stdout.write(`${renderTable(columns, rows)}\n`);
  }
  process.stdout.write(flags.json ? text : files.map(([name]) => `${join(out, name)}\n`).join(''));
}

/** @throws InvalidArgumentError for what is no regular expression */
function regularExpression(text: string): RegExp {
  if (text.trim() === '') throw new InvalidArgumentError('The expression is empty.');
  try {
    return new RegExp(text, 'u');
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

async function analyzeModel(
  flags: EvaluationFlags,
  model: string,
  { latentSteps, probe }: { latentSteps?: number | undefined; probe?: RegExp | undefined } = {},
) {
  const { analyze } = await import('../eval/analyze.ts');
  const { openEvaluation } = await import('./evaluation.ts');
  const { opened, task, split, samples, total, skipped, batch, imageThreads, close } = await openEvaluation(
    { ...flags, model },
    latentSteps,
  );
  const progress = new Progress({ label: model, unit: 'samples', ...(total !== null && { total }) });
  try {
    const analysis = await analyze(opened, task, samples(), {
      batch,
      imageThreads,
      maxNewTokens: flags.maxNewTokens,
      seed: flags.seed,
      ...(latentSteps !== undefined && { latentSteps }),
      ...(probe && { probe }),
      onProgress: (done) => {
        progress.update(done);
        return true;
      },
    });
    return { task: task.name, split, skipped, asked: askedAs(opened, latentSteps), analysis };
  } finally {
    progress.finish();
    await close();
  }
}

/** Latent steps and written tokens of each model; the second model's are named as its own. */
function seriesOf(models: readonly Analysis[], what: 'attentionRatio' | 'focus'): Series[] {
  return models.flatMap(({ latent, written }, index) => {
    const drawn = written.slice(0, DRAWN_TOKENS);
    const whose = index === 0 ? '' : 'second model: ';
    return [
      { name: `${whose}latent steps`, points: latent.map((step) => ({ step: step.step, value: step[what] })) },
      { name: `${whose}written tokens`, points: drawn.map((step) => ({ step: step.step, value: step[what] })) },
    ].filter(({ points }) => points.length > 0);
  });
}
