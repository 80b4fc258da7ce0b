import { cudaAvailable } from '@ivtlr/torch';
import { describe, expect, it } from 'vitest';
import { deviceOfRank, deviceOfWorker, resolveDevice } from './device.ts';

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

describe('several processes of a machine', () => {
  const note = () => {};
  const works = async () => null;
  const count = (gpus: number) => async () => gpus;

  it('that answer share the GPUs there are', async () => {
    const of = (name: string, place: number, gpus: number) =>
      deviceOfWorker(name, '--device', place, note, count(gpus), works);
    expect(await Promise.all([0, 1, 2, 3].map((place) => of('auto', place, 2)))).toEqual([
      ...['cuda:0', 'cuda:1', 'cuda:0', 'cuda:1'],
    ]);
    expect(await of('cuda', 1, 3)).toBe('cuda:1');
    expect(await of('cuda:0', 1, 3)).toBe('cuda:0');
    expect(await of('cpu', 1, 3)).toBe('cpu');
    const none = deviceOfWorker('auto', '--device', 1, note, count(0), async () => 'no GPU');
    expect(await none).toBe('cpu');
  });

  it('that train have one each', async () => {
    const of = (name: string, localRank: number, localWorldSize: number, gpus: number, tried: string[] = []) =>
      deviceOfRank(name, 'device', { localRank, localWorldSize }, note, count(gpus), async (device) => {
        tried.push(device);
        return null;
      });
    const tried: string[] = [];
    expect(await of('auto', 2, 3, 4, tried)).toBe('cuda:2');
    expect(await of('cuda', 1, 2, 2, tried)).toBe('cuda:1');
    expect(tried).toEqual(['cuda:2', 'cuda:1']);
    expect(await of('cuda', 3, 4, 1)).toBe('cuda:0'); // a scheduler that shows each its own
    expect(await of('cuda:1', 0, 1, 4)).toBe('cuda:1');
    expect(await of('cpu', 1, 2, 4)).toBe('cpu');
    await expect(of('auto', 0, 4, 2)).rejects.toThrow(/^device auto: the 4 processes .* but it has 2; start fewer/);
    await expect(of('cuda:0', 1, 2, 4)).rejects.toThrow(/^device cuda:0 would put all 2 processes on one GPU/);
    await expect(
      deviceOfRank('auto', 'device', { localRank: 0, localWorldSize: 2 }, note, count(0), async () => 'none'),
    ).resolves.toBe('cpu');
  });
});
