/** `ivtlr infer --questions`: many questions of a file, answered several at a time into JSON lines. */
import { createHash } from 'node:crypto';
import { resolve } from 'node:path';
import { type QuestionLine, readQuestionLines } from '../data/question-lines.ts';
import type { RawImage } from '../data/sample.ts';
import type { Answer, Question } from '../engine/ask.ts';
import { UserError } from '../errors.ts';
import { AppendedLines, refuseExisting } from '../eval/appended-lines.ts';
import { printable } from '../printable.ts';
import { askedAs } from './asking-flags.ts';
import type { ModelFlags, OpenedForAsking } from './open-for-asking.ts';
import { Progress } from './progress.ts';
import { type SamplingFlags, samplingOfFlags } from './sampling-flags.ts';
import { endOnSignal } from './stored-answers.ts';
import { version } from './version.ts';

export interface QuestionFlags extends ModelFlags, SamplingFlags {
  questions: string;
  output?: string;
  resume?: boolean;
  overwrite?: boolean;
  batch?: number;
}

/** As for evaluation: models that are asked about files may need nearly a gigabyte of cache for each answer. */
const DEFAULT_BATCH = 8;

type Asked = Question & { from: QuestionLine };

/**
 * Lines whose image cannot be read or whose text no model can take are said with their number and left out; the exit code is then 2.
 * @throws UserError when the file of questions is wrong, or the output stands there already
 */
export async function inferQuestions(flags: QuestionFlags): Promise<void> {
  const { questions: file, output, batch = DEFAULT_BATCH } = flags;
  if (output !== undefined && resolve(output) === resolve(file))
    throw new UserError(`--questions and --output are both ${file}; give the answers a file of their own`);
  const how = samplingOfFlags(flags);
  const lines = readQuestionLines(file);
  if (output !== undefined && !flags.resume && !flags.overwrite) refuseExisting(output);
  const { openForAsking } = await import('./open-for-asking.ts');
  const { ask } = await import('../engine/ask.ts');
  const { readImageFile } = await import('../vision/image-file.ts');
  const { strictAnswer } = await import('../tasks/scorers.ts');
  const model = await openForAsking(flags, batch);
  const run = await describeRun(flags, model);
  const whenPresent = flags.resume ? 'resume' : flags.overwrite ? 'overwrite' : 'refuse';
  const written = output === undefined ? null : new AppendedLines(output, whenPresent);
  const byLine = new Map(lines.map((from) => [from.line, from]));
  const answered = new Set(written?.present.map(({ value, place }) => requireSameQuestion(value, place, byLine, run)));
  if (answered.size > 0) process.stderr.write(`${answered.size} answers are there already\n`);
  const progress =
    output === undefined
      ? null
      : new Progress({ label: 'answering', total: lines.length, unit: 'questions', initial: answered.size });
  let done = answered.size;
  let bad = 0;
  const refuse = ({ place }: QuestionLine, error: unknown) => {
    if (!(error instanceof UserError)) throw error;
    bad++;
    const said = `left out: ${printable(`${place}: ${error.message}`)}`;
    if (progress) progress.log(said);
    else process.stderr.write(`${said}\n`);
  };
  function* asked(): Generator<Asked[]> {
    for (const from of lines) {
      if (answered.has(from.line)) continue;
      const { image, images = image === undefined ? [] : [image], imagePaths, question, choices } = from;
      try {
        const read = images.map((name, i) => encoded(readImageFile(imagePaths[i]!), name));
        yield [{ images: read, question, choices, from }];
      } catch (error) {
        refuse(from, error);
      }
    }
  }
  const { opened, latentSteps, latent } = model;
  const { maxNewTokens, task, seed } = flags;
  const options = { rows: batch, latentSteps, latent, maxNewTokens, task, ...how, textDeltas: false };
  const of = ({ from: { pick_from } }: Asked) => ({ pickFrom: pick_from === undefined ? undefined : pick_from - 1 });
  const seedOf = ({ from }: Asked) => (seed * 1_000_003 + from.line) % 2 ** 52;
  const write = ({ from }: Asked, { text, picked, tokens }: Answer) => {
    const { line, id, image, images, question, choices, pick_from } = from;
    const predicted = choices.length > 0 ? strictAnswer(text, { answer: 'A', choices }) : null;
    const counts = { latentSteps: picked.length, generatedTokens: tokens.length };
    const result = { line, id, image, images, question, choices, pick_from, answer: text, predicted, ...counts, run };
    if (!written) process.stdout.write(`${JSON.stringify(result)}\n`);
    written?.add(result);
    written?.flush();
    progress?.update(++done);
  };
  const stop = endOnSignal(() => (flags.output === undefined ? null : { answers: done, file: flags.output }));
  try {
    for await (const event of ask(opened, asked(), { ...options, of, seed: seedOf })) {
      if (event.type === 'end') write(event.question, event.answer);
      else if (event.type === 'error') refuse(event.question.from, event.error);
    }
    progress?.finish();
  } catch (error) {
    progress?.clear();
    throw error;
  } finally {
    stop[Symbol.dispose]();
    written?.close();
  }
  if (bad === 0) return;
  process.stderr.write(`${bad} of ${lines.length} questions could not be answered\n`);
  process.exitCode = 2;
}

const encoded = (bytes: Uint8Array, name: string): RawImage => ({ kind: 'encoded', bytes, name });

/** A short name of everything but the question that an answer depends on, so that a file holds answers of one kind only. */
async function describeRun(
  flags: QuestionFlags,
  { opened, folder, latentSteps, latent }: OpenedForAsking,
): Promise<string> {
  const { modelFingerprint } = await import('../eval/run-key.ts');
  const { maxNewTokens, task, seed, merge } = flags;
  const { sampling, stop } = samplingOfFlags(flags);
  const { dtype, device } = opened.model;
  const parts = {
    ...{
      program: version(),
      model: modelFingerprint([folder, opened.folder]),
      settings: opened.settings,
      dtype,
      device,
    },
    ...{ asked: askedAs(opened, latentSteps), latent, maxNewTokens, task, seed, merge, sampling, stop },
  };
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 16);
}

/** The number of the question that a stored line answers. @throws UserError when it is not among the questions, or was asked otherwise */
function requireSameQuestion(
  value: Record<string, unknown>,
  place: string,
  lines: ReadonlyMap<unknown, QuestionLine>,
  run: string,
): number {
  const from = lines.get(value.line);
  const same = (['image', 'images', 'question', 'choices', 'pick_from'] as const).every(
    (key) => from && JSON.stringify(from[key]) === JSON.stringify(value[key]),
  );
  if (!from || !same)
    throw new UserError(`${place} answers no question of the file; give another --output, or --overwrite`);
  if (value.run !== run)
    throw new UserError(
      `${place} was answered by another model or with other flags; give another --output, or --overwrite`,
    );
  return from.line;
}
