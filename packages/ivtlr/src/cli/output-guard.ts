/** What becomes of the program when nobody takes what it writes. */

let guarded = false;

/**
 * A reader that closes stdout early, as `ivtlr .. | head` does, has what it wanted: the program ends quietly. Any other trouble with stdout, such as a full
 * disk, is said in one sentence. Messages on stderr are not worth stopping for: without a reader the work goes on.
 */
export function guardOutputs(): void {
  if (guarded) return;
  guarded = true;
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    process.stderr.write(`error: stdout cannot be written: ${error.message}\n`);
    process.exit(1);
  });
  process.stderr.on('error', () => {});
}
