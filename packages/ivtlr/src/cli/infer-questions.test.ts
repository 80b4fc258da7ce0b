import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { dominoes } from '../tasks/dominoes/dominoes.ts';
import { encodePng } from '../tasks/make-file.ts';
import { run } from './main.ts';

const model = fileURLToPath(new URL('../../models/dominoes', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'ivtlr-questions-'));
const questions = join(folder, 'questions.jsonl');
const output = join(folder, 'answers.jsonl');
const gold: string[] = [];
const lines: string[] = [];

beforeAll(async () => {
  for (let index = 0; index < 6; index++) {
    const {
      images: [image],
      question,
      choices,
      answer,
    } = dominoes.generator!.sample(5, 'test', index);
    writeFileSync(join(folder, `${index}.png`), await encodePng(image!));
    gold.push(answer);
    lines.push(JSON.stringify({ id: `q${index}`, image: `${index}.png`, question, choices }));
  }
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let out = '';
let err = '';
beforeEach(() => {
  out = '';
  err = '';
  rmSync(output, { force: true });
  writeFileSync(questions, `${lines.slice(0, 3).join('\n')}\n\n${lines.slice(3).join('\n')}\n`);
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += text;
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    err += text;
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

const flags = ['--model', model, '--questions', questions, '--max-new-tokens', '40', '--threads', '1'];
const ask = (...more: string[]) => run(['infer', ...flags, ...more]);
const parse = (text: string) =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
const byLine = (text: string) => parse(text).sort((a, b) => a.line - b.line);

describe('ivtlr infer --questions', () => {
  it('answers every line as infer answers it alone, whatever the batch', async () => {
    expect(await ask('--batch', '4', '--output', output), err).toBe(0);
    const answers = byLine(readFileSync(output, 'utf8'));
    expect(answers.map(({ line }) => line)).toEqual([1, 2, 3, 5, 6, 7]);
    expect(answers.map(({ id }) => id)).toEqual(['q0', 'q1', 'q2', 'q3', 'q4', 'q5']);
    // The bundled model is nearly always right.
    expect(answers.filter(({ predicted }, index) => predicted === gold[index]).length).toBeGreaterThanOrEqual(5);
    expect(out).toBe('');
    expect(await ask('--batch', '1')).toBe(0);
    expect(byLine(out)).toEqual(answers);
    const { question, choices } = JSON.parse(lines[4]!);
    const one = ['--image', join(folder, '4.png'), '--question', question, '--max-new-tokens', '40', '--threads', '1'];
    out = '';
    expect(await run(['infer', '--model', model, ...one, '--choices', ...choices, '--json'])).toBe(0);
    expect(JSON.parse(out).answer).toBe(answers[4].answer);
  });

  it('goes on where it stopped, and only with the same questions and flags', async () => {
    expect(await ask('--output', output)).toBe(0);
    const whole = readFileSync(output, 'utf8');
    const [first, second] = whole.split('\n');
    writeFileSync(output, `${first}\n${second}\n${whole.slice(0, 20)}`);
    err = '';
    expect(await ask('--output', output), err).toBe(2);
    expect(err).toMatch(/answers\.jsonl is there already; give another name, or --overwrite/);
    err = '';
    expect(await ask('--output', output, '--resume'), err).toBe(0);
    expect(err).toContain('2 answers are there already\n');
    expect(byLine(readFileSync(output, 'utf8'))).toEqual(byLine(whole));
    err = '';
    expect(await ask('--output', output, '--resume', '--latents', '1')).toBe(2);
    expect(err).toMatch(/answers\.jsonl, line 1 was answered by another model or with other flags/);
    writeFileSync(questions, lines.map((line) => line.replace('?', ' then?').replace('Start', 'Begin')).join('\n'));
    err = '';
    expect(await ask('--output', output, '--resume')).toBe(2);
    expect(err).toMatch(/answers\.jsonl, line 1 answers no question of the file/);
  });

  it('draws by a seed of each line, and goes on only with the same sampling', async () => {
    const hot = ['--temperature', '4', '--stop', 'zzz', '--output', output];
    expect(await ask(...hot, '--batch', '6'), err).toBe(0);
    const answers = byLine(readFileSync(output, 'utf8'));
    expect(await ask(...hot, '--batch', '1', '--overwrite'), err).toBe(0);
    expect(byLine(readFileSync(output, 'utf8'))).toEqual(answers);
    err = '';
    expect(await ask('--output', output, '--resume')).toBe(2);
    expect(err).toMatch(/line 1 was answered by another model or with other flags/);
    expect(await ask(...hot, '--resume'), err).toBe(0);
  });

  it('leaves out questions that cannot be answered, by line, and answers the rest', async () => {
    writeFileSync(join(folder, 'broken.png'), 'no image');
    appendFileSync(
      questions,
      '{"image": "none.png", "question": "Which?"}\n{"image": "broken.png", "question": "Which?"}\n',
    );
    appendFileSync(questions, '{"image": "0.png", "question": "<|latent|>"}\n{"image": "0.png", "question": ""}\n');
    expect(await ask('--output', output)).toBe(2);
    expect(err).toMatch(/left out: .*questions\.jsonl, line 8: there is no image .*none\.png/);
    expect(err).toMatch(/left out: .*questions\.jsonl, line 9: broken\.png/);
    expect(err).toMatch(/left out: .*questions\.jsonl, line 10: /);
    expect(err).toMatch(/3 of 10 questions could not be answered\n$/);
    expect(byLine(readFileSync(output, 'utf8')).map(({ line }) => line)).toEqual([1, 2, 3, 5, 6, 7, 11]);
  });

  it.each([
    ['{"image": 3, "question": "a"}', /line 1: image .*expected string/],
    ['{"image": "0.png"}', /line 1: question /],
    ['{"image": "0.png", "question": "a", "chioces": []}', /line 1: .*chioces/],
    ['[]', /line 1: /],
    ['\n{"image"', /line 2 is not JSON/],
    ['\n\n', /has no questions; each is a line such as/],
  ])('refuses a file that is wrong before anything is loaded or written: %s', async (text, message) => {
    writeFileSync(questions, text);
    expect(await ask('--output', output)).toBe(2);
    expect(err).toMatch(message);
    expect(err.trim().split('\n')).toHaveLength(1);
    expect(existsSync(output)).toBe(false);
  });

  it('says which flags do not go together', async () => {
    expect(await ask('--image', '0.png')).toBe(2);
    expect(err).toMatch(/'--questions <file>' cannot be used with option '--image <file>'/);
    expect(await ask('--resume')).toBe(2);
    expect(err).toMatch(/--resume goes on from the answers in a file; say which with --output/);
    expect(await ask('--output', questions)).toBe(2);
    expect(err).toMatch(/--questions and --output are both/);
    const one = ['infer', '--model', model, '--image', 'a.png'];
    expect(await run(one)).toBe(2);
    expect(err).toMatch(
      /error: give --question, with --image where it is about images; or --messages, or --questions\n$/,
    );
    expect(await run([...one, '--question', 'a', '--batch', '2'])).toBe(2);
    expect(err).toMatch(/are for many questions; give them with --questions\n$/);
  });
});
