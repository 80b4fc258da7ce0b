import { cudaAvailable } from '@ivtlr/torch';
import { describe, expect, it } from 'vitest';
import { resolveDevice } from './device.ts';

async function resolved(name: string, reason: string | null) {
  const notes: string[] = [];
  const device = await resolveDevice(
    name,
    '--device',
    (line) => notes.push(line),
    async () => reason,
  );
  return [device, ...notes];
}

describe('resolveDevice', () => {
  it('takes a GPU that works for auto, else the CPU, and says which', async () => {
    expect(await resolved('auto', null)).toEqual(['cuda', 'device: cuda']);
    expect(await resolved('auto', 'no GPU')).toEqual(['cpu', 'device: cpu (no GPU)']);
  });

  it('takes what is named without a word, and refuses what cannot be used', async () => {
    expect(await resolved('cpu', 'no GPU')).toEqual(['cpu']);
    expect(await resolved('cuda:1', null)).toEqual(['cuda:1']);
    await expect(resolved('cuda:1', 'no GPU')).rejects.toThrow(
      '--device cuda:1: no GPU (`ivtlr doctor` says more); use --device auto or cpu',
    );
    await expect(resolved('gpu', null)).rejects.toThrow('--device gpu: known are auto, cpu, cuda and cuda:N');
  });

  it('tries the device itself', async () => {
    const notes: string[] = [];
    const device = await resolveDevice('auto', 'device', (line) => notes.push(line));
    expect(device).toBe(cudaAvailable() ? 'cuda' : 'cpu');
    expect(notes).toHaveLength(1);
    await expect(resolveDevice('cuda:99', 'device', () => {})).rejects.toThrow(
      /^device cuda:99: (this libtorch sees no|the GPU does not)/,
    );
  });
});
