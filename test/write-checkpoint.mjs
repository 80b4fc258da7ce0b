// A process that writes one checkpoint in the background and waits for it: node write-checkpoint.mjs OUT STEP. Its tensors all hold the step.
import { full } from '@ivtlr/torch';
import { CheckpointWriter } from '../packages/ivtlr/dist/train/checkpoint-writer.js';

const [out, step] = [process.argv[2], Number(process.argv[3])];
const weight = full([600], step);
const writer = new CheckpointWriter(out, 1);
await writer.begin();
writer.start(step, [
  { name: 'model.safetensors', content: { tensors: new Map([['weight', weight]]), metadata: {} } },
  { name: 'state.json', content: JSON.stringify({ step }) },
]);
await writer.finish();
