// Fault injection for tests that start a program: node --import this file.
// KILL_AT_CALL=n kills the process before its n-th call that changes a file (0: never). FULL_DISK_AFTER=n lets writes fail with ENOSPC after n bytes,
// in files whose path holds FULL_DISK_PATH.
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const killAt = Number(process.env.KILL_AT_CALL ?? 0);
let calls = 0;
for (const name of ['openSync', 'writeSync', 'fsyncSync', 'renameSync', 'rmSync', 'mkdirSync']) {
  const original = fs[name];
  fs[name] = (...args) => {
    if (++calls === killAt) process.kill(process.pid, 'SIGKILL');
    return original(...args);
  };
}

if (process.env.FULL_DISK_AFTER !== undefined) {
  let left = Number(process.env.FULL_DISK_AFTER);
  const paths = new Map();
  const { openSync, writeSync } = fs;
  fs.openSync = (path, ...args) => {
    const descriptor = openSync(path, ...args);
    paths.set(descriptor, String(path));
    return descriptor;
  };
  fs.writeSync = (descriptor, ...args) => {
    const written = writeSync(descriptor, ...args);
    if (!paths.get(descriptor)?.includes(process.env.FULL_DISK_PATH ?? '')) return written;
    left -= written;
    if (left >= 0) return written;
    throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' });
  };
}
syncBuiltinESMExports();
