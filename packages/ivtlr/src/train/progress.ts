/** Progress on the terminal: one line that is rewritten on a TTY, a plain line now and then elsewhere. */
import type { StepMetrics } from './metrics.ts';

const plainIntervalMs = 10_000;

export class Progress {
  #stream: NodeJS.WriteStream;
  #totalSteps: number;
  #startStep: number;
  #started = performance.now();
  #lastPlain = 0;
  #open = false;

  constructor(stream: NodeJS.WriteStream, totalSteps: number, startStep: number) {
    this.#stream = stream;
    this.#totalSteps = totalSteps;
    this.#startStep = startStep;
  }

  /** Shows a finished step with its rate and the time left. */
  step(m: StepMetrics): void {
    const now = performance.now();
    const done = m.step - this.#startStep;
    const left = ((now - this.#started) / done / 1000) * (this.#totalSteps - m.step);
    const line =
      `step ${m.step}/${this.#totalSteps} ${m.phase} loss ${m.loss.toFixed(4)} tokens ${(100 * m.tokenAccuracy).toFixed(1)}% ` +
      `lr ${m.lr.toExponential(1)} grad ${m.gradNorm.toFixed(2)} ${m.samplesPerSecond.toFixed(0)} samples/s, ${formatSeconds(left)} left`;
    if (this.#stream.isTTY) {
      this.#stream.write(`\r\u001b[K${line.slice(0, (this.#stream.columns ?? 120) - 1)}`);
      this.#open = true;
    } else if (now - this.#lastPlain > plainIntervalMs || m.step === this.#totalSteps) {
      this.#lastPlain = now;
      this.#stream.write(`${line}\n`);
    }
  }

  /** A line that stays. */
  note(text: string): void {
    if (this.#open) this.#stream.write('\n');
    this.#open = false;
    this.#stream.write(`${text}\n`);
  }
}

/** 75 -> "1m15s". */
export function formatSeconds(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${String(whole % 60).padStart(2, '0')}s`;
  return `${Math.floor(whole / 3600)}h${String(Math.floor((whole % 3600) / 60)).padStart(2, '0')}m`;
}
