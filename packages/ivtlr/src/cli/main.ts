/** The `ivtlr` program: one command per file, one place that turns errors into messages and exit codes. */
import { SetupError } from '@ivtlr/torch/setup';
import { Command, CommanderError } from 'commander';
import { UserError } from '../errors.ts';
import { printable } from '../printable.ts';
import { registerAblate } from './ablate.ts';
import { registerAnalyze } from './analyze.ts';
import { registerConvert } from './convert.ts';
import { registerData } from './data.ts';
import { registerDemo } from './demo.ts';
import { registerDoctor } from './doctor.ts';
import { refuseEmptyValues } from './empty-values.ts';
import { registerEval } from './eval.ts';
import { registerInfer } from './infer.ts';
import { registerMerge } from './merge.ts';
import { guardOutputs } from './output-guard.ts';
import { registerServe } from './serve.ts';
import { registerSetup } from './setup.ts';
import { registerStudy } from './study.ts';
import { registerTrain } from './train.ts';
import { version } from './version.ts';

/** Exit codes: 0 done, 1 something failed that the user did not cause, 2 wrong input or usage, 130 interrupted. */
export const EXIT = { ok: 0, failure: 1, usage: 2 } as const;

const DESCRIPTION =
  'Interleaved Vision-Text Latent Reasoning: train, evaluate, run and look into vision-language models that reason in latent space.';

/** In the order the help shows them. */
const REGISTER = [
  registerInfer,
  registerServe,
  registerTrain,
  registerEval,
  registerAblate,
  registerAnalyze,
  registerStudy,
  registerDemo,
  registerData,
  registerConvert,
  registerMerge,
  registerSetup,
  registerDoctor,
];

/**
 * All commands. Modules that load libtorch are imported by the actions, not here, so that --help is instant and works
 * before anything native is built.
 */
export function buildProgram(): Command {
  const program = new Command('ivtlr')
    .description(DESCRIPTION)
    .version(version(), '-V, --version', 'print the version')
    .option('--debug', 'print the whole stack of an unexpected error')
    .showHelpAfterError('(add --help for what the command takes)')
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(printable(text)) })
    .hook('preAction', (_, command) => refuseEmptyValues(command))
    .configureHelp({ sortSubcommands: false, showGlobalOptions: true });
  for (const register of REGISTER) register(program);
  return program;
}

/** Runs one command line (without node and script name) and resolves to the exit code; never throws. */
export async function run(args: readonly string[]): Promise<number> {
  guardOutputs();
  const program = buildProgram();
  if (args.length === 0) {
    program.outputHelp();
    return EXIT.ok;
  }
  try {
    await program.parseAsync(args, { from: 'user' });
    // A command that went wrong without an exception (a failed self-test) has set the code itself.
    return Number(process.exitCode ?? EXIT.ok);
  } catch (error) {
    return report(error, args.includes('--debug'));
  }
}

/** Writes what went wrong to stderr and gives the exit code for it. */
export function report(error: unknown, debug: boolean): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage; // commander has printed it
  if (error instanceof UserError || error instanceof SetupError) {
    process.stderr.write(`error: ${printable(error.message)}\n`);
    if (debug) process.stderr.write(`${error.stack}\n`);
    return EXIT.usage;
  }
  if (error instanceof Error && error.name === 'DistributedError') {
    process.stderr.write(`error: ${printable(error.message)}\n`);
    return EXIT.failure;
  }
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  process.stderr.write(`unexpected error: ${printable(message)}\n`);
  process.stderr.write(
    debug && error instanceof Error ? `${error.stack}\n` : 'run the same command with --debug for the whole stack\n',
  );
  return EXIT.failure;
}
