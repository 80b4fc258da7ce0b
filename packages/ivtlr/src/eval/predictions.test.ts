import { appendFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { m3cot } from '../tasks/m3cot/m3cot.ts';
import { scienceqa } from '../tasks/scienceqa/scienceqa.ts';
import { PredictionFile } from './predictions.ts';
import { fingerprint, modelFingerprint } from './run-key.ts';
import type { AnsweredSample } from './runner.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-predictions-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function sample(id: string, answer = 'B'): Sample {
  const image = { kind: 'rgb' as const, width: 1, height: 1, data: new Uint8Array(3) };
  const meta = { domain: 'science', topic: 'plants' };
  return { id, images: [image], question: 'q?', choices: ['x', 'y'], rationale: '', answer, meta };
}

function answered(id: string, index: number, generated = 'Therefore, the answer is B'): AnsweredSample {
  const score = { official: true, strict: true, predicted: 'B' };
  const stored = { latentSteps: 3, generatedTokens: 5, seconds: 0.25, picks: { named: 0, right: 0 } };
  const answer = { prompt: 'q?', generated };
  return {
    sample: sample(id),
    index,
    answered: answer,
    score,
    autoregressiveSteps: 8,
    picked: [],
    trace: [],
    textTrace: [],
    states: [],
    restored: false,
    ...stored,
  };
}

const lines = (path: string) => readFileSync(path, 'utf8').trimEnd().split('\n');

describe('PredictionFile', () => {
  it('stops when another process writes to the file', () => {
    const path = join(folder, 'shared.jsonl');
    const [first, second] = [1, 2].map(() => new PredictionFile(path, { mode: '1' }, 'refuse')) as [
      PredictionFile,
      PredictionFile,
    ];
    for (const index of [0, 1]) {
      first.add(answered(`a${index}`, index));
      first.flush();
    }
    second.add(answered('a0', 0));
    expect(() => second.flush()).toThrow(
      new UserError(`another process has written to ${path} meanwhile; give each run a file of its own`),
    );
    second.close();
    first.close();
    expect(lines(path)).toHaveLength(2);
  });

  it('gives back what it wrote, drops a torn last line, and goes on after it', () => {
    const path = join(folder, 'deep', 'answers.jsonl');
    const first = new PredictionFile(path, { mode: '1' }, 'refuse');
    first.add(answered('a', 0));
    first.flush();
    first.add(answered('b', 2, 'none \u2028 at "all"'));
    expect(lines(path)).toHaveLength(1);
    first.close();
    appendFileSync(path, '{"id":"c","index":3,"mess');
    const second = new PredictionFile(path, { mode: '1' }, 'resume');
    expect(second.stored).toBe(2);
    expect(second.restore(sample('b'), 2)).toMatchObject({
      answered: { prompt: 'q?', generated: 'none \u2028 at "all"' },
      latentSteps: 3,
      generatedTokens: 5,
      seconds: 0.25,
    });
    expect(second.restore(sample('b'), 1)).toBeUndefined();
    expect(() => second.restore(sample('x'), 2)).toThrow('line 2: sample 2 is b, but in the data it is x');
    second.add({ ...answered('a', 0), restored: true });
    second.add(answered('c', 3));
    second.close();
    expect(lines(path).map((line) => JSON.parse(line).id)).toEqual(['a', 'b', 'c']);
  });

  it('refuses a file with content unless told, and replaces it only when the first new answer is there', () => {
    const path = join(folder, 'anew.jsonl');
    const first = new PredictionFile(path, {}, 'resume'); // a file that is not there yet
    first.add(answered('a', 0));
    first.close();
    const before = readFileSync(path, 'utf8');
    expect(() => new PredictionFile(path, {}, 'refuse')).toThrow(`${path} is there already`);
    const idle = new PredictionFile(path, {}, 'overwrite');
    expect(idle.stored).toBe(0);
    idle.close();
    expect(readFileSync(path, 'utf8')).toBe(before);
    const second = new PredictionFile(path, {}, 'overwrite');
    second.add(answered('b', 0));
    second.flush();
    second.add(answered('c', 1));
    second.close();
    expect(lines(path).map((line) => JSON.parse(line).id)).toEqual(['b', 'c']);
    const empty = join(folder, 'empty.jsonl');
    writeFileSync(empty, '');
    new PredictionFile(empty, {}, 'refuse').close();
  });

  it('leaves a file as it is that it refuses', () => {
    const path = join(folder, 'notes.txt');
    const text = '{"my":"notes"}\nand a line without end';
    writeFileSync(path, text);
    expect(() => new PredictionFile(path, {}, 'resume')).toThrow('this is no answer');
    expect(readFileSync(path, 'utf8')).toBe(text);
  });

  it('refuses answers of another run and what is no answer', () => {
    const path = join(folder, 'other.jsonl');
    const file = new PredictionFile(path, { mode: 'ivt-lr', model: 'a 12' }, 'refuse');
    file.add(answered('a', 0));
    file.close();
    expect(() => new PredictionFile(path, { mode: 'cot', model: 'a 12' }, 'resume')).toThrow(
      /line 1: the answer belongs to a run with another mode \(there ivt-lr, now cot\); give another/,
    );
    expect(() => new PredictionFile(path, { mode: 'ivt-lr', model: 'a 13' }, 'resume')).toThrow(
      'another model (there a 12, now a 13)',
    );
    for (const [text, message] of [
      ['{"id":"a"}\n', 'line 1: this is no answer'],
      ['null\n', 'line 1: this is no answer'],
      ['hello\n', 'line 1: this is no JSON'],
    ] as const) {
      writeFileSync(path, text);
      expect(() => new PredictionFile(path, {}, 'resume')).toThrow(message);
    }
    expect(() => new PredictionFile(folder, {}, 'overwrite')).toThrow(`cannot write ${folder}`);
  });

  it('names the file when the disk is full', () => {
    const full = new PredictionFile('/dev/full', {}, 'refuse');
    full.add(answered('a', 0));
    expect(() => full.flush()).toThrow(new UserError('cannot write /dev/full: ENOSPC: no space left on device, write'));
    full.close();
  });
});

describe('run keys', () => {
  it('change with the content of small files and the time of large ones, not with their order in the folder', () => {
    const own = mkdtempSync(join(folder, 'model-'));
    const config = join(own, 'config.json');
    const weights = join(own, 'model.safetensors');
    writeFileSync(config, '{"a":1}');
    writeFileSync(weights, '');
    truncateSync(weights, 17 * 2 ** 20);
    const first = modelFingerprint([own, own]);
    writeFileSync(join(own, 'answers.jsonl'), 'not a part of the model');
    expect(modelFingerprint([own])).toBe(first);
    writeFileSync(config, '{"a":2}');
    const second = modelFingerprint([own]);
    expect(second).not.toBe(first);
    utimesSync(weights, 5, 5);
    expect(modelFingerprint([own])).not.toBe(second);
    expect(() => fingerprint([join(own, 'none')])).toThrow(/cannot read .*none/);
  });
});

describe('official prediction files', () => {
  it('M3CoT: JSON lines with exactly the official keys', () => {
    const text = m3cot.officialPredictions([answered('a', 0), answered('b', 4)]);
    expect(text.split('\n')).toHaveLength(3);
    expect(JSON.parse(text.split('\n')[1]!)).toEqual({
      id: 'b',
      choices: ['x', 'y'],
      answer: 'B',
      domain: 'science',
      topic: 'plants',
      messages: ['q?', 'Therefore, the answer is B'],
    });
  });

  it('ScienceQA: choice numbers by row, -1 where nothing was said', () => {
    const rows = [
      answered('a', 3, 'Therefore, the answer is 1'),
      answered('b', 17, 'The answer is C'),
      answered('c', 20, 'who knows'),
    ];
    expect(JSON.parse(scienceqa.officialPredictions(rows))).toEqual({ results: { '3': 1, '17': 2, '20': -1 } });
  });
});
