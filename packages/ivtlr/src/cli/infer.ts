/** `ivtlr infer`: one question about images or none, or a conversation; the answer streams, and a trace shows what the latent steps looked at. */
import { type Command, Option } from 'commander';
import { readConversation } from '../data/conversation-file.ts';
import type { Answer, Question } from '../engine/ask.ts';
import { UserError } from '../errors.ts';
import { ABLATIONS } from '../latent/options.ts';
import type { TraceFiles } from '../trace/trace-files.ts';
import { readImageFile } from '../vision/image-file.ts';
import { tokenCount } from '../vision/token-views.ts';
import { addAskingFlags, askedAs } from './asking-flags.ts';
import { inferQuestions, type QuestionFlags } from './infer-questions.ts';
import { latentStepCount, MAX, seedNumber, wholeNumberWithin } from './number-flags.ts';
import type { ModelFlags } from './open-for-asking.ts';
import { formatDuration } from './progress.ts';
import { addSamplingFlags, type SamplingFlags, samplingOfFlags } from './sampling-flags.ts';

interface InferOptions extends ModelFlags, SamplingFlags, Partial<Omit<QuestionFlags, keyof ModelFlags>> {
  image?: string[];
  messages?: string;
  pickFrom?: number;
  question?: string;
  choices?: string[];
  trace?: string;
  json?: boolean;
}

/** Those that need no second sample in the batch. */
const SINGLE_ABLATIONS = Object.keys(ABLATIONS).filter((name) => !name.endsWith('-swapped'));

export function registerInfer(program: Command): void {
  const command = program
    .command('infer')
    .description('answer a question about an image, about several or none, or go on with a conversation')
    .requiredOption('--model <folder>', 'model folder (Hugging Face layout), or owner/name on the hub')
    .option('--image <file>', 'image to ask about; several are given one by one, in their order', collect)
    .option('--question <text>', 'what to ask')
    .option('--choices <text...>', 'texts to choose from; they get the letters A, B, C ..')
    .addOption(
      new Option(
        '--messages <file>',
        'a conversation instead of a question: a JSON list of messages as in OpenAI\'s API, {"role", "content"}; an image_url is a path from the file, or a data URL',
      ).conflicts(['image', 'question', 'choices', 'questions']),
    )
    .addOption(
      new Option(
        '--questions <file>',
        'many questions instead: JSON lines {"image", "question"}, if need be with "id", "choices" and "pick_from", or with a list "images"; answers are JSON lines too',
      ).conflicts(['image', 'question', 'choices', 'trace', 'pickFrom']),
    )
    .option('--output <file>', 'where the answers to --questions go (default: stdout)')
    .option('--resume', 'go on from the answers that --output has')
    .addOption(new Option('--overwrite', 'replace the answers that --output has').conflicts('resume'))
    .option('--batch <n>', 'questions answered together (default: 8)', wholeNumberWithin(1, MAX.batch))
    .option('--latents <n>', 'latent steps (default: as trained)', latentStepCount)
    .option('--task <name>', "task whose prompt wording is used (default: the model's own, else m3cot)")
    .addOption(new Option('--ablation <name>', 'take something away from the latent steps').choices(SINGLE_ABLATIONS))
    .option(
      '--trace <folder>',
      'write trace.png and trace.json: what each latent step looked at; numbers on cells are the order of picking, ratio is attention on picks over attention on text, focus is 1 / entropy within the image',
    )
    .option(
      '--pick-from <n>',
      'image that latent steps pick from, counted from 1 (default: all)',
      wholeNumberWithin(1, 1000),
    )
    .option('--seed <n>', 'seed of drawn tokens and random patches', seedNumber, 0)
    .option('--json', 'print one JSON object instead of streaming');
  addSamplingFlags(addAskingFlags(command)).action(infer);
}

async function infer(options: InferOptions): Promise<void> {
  const { questions, output, resume, overwrite, batch, messages, question } = options;
  if (questions !== undefined) {
    if (resume && output === undefined)
      throw new UserError('--resume goes on from the answers in a file; say which with --output');
    await inferQuestions({ ...options, questions });
    return;
  }
  if (output !== undefined || resume || overwrite || batch !== undefined)
    throw new UserError(
      '--output, --resume, --overwrite and --batch are for many questions; give them with --questions',
    );
  if (question === undefined && messages === undefined)
    throw new UserError('give --question, with --image where it is about images; or --messages, or --questions');
  await inferOne(options);
}

async function inferOne(options: InferOptions): Promise<void> {
  // Checked before the model is loaded, which may take a minute.
  const question = options.messages === undefined ? readQuestion(options) : readConversation(options.messages);
  const { sampling, stop } = samplingOfFlags(options);
  const { pickFrom } = options;
  if (pickFrom !== undefined && pickFrom > question.images.length)
    throw new UserError(
      `--pick-from ${pickFrom}: there is no image ${pickFrom}; the question has ${question.images.length || 'none'}`,
    );
  if (options.task !== undefined) (await import('../tasks/registry.ts')).findTask(options.task);
  const { decodeImage } = await import('../vision/decode.ts');
  for (const image of question.images) await decodeImage(image);
  const { answer } = await import('../engine/ask.ts');
  const { openForAsking } = await import('./open-for-asking.ts');
  const { opened, latentSteps, latent, loadSeconds } = await openForAsking(options, 1);
  const { task, maxNewTokens, seed } = options;
  const trace = options.trace !== undefined || options.json === true;
  const asking = {
    ...{ latentSteps, maxNewTokens, task, latent, sampling, stop, trace },
    pickFrom: pickFrom === undefined ? undefined : pickFrom - 1,
    seed: () => seed,
  };
  let result: Answer | undefined;
  for await (const event of answer(opened, question, asking)) {
    if (event.type === 'end') result = event.answer;
    else if (event.type === 'text-delta' && !options.json) process.stdout.write(event.text);
  }
  if (!result) throw new Error('the answer ended without a result');
  if (!options.json) process.stdout.write('\n');
  const { patches, latentVision } = { ...opened.settings, ...latent };
  const short =
    latentVision === 'off' || result.images.length === 0
      ? -1
      : result.picked.findIndex((picked) => picked.length < patches);
  if (short >= 0) {
    const total = result.images.reduce((sum, image) => sum + tokenCount(image), 0);
    const whose = result.images.length > 1 ? "images'" : "image's";
    process.stderr.write(
      `note: from latent step ${short + 1} on fewer than ${patches} of the ${whose} ${total} tokens were left to pick\n`,
    );
  }
  const files = options.trace === undefined ? undefined : await writeTraceFiles(options, question, result);
  if (options.json)
    await printJson(
      options,
      question,
      result,
      {
        ...askedAs(opened, latentSteps),
        ...(pickFrom !== undefined && { pick_from: pickFrom }),
        ...(sampling && { sampling, seed }),
        ...(files && { trace: files }),
      },
      loadSeconds,
    );
  else process.stderr.write(`${summary(result, loadSeconds)}\n${files ? `trace: ${files.image}\n` : ''}`);
}

function readQuestion({ image = [], question = '', choices = [] }: InferOptions): Question {
  if (question.trim() === '') throw new UserError('--question is empty; give the question as one quoted text');
  const images = image.map((name) => ({ kind: 'encoded' as const, bytes: readImageFile(name), name }));
  return { images, question, choices };
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
  process.stdout.write(`${JSON.stringify({ model: options.model, predicted, ...fields, seconds: times, ...more })}\n`);
}

function summary({ picked, tokens, seconds }: Answer, loadSeconds: number): string {
  const { image, prefill, latents, decode } = seconds;
  const times = [
    `model ${formatDuration(loadSeconds)}`,
    `prompt and images ${formatDuration(image + prefill)}`,
    `latent steps ${formatDuration(latents)}`,
    `writing ${formatDuration(decode)}`,
  ];
  return `${picked.length} latent steps + ${tokens.length} tokens; ${times.join(', ')}`;
}

/** For commander, which would take the last of several. */
function collect(value: string, before: string[] = []): string[] {
  return [...before, value];
}
