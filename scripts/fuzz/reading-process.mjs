/** A process that reads one input after the other; one that hangs, swells or dies is replaced, and its end becomes the verdict. */
import { fork } from 'node:child_process';
import fs from 'node:fs';

const MEBIBYTE = 2 ** 20;

export class ReadingProcess {
  #worker = null;
  #output = '';

  /**
   * @param script answers each message with one
   * @param limits `seconds` of the processor's time where the system tells it, so that a busy machine is no hang; `bytes` of memory
   */
  constructor(script, { cwd, tmp, seconds = 5, bytes = 1.5 * 2 ** 30 }) {
    Object.assign(this, { script, cwd, tmp, seconds, bytes });
  }

  /** The worker's verdict `{ outcome, problem?, message, peak? }`, or what became of the worker. */
  async read(message) {
    if (!this.#worker) await this.#start();
    const worker = this.#worker;
    return new Promise((resolve) => {
      const finish = (verdict) => {
        clearTimeout(timer);
        clearInterval(watch);
        worker.removeAllListeners('message');
        worker.removeAllListeners('exit');
        resolve(verdict);
      };
      const stop = (problem, message) => {
        this.#worker = null;
        finish({ outcome: 'defect', problem, message });
        worker.kill('SIGKILL');
      };
      const wait = fs.existsSync('/proc/self/stat') ? Math.max(60, this.seconds) : this.seconds;
      const timer = setTimeout(() => stop('hang', `no answer after ${wait} s`), wait * 1000);
      const start = usage(worker.pid).seconds;
      const watch = setInterval(() => {
        const now = usage(worker.pid);
        if (now.bytes > 2 * this.bytes) stop('memory', `${Math.round(now.bytes / MEBIBYTE)} MiB`);
        else if (now.seconds - start > this.seconds) stop('hang', `no answer after ${this.seconds} s of work`);
      }, 100);
      worker.once('message', (verdict) => {
        if (verdict.peak > this.bytes && verdict.outcome !== 'defect')
          stop('memory', `${Math.round(verdict.peak / MEBIBYTE)} MiB`);
        else finish(verdict);
      });
      worker.once('exit', (code, signal) => {
        this.#worker = null;
        const problem = { outcome: 'defect', problem: 'crash' };
        // Output of the process may still arrive after its exit event.
        setTimeout(() => finish({ ...problem, message: `${signal ?? code}\n${this.#output}` }), 50);
      });
      worker.send(message);
    });
  }

  end() {
    this.#worker?.kill();
    this.#worker = null;
  }

  async #start() {
    this.#output = '';
    const worker = fork(this.script, {
      cwd: this.cwd,
      env: { ...process.env, TMPDIR: this.tmp, OMP_NUM_THREADS: '1' },
      execArgv: ['--max-old-space-size=2048'],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    worker.stderr.on('data', (text) => {
      this.#output = (this.#output + text).slice(-4000);
    });
    await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('exit', () => reject(new Error(`the reading process does not start:\n${this.#output}`)));
    });
    worker.removeAllListeners('exit');
    this.#worker = worker;
  }
}

/** Memory and seconds of work of a process; zeros where the system does not tell. */
function usage(pid) {
  try {
    const fields = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1).split(' ');
    return { seconds: (Number(fields[11]) + Number(fields[12])) / 100, bytes: Number(fields[21]) * 4096 };
  } catch {
    return { seconds: 0, bytes: 0 };
  }
}
