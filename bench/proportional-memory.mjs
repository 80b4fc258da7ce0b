/** The memory of a process (Linux), each page divided by the number of processes that have it mapped (PSS). */
import fs from 'node:fs';

/** Bytes; 0 for a process that has ended. */
export function proportional(pid) {
  try {
    return Number(/^Pss:\s*(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))[1]) * 1024;
  } catch {
    return 0;
  }
}
