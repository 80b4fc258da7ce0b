// What a streamed token costs at least, whatever a server is written in: a pass that reads 3 GiB, as Qwen2-VL-2B in bfloat16 does, then a line to
// another process and from there a chunk to the client's connection, in C++ and with nothing else to do. Linux, g++; 4 GB of memory.
//   node bench/stream-floor.mjs [--threads 2] [--tokens 64] [--rounds 3]
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { circumstances, here, round, run, runJson } from './run.mjs';

const { values } = parseArgs({
  options: {
    threads: { type: 'string', default: String(Math.min(2, os.availableParallelism())) },
    tokens: { type: 'string', default: '64' },
    rounds: { type: 'string', default: '3' },
  },
});
const before = circumstances(Number(values.threads));
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-bench-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true }));
const program = path.join(folder, 'stream_floor');
run('g++', ['-O3', '-march=native', '-fopenmp', '-o', program, here('stream_floor.cpp')], 'the compiler');
const rounds = Array.from({ length: Number(values.rounds) }, (_, i) =>
  runJson(program, [values.threads, '3072', values.tokens], `round ${i + 1}`),
);
const { pass, write, relay } = rounds.sort((a, b) => a.write + a.relay - b.write - b.relay)[rounds.length >> 1];
console.log(
  JSON.stringify(
    {
      ...before,
      passMilliseconds: pass,
      writeMilliseconds: write,
      relayCpuMilliseconds: relay,
      ofAllTokensMilliseconds: round((write + relay) * Number(values.tokens)),
    },
    null,
    2,
  ),
);
