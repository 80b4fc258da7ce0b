import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runWorkers } from './workers.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-workers-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a script of one line in every worker. */
async function run(name: string, body: string, { processes = 3, maxRestarts = 0, grace = 1 } = {}) {
  const script = join(folder, `${name}.mjs`);
  writeFileSync(
    script,
    `const rank = Number(process.env.RANK);\nconst again = process.argv.includes('--again');\n${body}\n`,
  );
  const notes: string[] = [];
  const logs = join(folder, name);
  const code = await runWorkers({
    ...{ processes, maxRestarts, grace, logs },
    command: [process.execPath, script],
    again: ['--again'],
    note: (line) => notes.push(line),
  });
  const log = (rank: number) => readFileSync(join(logs, `rank-${rank}.log`), 'utf8');
  return { code, notes, log };
}

const wait = 'setInterval(() => {}, 1000);';
const pidsOf = (log: string) => [...log.matchAll(/pid (\d+)/g)].map(([, pid]) => Number(pid));
const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

test('each is told who it is, and has a log', async () => {
  const { code, notes, log } = await run(
    'told',
    "console.log(['RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'OMP_NUM_THREADS'].map((key) => process.env[key]).join(' ')); if (rank > 0) console.error('\\r\\x1b[2Kone\\r\\x1b[2Ktwo\\nthree');",
  );
  expect(code).toBe(0);
  expect(notes).toEqual([]);
  for (const rank of [0, 1, 2])
    expect(log(rank)).toMatch(new RegExp(`^---.*\\n(.*\\n)*${rank} 3 ${rank} 127.0.0.1 \\d+\\n`, 'm'));
  expect(log(1)).toContain('\ntwo\nthree\n');
  expect(log(1)).not.toContain('\x1b');
});

test('when one dies the others are ended, one that is stopped too', async () => {
  const died = await run(
    'died',
    `if (rank === 1) setTimeout(() => { console.error('error: no memory'); process.exit(7); }, 300); else { if (rank === 2) process.kill(process.pid, 'SIGSTOP'); ${wait} }`,
  );
  expect(died.code).toBe(7);
  expect(died.notes).toEqual([
    expect.stringMatching(/^process 1 of 3 ended with code 7: error: no memory \(its log is .*rank-1.log\)$/),
  ]);
  for (const rank of [0, 1, 2]) for (const pid of pidsOf(died.log(rank))) expect(isAlive(pid)).toBe(false);
  const killed = await run('killed', `if (rank === 2) process.kill(process.pid, 'SIGKILL'); else ${wait}`);
  expect(killed.code).toBe(137);
  expect(killed.notes[0]).toMatch(/^process 2 of 3 was ended by SIGKILL/);
});

test('all are started again, so often and no more', async () => {
  const healed = await run('healed', `if (again) process.exit(0); if (rank === 0) process.exit(1); ${wait}`, {
    maxRestarts: 2,
  });
  expect(healed.code).toBe(0);
  expect(healed.notes.at(-1)).toBe('starting all 3 processes again (restart 1 of 2)');
  expect(pidsOf(healed.log(1))).toHaveLength(2);
  const hopeless = await run('hopeless', 'process.exit(3);', { maxRestarts: 2, processes: 2 });
  expect(hopeless.code).toBe(3);
  expect(pidsOf(hopeless.log(0))).toHaveLength(3);
});

test("a user's mistake and a run that was asked to stop are not tried again", async () => {
  for (const wanted of [2, 130, 143]) {
    const { code, notes, log } = await run(`final-${wanted}`, `process.exit(${wanted});`, {
      maxRestarts: 5,
      processes: 2,
    });
    expect(code).toBe(wanted);
    expect(notes).toEqual([]);
    expect(pidsOf(log(0))).toHaveLength(1);
  }
});

test('a death by a signal is the cause, although another process that noticed it ended first', async () => {
  const { code, notes } = await run(
    'cause',
    `if (rank === 0) process.exit(1); if (rank === 2) setTimeout(() => process.kill(process.pid, 'SIGKILL'), 150); else ${wait}`,
  );
  expect(code).toBe(137);
  expect(notes[0]).toMatch(/^process 2 of 3 was ended by SIGKILL/);
});

test('a process that ends as asked leaves the others the time to write', async () => {
  const { code, notes, log } = await run(
    'unhurried',
    "if (rank === 0) process.exit(143); setTimeout(() => { console.log('written'); process.exit(143); }, 2000);",
  );
  expect([code, notes]).toEqual([143, []]);
  expect(log(1)).toContain('written');
});

test('processes ended by SIGTERM itself are not started again', async () => {
  const { code, notes, log } = await run('terminated', `process.kill(process.pid, 'SIGTERM'); ${wait}`, {
    maxRestarts: 3,
  });
  expect(code).toBe(143);
  expect(notes).toHaveLength(1);
  expect(pidsOf(log(0))).toHaveLength(1);
});

test('a log on a full disk ends, and the run does not', async () => {
  const logs = join(folder, 'full');
  mkdirSync(logs);
  symlinkSync('/dev/full', join(logs, 'rank-1.log'));
  const { code, notes } = await run('full', "console.log('one');");
  expect(code).toBe(0);
  expect(notes).toEqual([expect.stringMatching(/^cannot write .*rank-1.log any more: ENOSPC/)]);
});

test('a signal reaches each once, and the second one ends them', async () => {
  const body = `let count = 0; process.on('SIGTERM', () => { console.log('asked ' + ++count); if (rank < 2) process.exit(143); }); ${wait} console.log('ready');`;
  const ended = run('asked', body);
  const log = (rank: number) => readFileSync(join(folder, 'asked', `rank-${rank}.log`), 'utf8');
  const until = async (look: () => boolean) => {
    while (!look()) await new Promise((resolve) => setTimeout(resolve, 50));
  };
  const all = (text: string) => () => {
    try {
      return [0, 1, 2].every((rank) => log(rank).includes(text));
    } catch {
      return false;
    }
  };
  await until(all('ready'));
  process.emit('SIGTERM', 'SIGTERM');
  await until(all('asked 1'));
  process.emit('SIGTERM', 'SIGTERM');
  expect((await ended).code).toBe(143);
  expect(log(2)).not.toContain('asked 2');
});
