import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Sample } from '../data/sample.ts';
import { m3cot } from '../tasks/m3cot/m3cot.ts';
import { scienceqa } from '../tasks/scienceqa/scienceqa.ts';
import { PredictionFile } from './predictions.ts';
import type { AnsweredSample } from './runner.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-predictions-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function sample(id: string, answer = 'B'): Sample {
  const image = { kind: 'rgb' as const, width: 1, height: 1, data: new Uint8Array(3) };
  const meta = { domain: 'science', topic: 'plants' };
  return { id, image, question: 'q?', choices: ['x', 'y'], rationale: '', answer, meta };
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
    restored: false,
    ...stored,
  };
}

const lines = (path: string) => readFileSync(path, 'utf8').trimEnd().split('\n');

describe('PredictionFile', () => {
  it('gives back what it wrote, drops a torn last line, and goes on after it', () => {
    const path = join(folder, 'deep', 'answers.jsonl');
    const first = new PredictionFile(path, 'run 1', false);
    first.add(answered('a', 0));
    first.flush();
    first.add(answered('b', 2, 'none \u2028 at "all"'));
    expect(lines(path)).toHaveLength(1);
    first.close();
    appendFileSync(path, '{"id":"c","index":3,"mess');
    const second = new PredictionFile(path, 'run 1', true);
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

  it('begins anew without resume, and resumes a file that is not there', () => {
    const path = join(folder, 'anew.jsonl');
    const first = new PredictionFile(path, 'run', true);
    first.add(answered('a', 0));
    first.close();
    new PredictionFile(path, 'run', false).close();
    expect(readFileSync(path, 'utf8')).toBe('');
  });

  it('refuses answers of another run and what is no answer', () => {
    const path = join(folder, 'other.jsonl');
    const file = new PredictionFile(path, 'mode ivt-lr', false);
    file.add(answered('a', 0));
    file.close();
    expect(() => new PredictionFile(path, 'mode cot', true)).toThrow(/line 1: it belongs to the run "mode ivt-lr"/);
    writeFileSync(path, '{"id":"a"}\n');
    expect(() => new PredictionFile(path, 'r', true)).toThrow('line 1: this is no answer');
    writeFileSync(path, 'null\n');
    expect(() => new PredictionFile(path, 'r', true)).toThrow('line 1: this is no answer');
    writeFileSync(path, 'hello\n');
    expect(() => new PredictionFile(path, 'r', true)).toThrow('line 1: this is no JSON');
    expect(() => new PredictionFile(folder, 'r', false)).toThrow('cannot write predictions');
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
