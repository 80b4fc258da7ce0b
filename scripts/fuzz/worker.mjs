/** The process that reads damaged files: one input a message, one verdict back. Whatever kills it is the parent's to see. */
import fs from 'node:fs';
import { liveTensorCount } from '../../packages/torch/dist/index.js';
import { readers } from './readers.mjs';
import { unclear } from './unclear.mjs';

const TYPED = new Set(['UserError', 'CheckpointError', 'StateDictError']);

const openFiles = () => (fs.existsSync('/proc/self/fd') ? fs.readdirSync('/proc/self/fd').length : 0);

/** Most memory since the last call in bytes, where the system tells. */
function peakMemory() {
  try {
    const peak = Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync('/proc/self/status', 'utf8'))[1]) * 1024;
    fs.writeFileSync('/proc/self/clear_refs', '5');
    return peak;
  } catch {
    return 0;
  }
}

async function verdict(kind, folder, options) {
  const before = { tensors: liveTensorCount(), files: openFiles() };
  let outcome = 'accepted';
  let message = '';
  const complaints = [];
  try {
    complaints.push(...((await readers[kind](folder, options)) ?? []));
  } catch (error) {
    outcome = 'refused';
    message = error instanceof Error ? error.message : String(error);
    if (!TYPED.has(error?.name)) return { outcome: 'defect', problem: 'unclear', message: error?.stack ?? message };
    complaints.push(message);
  }
  // A promise that nobody awaits gets time to reject, which counts as a defect.
  await new Promise((resolve) => setTimeout(resolve, 0));
  for (const text of complaints) {
    const problem = unclear(text);
    if (problem) return { outcome: 'defect', problem: 'unclear', message: `${problem}: ${JSON.stringify(text)}` };
  }
  const tensors = liveTensorCount() - before.tensors;
  if (tensors > 0) return { outcome: 'defect', problem: 'left', message: `${tensors} tensors (${message})` };
  let files = openFiles() - before.files;
  // Streams close a moment after they are destroyed.
  for (let tries = 0; files > 0 && tries < 50; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    files = openFiles() - before.files;
  }
  if (files > 0) return { outcome: 'defect', problem: 'left', message: `${files} open files (${message})` };
  return { outcome, message };
}

process.on('message', async ({ kind, folder, options }) => {
  peakMemory();
  const result = await verdict(kind, folder, options);
  process.send({ ...result, peak: peakMemory() });
});
process.send('ready');
