/** `ivtlr infer`: one question about one image; the answer streams, and a trace shows what the latent steps looked at. */
import { type Command, Option } from 'commander';
import type { Answer, Question } from '../engine/ask.ts';
import { UserError } from '../errors.ts';
import { ABLATIONS } from '../latent/options.ts';
import type { TraceFiles } from '../trace/trace-files.ts';
import { readImageFile } from '../vision/image-file.ts';
import { type AskingFlags, addAskingFlags, askedAs, noteUntaught, settingsFromFlags } from './asking-flags.ts';
import { deviceOfFlag } from './device.ts';
import { latentStepCount, seedNumber } from './number-flags.ts';
import { formatDuration } from './progress.ts';

interface InferOptions extends AskingFlags {
  model: string;
  image: string;
  question: string;
  choices?: string[];
  latents?: number;
  task?: string;
  ablation?: string;
  seed: number;
  trace?: string;
  json?: boolean;
}

/** Those that need no second sample in the batch. */
const SINGLE_ABLATIONS = Object.keys(ABLATIONS).filter((name) => !name.endsWith('-swapped'));

export function registerInfer(program: Command): void {
  const command = program
    .command('infer')
    .description('answer a question about an image')
    .requiredOption('--model <folder>', 'model folder (Hugging Face layout)')
    .requiredOption('--image <file>', 'JPEG, PNG, WebP or GIF image')
    .requiredOption('--question <text>', 'what to ask')
    .option('--choices <text...>', 'texts to choose from; they get the letters A, B, C ..')
    .option('--latents <n>', 'latent steps (default: as trained)', latentStepCount)
    .option('--task <name>', "task whose prompt wording is used (default: the model's own, else m3cot)")
    .addOption(new Option('--ablation <name>', 'take something away from the latent steps').choices(SINGLE_ABLATIONS))
    .option('--trace <folder>', 'write trace.png and trace.json: what each latent step looked at')
    .option('--seed <n>', 'seed of random patches', seedNumber, 0)
    .option('--json', 'print one JSON object instead of streaming');
  addAskingFlags(command).action(infer);
}

async function infer(options: InferOptions): Promise<void> {
  // Checked before the model is loaded, which may take a minute.
  const question = readQuestion(options);
  const device = await deviceOfFlag(options.device);
  if (options.task !== undefined) (await import('../tasks/registry.ts')).findTask(options.task);
  const { manualSeed, setNumThreads } = await import('@ivtlr/torch');
  const { openModelFolder } = await import('../engine/loaded-model.ts');
  const { answer } = await import('../engine/ask.ts');
  const { requireRoomForAnswers } = await import('../engine/answer-memory.ts');
  const { decodeImage } = await import('../vision/decode.ts');
  await decodeImage(question.image);
  if (options.threads !== undefined) setNumThreads(options.threads);
  manualSeed(options.seed);

  const loading = performance.now();
  const { dtype } = options;
  const { modelFolder } = await import('./hub-folders.ts');
  const opened = openModelFolder(await modelFolder(options.model), {
    ...{ device, settings: settingsFromFlags(options), mergeAdapters: options.merge },
    ...(dtype && { dtype }),
  });
  opened.model.module.eval();
  const loadSeconds = (performance.now() - loading) / 1000;

  const ablation = options.ablation === undefined ? undefined : ABLATIONS[options.ablation]!;
  const latent = { ...ablation?.options };
  const { task, maxNewTokens } = options;
  const latents = ablation?.latents ?? options.latents;
  noteUntaught(options.model, opened, latents);
  const { taskNames } = await import('../tasks/registry.ts');
  const { task: trained } = opened.settings;
  if (task === undefined && trained !== null && !taskNames.includes(trained))
    process.stderr.write(
      `note: the model was trained on the task ${trained}, which is not known here; the prompt is worded as for m3cot\n`,
    );
  requireRoomForAnswers(opened, { rows: 1, latentSteps: latents, maxNewTokens });
  const trace = options.trace !== undefined || options.json === true;
  let result: Answer | undefined;
  for await (const event of answer(opened, question, { latents, maxNewTokens, task, latent, trace })) {
    if (event.type === 'end') result = event.answer;
    else if (event.type === 'text-delta' && !options.json) process.stdout.write(event.text);
  }
  if (!result) throw new Error('the answer ended without a result');
  if (!options.json) process.stdout.write('\n');
  const { patches, latentVision } = { ...opened.settings, ...latent };
  const short = latentVision === 'off' ? -1 : result.picked.findIndex((picked) => picked.length < patches);
  if (short >= 0) {
    const total = result.tokenGrid[0] * result.tokenGrid[1];
    process.stderr.write(
      `note: from latent step ${short + 1} on fewer than ${patches} of the image's ${total} tokens were left to pick\n`,
    );
  }
  const files = options.trace === undefined ? undefined : await writeTraceFiles(options, question, result);
  if (options.json)
    await printJson(
      options,
      question,
      result,
      { ...askedAs(opened, latents), ...(files && { trace: files }) },
      loadSeconds,
    );
  else process.stderr.write(`${summary(result, loadSeconds)}\n${files ? `trace: ${files.image}\n` : ''}`);
}

function readQuestion({ image, question, choices = [] }: InferOptions): Question {
  if (question.trim() === '') throw new UserError('--question is empty; give the question as one quoted text');
  return { image: { kind: 'encoded', bytes: readImageFile(image), name: image }, question, choices };
}

async function writeTraceFiles(options: InferOptions, question: Question, result: Answer): Promise<TraceFiles> {
  const { writeTrace } = await import('../trace/trace-files.ts');
  return writeTrace(options.trace!, 'trace', question, result, { model: options.model });
}

async function printJson(
  options: InferOptions,
  question: Question,
  result: Answer,
  more: Record<string, unknown>,
  loadSeconds: number,
): Promise<void> {
  const { answerToJson } = await import('../trace/trace-files.ts');
  const { strictAnswer } = await import('../tasks/scorers.ts');
  const { choices } = question;
  const predicted = choices.length > 0 ? strictAnswer(result.text, { answer: 'A', choices }) : null;
  const { seconds, ...fields } = answerToJson(question, result);
  const times = { load: loadSeconds, ...(seconds as Answer['seconds']) };
  process.stdout.write(
    `${JSON.stringify({ model: options.model, image: options.image, predicted, ...fields, seconds: times, ...more })}\n`,
  );
}

function summary({ picked, tokens, seconds }: Answer, loadSeconds: number): string {
  const { image, prefill, latents, decode } = seconds;
  const times = [
    `model ${formatDuration(loadSeconds)}`,
    `prompt and image ${formatDuration(image + prefill)}`,
    `latent steps ${formatDuration(latents)}`,
    `writing ${formatDuration(decode)}`,
  ];
  return `${picked.length} latent steps + ${tokens.length} tokens; ${times.join(', ')}`;
}
