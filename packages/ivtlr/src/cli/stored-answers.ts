/** A stop in the midst of many questions: what is stored is kept, and the user is told how to go on. */
import { exitCodeOf, StopSignals } from '../runs/stop-signals.ts';

/**
 * Ends the program at the first SIGINT, SIGTERM or SIGHUP, between two passes of the model, with one line on what is stored. Dispose it when the
 * questions are answered.
 * @param stored number of answers in the file that is written; null without one
 */
export function endOnSignal(stored: () => { answers: number; file: string } | null): StopSignals {
  return new StopSignals((signal) => {
    const { answers, file } = stored() ?? {};
    const rest =
      file === undefined ? '' : `; ${answers} answers are in ${file}: go on with the same command and --resume`;
    process.stderr.write(`\nstopped by ${signal}${rest}\n`);
    process.exit(exitCodeOf(signal));
  });
}
