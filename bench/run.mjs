// What the benches share: running one side in a process of its own, and writing results.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import { fileURLToPath } from 'node:url';

/** Three digits. */
export const round = (value) => Number(value.toPrecision(3));

/** A file of this folder. */
export const here = (name) => fileURLToPath(new URL(name, import.meta.url));

export function fail(message) {
  console.error(message);
  process.exit(2);
}

/** Runs a program to its end and returns what it printed. */
export function run(command, args, name) {
  console.error(`running ${name} ..`);
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (status !== 0) fail(`${name} failed (${command} ${args.join(' ')}):\n${stderr ?? ''}`);
  return stdout;
}

/** The object that a program prints as its last line. */
export const runJson = (...what) =>
  JSON.parse(
    run(...what)
      .trim()
      .split('\n')
      .at(-1),
  );

/** Date and machine, as they are before the measurement. */
export function circumstances(threads) {
  const cpu = spawnSync('lscpu', [], { encoding: 'utf8' }).stdout ?? '';
  return {
    date: new Date().toISOString().slice(0, 10),
    hardware: {
      cpu: cpu.match(/Model name:\s*(.*)/)?.[1] ?? os.cpus()[0]?.model ?? 'unknown',
      cores: os.availableParallelism(),
      threads,
      memoryGigabytes: Math.round(os.totalmem() / 2 ** 30),
      loadBefore: round(os.loadavg()[0]),
    },
  };
}

/** Writes bench/results/NAME.json. */
export function save(name, result) {
  fs.mkdirSync(here('results'), { recursive: true });
  fs.writeFileSync(here(`results/${name}.json`), `${JSON.stringify(result, null, 2)}\n`);
}
