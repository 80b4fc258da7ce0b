/** How far long work is: one redrawn line on a terminal, a plain line now and then in a log. */
import { launcherTerminal } from '../launch/worker-environment.ts';

export interface ProgressOptions {
  /** What is being done, such as `answering`. */
  label: string;
  /** Units in all, if known; without it there is no percentage and no time left. */
  total?: number;
  /** Name of a unit in the plural, for the rate. Default `items`. */
  unit?: string;
  /** Units that were done before this run began (resumed work): they count for the percentage, not for the rate. */
  initial?: number;
  /** Seconds between two lines of a log. Default 5. */
  logEvery?: number;
  /** Default stderr, so that results on stdout stay clean. */
  stream?: ProgressStream;
  /** Clock in milliseconds, replaceable in tests. */
  now?: () => number;
}

/** Where a process that `--processes` has started draws: the launcher hands its stderr on to a terminal. */
function terminal(): ProgressStream {
  const shown = launcherTerminal();
  return shown ? { ...shown, write: (text) => process.stderr.write(text) } : process.stderr;
}

/** The part of a terminal stream used here. */
export interface ProgressStream {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

const REDRAW_MS = 100;
const LOG_EVERY = 5;
/** Before this no rate is shown: it would say little. */
const RATE_FROM_SECONDS = 1;
const CLEAR_LINE = '\r\x1b[2K';

export class Progress {
  readonly #options: ProgressOptions;
  readonly #stream: ProgressStream;
  readonly #now: () => number;
  readonly #started: number;
  readonly #initial: number;
  #done: number;
  #note = '';
  #shownAt = Number.NEGATIVE_INFINITY;
  #open = false;

  constructor(options: ProgressOptions) {
    this.#options = options;
    this.#stream = options.stream ?? terminal();
    this.#now = options.now ?? (() => performance.now());
    this.#started = this.#now();
    this.#initial = options.initial ?? 0;
    this.#done = this.#initial;
    if (!this.#stream.isTTY) this.#shownAt = this.#started;
  }

  /** Sets how many units are done; `note` (a loss, a file name) follows the numbers. Cheap enough to call for every unit. */
  update(done: number, note = this.#note): void {
    this.#done = done;
    this.#note = note;
    const elapsed = this.#now() - this.#shownAt;
    const { logEvery = LOG_EVERY } = this.#options;
    if (elapsed < (this.#stream.isTTY ? REDRAW_MS : 1000 * logEvery)) return;
    this.#shownAt = this.#now();
    this.#show();
  }

  /** Writes a line that stays, above the progress line. */
  log(text: string): void {
    this.#erase();
    this.#stream.write(`${text}\n`);
    if (this.#stream.isTTY) this.#show();
  }

  /** Ends with a summary line: `text`, or the count and the time it took. */
  finish(text?: string): void {
    this.#erase();
    const seconds = (this.#now() - this.#started) / 1000;
    const { label, unit = 'items' } = this.#options;
    this.#stream.write(`${text ?? `${label}: ${this.#done} ${unit} in ${formatDuration(seconds)}`}\n`);
  }

  /** Ends without a summary, for work that has failed. */
  clear(): void {
    this.#erase();
  }

  #show(): void {
    const line = this.#line();
    if (!this.#stream.isTTY) {
      this.#stream.write(`${line}\n`);
      return;
    }
    // One column stays free: a line of exactly the terminal's width wraps on some terminals.
    this.#stream.write(CLEAR_LINE + line.slice(0, (this.#stream.columns ?? 80) - 1));
    this.#open = true;
  }

  #erase(): void {
    if (this.#open) this.#stream.write(CLEAR_LINE);
    this.#open = false;
  }

  #line(): string {
    const { label, total, unit = 'items' } = this.#options;
    const seconds = (this.#now() - this.#started) / 1000;
    // The first moments hold loading and warming up, and the first units come in one heap.
    const rate = seconds >= RATE_FROM_SECONDS ? (this.#done - this.#initial) / seconds : 0;
    const parts = [total === undefined ? `${label} ${this.#done}` : `${label} ${this.#done}/${total}`];
    if (total) parts.push(`${Math.floor((100 * this.#done) / total)}%`);
    if (rate > 0) {
      parts.push(rate >= 1 ? `${formatRate(rate)} ${unit}/s` : `${formatRate(1 / rate)} s/${unit.replace(/s$/, '')}`);
      if (total !== undefined) parts.push(`${formatDuration((total - this.#done) / rate)} left`);
    }
    if (this.#note) parts.push(this.#note);
    return parts.join('  ');
  }
}

/** Seconds as `8 s`, `2:05 min` or `1:02:03 h`. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?';
  const whole = Math.max(0, Math.round(seconds));
  const two = (value: number) => String(value).padStart(2, '0');
  if (whole < 60) return seconds < 10 && seconds > 0 ? `${seconds.toFixed(1)} s` : `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}:${two(whole % 60)} min`;
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)} h`;
}

function formatRate(rate: number): string {
  return rate >= 100 ? rate.toFixed(0) : rate.toPrecision(2);
}
