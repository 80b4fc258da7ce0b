// Fault injection for tests that start a program: node --import this file. Only calls that concern a path with FAULT_PATH in it count.
//   KILL_AT_CALL=n     kills the process before its n-th call that changes a file (0: never)
//   FULL_DISK_AFTER=n  lets writes fail with ENOSPC once n bytes are written
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const wanted = process.env.FAULT_PATH ?? '';
const killAt = Number(process.env.KILL_AT_CALL ?? 0);
let left = Number(process.env.FULL_DISK_AFTER ?? Number.POSITIVE_INFINITY);
let calls = 0;
const paths = new Map();
const concerned = (args) => args.slice(0, 2).some((arg) => String(paths.get(arg) ?? arg).includes(wanted));

for (const name of ['openSync', 'writeSync', 'fsyncSync', 'renameSync', 'rmSync', 'mkdirSync', 'appendFileSync']) {
  const original = fs[name];
  fs[name] = (...args) => {
    if (concerned(args) && ++calls === killAt) process.kill(process.pid, 'SIGKILL');
    const result = original(...args);
    if (name === 'openSync') paths.set(result, String(args[0]));
    if (name === 'writeSync' && concerned(args)) {
      left -= result;
      if (left < 0) {
        throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' });
      }
    }
    return result;
  };
}
syncBuiltinESMExports();
