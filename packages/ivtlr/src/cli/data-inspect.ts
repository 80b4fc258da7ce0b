/** `ivtlr data inspect`: one row as the model is trained on it: prompt, steps, labels in colour, token counts, the image with its token grid. */
import { type Command, Option } from 'commander';
import { UserError } from '../errors.ts';
import type { InspectedSample, TokenRun } from '../inspect/inspect-sample.ts';
import { printable } from '../printable.ts';
import { DATASETS } from '../tasks/datasets.ts';
import type { IndexedSample } from '../tasks/read-samples.ts';
import { SPLITS, type Split, type Task } from '../tasks/task.ts';
import type { ProfileName } from '../text/prompt.ts';
import { tokenCount, viewsOf } from '../vision/token-views.ts';
import { askedAs, imageSizeOption, profileOption, settingsFromFlags } from './asking-flags.ts';
import { addReadingFlags, type ReadingFlags, SkippedRows } from './data-flags.ts';
import { latentStepCount, MAX, seedNumber, wholeNumberWithin } from './number-flags.ts';

interface InspectFlags extends ReadingFlags {
  data?: string;
  split: Split;
  row: number;
  seed: number;
  stage: number;
  model: string;
  profile?: ProfileName;
  imageSize?: string;
  maxSteps: number;
  maxLatentStage: number;
  padLatentToMax: boolean;
  png: string;
  json?: boolean;
}

export function registerDataInspect(data: Command): void {
  const command = data
    .command('inspect')
    .description('one row as a model is trained on it')
    .argument('<task>', 'how the row is read: a task, or a file that holds one')
    .requiredOption('--model <folder>', 'model folder, or owner/name on the hub; its weights are not read')
    .option(
      '--data <folder>',
      'Parquet, JSON lines or JSON file, a folder of them, or owner/name on the hub (default: a fresh sample, or the data set of the task)',
    )
    .addOption(new Option('--split <name>', 'which rows').choices(SPLITS).default('train'))
    .option(
      '--row <n>',
      'row of the split, from 0, rows without an image counted too',
      wholeNumberWithin(0, MAX.rows),
      0,
    )
    .option('--seed <n>', 'seed of fresh samples', seedNumber, 0)
    .option('--stage <n>', 'latent stage', latentStepCount, 0)
    .addOption(profileOption("the official code's, where it knows the family"))
    .addOption(imageSizeOption())
    .option('--max-steps <n>', 'most pieces a rationale is cut into', latentStepCount, 3)
    .option('--max-latent-stage <n>', 'last stage that drops one more step', latentStepCount, 5)
    .option('--no-pad-latent-to-max', 'beyond the last stage, no more latent steps than written ones')
    .option('--png <file>', 'where the image with its token grid goes', 'inspect.png')
    .option('--json', 'print one JSON object');
  addReadingFlags(command).action((task: string, flags: InspectFlags) => inspect(task, flags));
}

async function inspect(taskName: string, flags: InspectFlags): Promise<void> {
  const { openWithoutWeights } = await import('../engine/folder-rendering.ts');
  const { folderFamily } = await import('../models/registry.ts');
  const { modelFolder } = await import('./hub-folders.ts');
  const { inspectSample } = await import('../inspect/inspect-sample.ts');
  const { readReasoningSettings } = await import('../engine/loaded-model.ts');
  const { writeFileAtomic } = await import('../files.ts');
  const { loadTask } = await import('../tasks/task-file.ts');
  const { drawTokenGrids } = await import('../trace/token-grid-image.ts');
  const task = await loadTask(taskName);
  const { stage, maxSteps, maxLatentStage, padLatentToMax } = flags;
  const model = await modelFolder(flags.model);
  // A row is shown as it is trained on; a folder without settings has no profile for that, so it gets the official one, if there is one.
  const family = folderFamily(model);
  const settings = {
    ...readReasoningSettings(model, family, flags.profile ?? (family.official ? 'official' : 'consistent')),
    ...settingsFromFlags(flags),
  };
  const { profile } = settings;
  const opened = openWithoutWeights(model, settings);
  const sample = await findSample(task, flags);
  const options = { task: task.name, stage, maxSteps, maxLatentStage, padLatentToMax };
  const { inspected, images } = await inspectSample(sample, opened, options);
  if (images.length > 0)
    writeFileAtomic(
      flags.png,
      await drawTokenGrids(images.map((views, i) => ({ images: views, layout: inspected.images[i]! }))),
    );
  if (flags.json) {
    const { split, row, png } = flags;
    // Latent steps are those of the stage.
    const { latents: _, ...asked } = askedAs({ settings, inputs: opened.inputs });
    process.stdout.write(`${JSON.stringify({ task: task.name, split, row, png, ...asked, ...inspected })}\n`);
    return;
  }
  process.stdout.write(
    `${describe(inspected, { profile, imageSize: opened.inputs.imageSize, resize: opened.inputs.resize }, wantsColour())}\n${images.length > 0 ? `image with its token grid: ${flags.png}\n` : ''}`,
  );
}

async function findSample(task: Task, flags: InspectFlags): Promise<IndexedSample> {
  const { split, row, seed } = flags;
  if (flags.data === undefined && task.generator) {
    return { ...task.generator.sample(seed, split, row), rowIndex: row };
  }
  const { dataFolder } = await import('./hub-folders.ts');
  const { streamSamples } = await import('../tasks/read-samples.ts');
  const source = flags.data ?? DATASETS[task.name]?.repo;
  if (source === undefined) throw new UserError(`task ${task.name} has no data set on the hub; give --data`);
  const data = await dataFolder(source);
  const skipped = new SkippedRows();
  const onBad = skipped.handler(flags);
  let last = -1;
  try {
    for await (const sample of streamSamples(data, task, { split, onBad, columnNames: flags.column })) {
      last = sample.rowIndex;
      if (last === row) return sample;
      if (last > row) throw new UserError(`row ${row} of ${data} has no image${onBad ? ', or was skipped' : ''}`);
    }
  } finally {
    skipped.report();
  }
  throw new UserError(`there is no row ${row} with an image in ${data}; the last one is row ${last}`);
}

/** NO_COLOR and FORCE_COLOR as in other programs (no-color.org). */
function wantsColour(): boolean {
  if (process.env.NO_COLOR) return false;
  return process.env.FORCE_COLOR ? process.env.FORCE_COLOR !== '0' : process.stdout.isTTY === true;
}

const COLOURS: Record<TokenRun['kind'], string> = {
  prompt: '\x1b[2m',
  image: '\x1b[36m',
  latent: '\x1b[35m',
  trained: '\x1b[32m',
};

/** All of it as text for the terminal. Exported for tests. */
export function describe(
  sample: InspectedSample,
  { profile, imageSize, resize }: { profile: string; imageSize: string; resize: string },
  colour: boolean,
): string {
  const paint = (kind: TokenRun['kind'], text: string) =>
    colour ? `${COLOURS[kind]}${printable(text)}\x1b[0m` : printable(text);
  const { tokens, images, stage, latents, droppedSteps, steps, truncatedSteps } = sample;
  const readAs = `${imageSize === 'native' ? 'its own size' : imageSize} (${resize})`;
  const pictures = images.map((image, i) => {
    const grids = viewsOf(image).map(
      ({ name, grid: [rows, columns] }) => `${rows} x ${columns}${image.views ? ` (${name})` : ''}`,
    );
    const which = images.length > 1 ? ` ${i + 1}` : '';
    return `image${which} ${image.width}x${image.height} read at ${readAs}: ${grids.join(' + ')} = ${tokenCount(image)} image tokens`;
  });
  const meta = Object.entries(sample.meta).map(([name, value]) => `${name}: ${value}`);
  const lines = [
    `sample ${sample.id}   answer ${sample.answer}   ${meta.join(', ')}`,
    ...(pictures.length > 0 ? pictures : ['no image']),
    '',
    ...steps.map((step, index) => {
      const length = tokens.steps[index];
      const note =
        length === undefined
          ? 'left out: too long'
          : `${length} tokens${index < droppedSteps ? ', latent at this stage' : ''}`;
      return `step ${index + 1} (${note}): ${step}`;
    }),
    steps.length === 0
      ? 'no steps'
      : `${steps.length} steps${truncatedSteps > 0 ? `, ${truncatedSteps} too long` : ''}`,
    '',
    `stage ${stage}: ${latents} latent slots; profile ${profile}; ` +
      `${tokens.prompt} prompt + ${tokens.image} image + ${latents} latent + ${tokens.trained} trained = ${tokens.total} tokens`,
    '',
  ];
  const runs = sample.runs.map(({ kind, tokens: count, text }) => {
    const shown = kind === 'image' || kind === 'latent' ? '' : `\n${text}`;
    return paint(kind, `[${kind}, ${count} ${count === 1 ? 'token' : 'tokens'}]${shown}`);
  });
  return [...lines.map(printable), ...runs].join('\n');
}
