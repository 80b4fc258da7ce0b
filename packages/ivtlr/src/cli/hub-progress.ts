/** What a download shows on stderr: a progress line while bytes come in, and a last line. */
import type { HubReport } from '../hub/resolve.ts';
import { Progress } from './progress.ts';

const megabytes = (bytes: number) => Math.round(bytes / 1e6);

/** @param licence shown in the last line, which is then written even when nothing was fetched */
export function hubProgress(licence?: string): HubReport {
  let bar: Progress | undefined;
  return {
    progress(repo, done, total) {
      if (!bar && done === total) return;
      bar ??= new Progress({ label: repo, unit: 'MB', total: megabytes(total), initial: megabytes(done) });
      bar.update(megabytes(done));
    },
    note(line) {
      if (bar) bar.log(line);
      else process.stderr.write(`${line}\n`);
    },
    end(repo, { files, bytes, fetched }) {
      const name = licence === undefined ? repo : `${repo} (${licence})`;
      const summary = `${name}: ${files} files, ${megabytes(bytes)} MB, ${megabytes(fetched)} MB of them new`;
      if (bar) bar.finish(summary);
      else if (licence !== undefined) process.stderr.write(`${summary}\n`);
      bar = undefined;
    },
  };
}
