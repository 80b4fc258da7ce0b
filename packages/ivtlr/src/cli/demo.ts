/** `ivtlr demo`: fresh pictures, answered by the bundled model three ways, with drawings of what its latent steps looked at. */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Command, InvalidArgumentError } from 'commander';
import { UserError } from '../errors.ts';
import type { EvalResult } from '../eval/report.ts';
import type { AnsweredSample } from '../eval/runner.ts';
import { writeFileAtomic } from '../files.ts';
import { ABLATIONS } from '../latent/options.ts';
import { formatDuration, Progress } from './progress.ts';
import { renderTable } from './table.ts';

interface DemoOptions {
  seed?: number;
  rows: number;
  traces: number;
  out: string;
  json?: boolean;
}

const bundledModels = fileURLToPath(new URL('../../models/', import.meta.url));
/** Longer than any answer of the task, so that a model that has lost its way is cut off soon. */
const maxNewTokens = 40;

export function registerDemo(program: Command): void {
  program
    .command('demo')
    .description('answer fresh pictures with the bundled model and draw what it looked at')
    .option('--seed <n>', 'seed of the pictures (default: the clock)', whole)
    .option('--rows <n>', 'pictures', whole, 300)
    .option('--traces <n>', 'pictures to draw a strip for', whole, 4)
    .option('--out <folder>', 'where the strips go', join('out', 'demo'))
    .option('--json', 'print the results as JSON')
    .action(demo);
}

async function demo(options: DemoOptions): Promise<void> {
  const started = performance.now();
  const { openModelFolder } = await import('../engine/model-folder.ts');
  const { evaluate, generatedSamples } = await import('../eval/runner.ts');
  const { resultTable, toReport } = await import('../eval/report.ts');
  const { findTask } = await import('../tasks/registry.ts');
  if (options.rows === 0) throw new UserError('--rows should be at least 1');
  const seed = options.seed ?? Date.now() % 2 ** 31;
  const task = findTask('dominoes');
  const say = (text: string) => process.stderr.write(`${text}\n`);
  say(`${options.rows} fresh pictures (seed ${seed}, none of which any model was trained on)`);
  const runs = [
    { name: 'IVT-LR, 3 latent steps', folder: 'dominoes', ablation: ABLATIONS.full!, draw: true },
    { name: 'explicit chain of thought', folder: 'dominoes-cot', ablation: ABLATIONS.full!, draw: false },
    { name: 'IVT-LR, latent steps removed', folder: 'dominoes', ablation: ABLATIONS['zero-latents']!, draw: false },
  ];
  const results: EvalResult[] = [];
  const strips: string[] = [];
  for (const { name, folder, ablation, draw } of runs) {
    const path = join(bundledModels, folder);
    if (!existsSync(path))
      throw new UserError(`the bundled model ${path} is missing; train it with: ivtlr train ${folder}`);
    const opened = openModelFolder(path);
    opened.model.module.eval();
    const progress = new Progress({ label: name, total: options.rows, unit: 'pictures' });
    const shown: AnsweredSample[] = [];
    const result = await evaluate(opened, task, generatedSamples(task, seed, 'test', options.rows), {
      name,
      batch: 50,
      maxNewTokens,
      ablation,
      seed,
      onBatch: (done) => {
        progress.update(done);
        return true;
      },
      onAnswer: (answer) => {
        if (draw && shown.length < options.traces) shown.push(answer);
      },
    });
    opened.model.module.dispose();
    progress.finish();
    results.push(result);
    for (const [index, answer] of shown.entries()) strips.push(await writeStrip(options.out, index, answer));
  }
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ seed, strips, results: results.map(toReport) }, null, 2)}\n`);
    return;
  }
  const { columns, rows } = resultTable(results);
  process.stdout.write(`${renderTable(columns, rows)}\n`);
  process.stdout.write('steps = latent steps + generated tokens; a guess would be right in 0.250 of the cases\n');
  for (const path of strips) process.stdout.write(`what the latent steps looked at: ${path}\n`);
  say(`done in ${formatDuration((performance.now() - started) / 1000)}`);
}

/** Draws one answer's latent steps as a PNG. */
async function writeStrip(out: string, index: number, answer: AnsweredSample): Promise<string> {
  const { drawTrace } = await import('../latent/trace-picture.ts');
  const { decodeImage } = await import('../vision/decode.ts');
  const { sample, answered, score, trace, tokenGrid } = answer;
  const options = sample.choices.map((choice, i) => `(${String.fromCharCode(65 + i)}) ${choice}`).join('  ');
  const verdict = score.strict ? 'right' : `wrong, it is ${sample.answer}`;
  mkdirSync(out, { recursive: true });
  const path = join(out, `trace-${index + 1}.png`);
  const png = drawTrace({
    image: await decodeImage(sample.image),
    tokenGrid,
    steps: trace,
    question: `${sample.question}\n${options}`,
    answer: `${answered.generated.trim()}\n(${verdict})`,
  });
  writeFileAtomic(path, png);
  return path;
}

function whole(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It should be a whole number, 0 or more.');
  return Number(text);
}
