/** Several images in a question, one and none, in every command and at the server, on a tiny SmolVLM; `npm test` builds the program first. */
import { execFile, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { post, readStream, until } from '../../../../test/served-model.ts';
import { writeTinyChameleon } from '../../../../test/tiny-chameleon.ts';
import { writeTinySmolVlm } from '../../../../test/tiny-smolvlm.ts';
import { startTraining, trainingSteps } from '../../../../test/training-run.ts';
import type { ChatChunk, ChatResponse } from '../server/protocol.ts';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const run = promisify(execFile);
const ivtlr = (...args: string[]) => run(process.execPath, [program, ...args]);
const json = async (...args: string[]) => JSON.parse((await ivtlr(...args, '--json')).stdout);
const failed = (...args: string[]) => ivtlr(...args).catch((error) => error as { code: number; stderr: string });

/** Tiles of 32x32 are 16 image tokens; every picture is two tiles and the whole, so 48. */
const SIZE = '64x32';
const TOKENS = 48;

let folder = '';
let model = '';
const pictures: string[] = [];
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-several-'));
  model = join(folder, 'model');
  writeTinySmolVlm(model);
  // `ivtlr serve` takes the image size that is stored with a model.
  const settings = { task: 'm3cot', profile: 'consistent', imageSize: SIZE, latents: 2, patches: 5 };
  writeFileSync(join(model, 'ivtlr.json'), JSON.stringify(settings));
  for (const [index, [width, height]] of [
    [90, 60],
    [40, 70],
    [64, 64],
  ].entries()) {
    const pixels = new Uint8Array(width! * height! * 3).map((_, i) => (i * (7 + index) + (i >> 8)) % 256);
    pictures.push(join(folder, `${index}.png`));
    await sharp(pixels, { raw: { width: width!, height: height!, channels: 3 } })
      .png()
      .toFile(pictures[index]!);
  }
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const quick = ['--threads', '1', '--max-new-tokens', '6'];
const ask = (...images: string[]) => [
  ...['infer', '--model', model, '--question', 'Which figure?', '--choices', 'disk', 'box', ...quick],
  ...images.flatMap((image) => ['--image', image]),
];

interface Step {
  picked: { token: number; image: number; view: string; row: number; column: number }[];
  scores: number[];
}

/** Which image each pick is of, as its token says. */
function checkPlaces(steps: readonly Step[]): number[] {
  const picked = steps.flatMap((step) => step.picked);
  for (const { token, image, view } of picked) {
    expect(image).toBe(Math.floor(token / TOKENS));
    expect(view).toBe(token % TOKENS < 32 ? 'tiles' : 'whole');
  }
  return picked.map(({ image }) => image);
}

describe('ivtlr infer', () => {
  it('picks over all images, or from a named one, and draws a strip for each view of each', async () => {
    const trace = join(folder, 'trace');
    const both = await json(...ask(pictures[0]!, pictures[1]!), '--patches', '20', '--trace', trace);
    expect(both.images).toMatchObject([
      { name: pictures[0], width: 90, height: 60, tokenGrid: [4, 8] },
      { name: pictures[1], width: 40, height: 70, tokenGrid: [4, 8] },
    ]);
    expect(both.steps.map(({ scores }: Step) => scores.length)).toEqual([2 * TOKENS, 2 * TOKENS]);
    expect(new Set(checkPlaces(both.steps))).toEqual(new Set([0, 1]));
    expect(both).not.toHaveProperty('pick_from');
    const { height } = await sharp(both.trace.image).metadata();
    const single = await json(...ask(pictures[0]!), '--patches', '20', '--trace', join(folder, 'single'));
    expect(height! / (await sharp(single.trace.image).metadata()).height!).toBeGreaterThan(1.6);

    const second = await json(...ask(pictures[0]!, pictures[1]!), '--pick-from', '2');
    expect(checkPlaces(second.steps)).toEqual(new Array(10).fill(1));
    expect(second.pick_from).toBe(2);
    // The other order is another prompt; pictures are told apart by their places.
    const turned = await json(...ask(pictures[1]!, pictures[0]!), '--pick-from', '1');
    expect(checkPlaces(turned.steps)).toEqual(new Array(10).fill(0));
  });

  it('takes text alone: latent steps then insert their text only', async () => {
    const printed = await json(...ask());
    expect(printed).toMatchObject({ images: [], latentSteps: 2, generatedTokens: 6 });
    expect(printed.steps.map(({ picked }: Step) => picked)).toEqual([[], []]);
  });

  it('refuses an image to pick from that is not there', async () => {
    expect(await failed(...ask(pictures[0]!, pictures[1]!), '--pick-from', '3')).toMatchObject({
      code: 2,
      stderr: 'error: --pick-from 3: there is no image 3; the question has 2\n',
    });
    expect((await failed(...ask(), '--pick-from', '1')).stderr).toContain('the question has none');
  });

  it('answers lines with images, image, none and pick_from as it answers them alone', async () => {
    const file = join(folder, 'questions.jsonl');
    const question = { question: 'Which figure?', choices: ['disk', 'box'] };
    const lines = [
      { images: ['0.png', '1.png'] },
      { images: ['0.png', '1.png'], pick_from: 2 },
      { image: '1.png' },
      { images: [] },
    ];
    writeFileSync(file, lines.map((line) => JSON.stringify({ ...question, ...line })).join('\n'));
    const many = await ivtlr('infer', '--model', model, '--questions', file, '--patches', '20', ...quick);
    const answers = many.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
      .sort((a, b) => a.line - b.line);
    expect(answers.map(({ image, images, pick_from }) => ({ image, images, pick_from }))).toEqual(lines);
    const alone = [
      ask(pictures[0]!, pictures[1]!),
      [...ask(pictures[0]!, pictures[1]!), '--pick-from', '2'],
      ask(pictures[1]!),
      ask(),
    ];
    for (const [index, args] of alone.entries())
      expect(answers[index].answer).toBe((await json(...args, '--patches', '20')).answer);
    writeFileSync(file, JSON.stringify({ ...question, images: ['0.png'], pick_from: 2 }));
    expect((await failed('infer', '--model', model, '--questions', file)).stderr).toContain(
      'questions.jsonl, line 1: pick_from is 2, but the line has 1 images',
    );
  });
});

/** Rows of M3CoT's kind with two images, one, and an empty list. */
const rows = () =>
  Array.from({ length: 6 }, (_, i) => ({
    ...{ id: `row-${i}`, question: 'Which figure?', choices: ['disk', 'box'], answer: 'AB'[i % 2] },
    ...{ rationale: 'The disk is red. So it is the first', domain: 'science', topic: `topic ${i % 2}` },
    ...{ image: null, images: [['0.png', '1.png'], ['2.png'], []][i % 3]! },
  }));

describe('a column images', () => {
  it('is read from JSON lines and shown by data inspect', async () => {
    const data = join(folder, 'data');
    mkdirSync(data);
    const lines = rows().map((row) => JSON.stringify({ ...row, images: row.images.map((name) => join(folder, name)) }));
    for (const split of ['train', 'validation', 'test']) writeFileSync(join(data, `${split}.jsonl`), lines.join('\n'));
    const png = join(folder, 'inspect.png');
    const inspect = ['data', 'inspect', 'm3cot', '--data', data, '--model', model, '--png', png];
    const two = await json(...inspect, '--row', '0', '--stage', '1');
    expect(two.images).toMatchObject([
      { width: 90, height: 60 },
      { width: 40, height: 70 },
    ]);
    expect(two.tokens.image).toBe(2 * TOKENS);
    expect((await json(...inspect, '--row', '2', '--stage', '1')).tokens.image).toBe(0);
  });

  it('trains and is evaluated, rows of two images, one and none in one batch', async () => {
    const recipe = `
task: m3cot
profile: consistent
imageSize: ${SIZE}
model: ${model}
seed: 3
threads: 1
latent: { patches: 5, maxLatentStage: 2, epochsPerStage: 1, onExhausted: fewer }
lora: { rank: 4, alpha: 8, dropout: 0.1, targets: [q_proj, v_proj, down_proj] }
optimizer: { lr: 1.0e-3 }
globalBatch: 3
microBatch: 3
numEpochs: 3
data: { source: folder, folder: ${join(folder, 'data')}, threads: 1, validation: { samples: 3, everyEpochs: 1, batch: 3, maxNewTokens: 4 } }
checkpoint: { everySteps: 2, keep: 1 }
out: ${join(folder, 'unused')}
`;
    writeFileSync(join(folder, 'recipe.yaml'), recipe);
    const { code, stderr } = await startTraining(folder, 'trained').ended;
    expect(code, stderr).toBe(0);
    const losses = trainingSteps(folder, 'trained').map((step) => (step as { loss: number }).loss);
    expect(losses).toHaveLength(6);
    expect(losses.every(Number.isFinite)).toBe(true);
    const evaluate = async (batch: string) => {
      const file = join(folder, `batch-${batch}.jsonl`);
      const data = ['--model', join(folder, 'trained', 'model'), '--data', join(folder, 'data')];
      const report = await json('eval', ...data, '--batch', batch, ...quick, '--predictions', file);
      expect(report.results[0]).toMatchObject({ samples: 6 });
      const lines = readFileSync(file, 'utf8').trim().split('\n');
      return lines.map((line) => JSON.parse(line)).map(({ id, messages }) => ({ id, messages }));
    };
    expect(await evaluate('3')).toEqual(await evaluate('1'));
  });
});

describe('ivtlr serve', () => {
  it('takes none, one and several pictures: answers of ivtlr infer, streams, traces, pick_from', async () => {
    const child = spawn(process.execPath, [program, 'serve', '--model', model, '--threads', '1', '--port', '0'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let said = '';
    let errors = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      said += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      errors += text;
    });
    try {
      await until(() => said.includes('\n') || child.exitCode !== null, 'it listens');
      expect(child.exitCode, errors).toBeNull();
      const url = said.trim();
      const body = (
        names: readonly string[],
        more: Record<string, unknown> = {},
        rest: Record<string, unknown> = {},
      ) => ({
        messages: [
          {
            role: 'user',
            content: [
              ...names.map((name) => ({
                type: 'image_url',
                image_url: { url: `data:image/png;base64,${readFileSync(name).toString('base64')}` },
              })),
              { type: 'text', text: 'Which figure?' },
            ],
          },
        ],
        max_tokens: 6,
        ...rest,
        ivtlr: { choices: ['disk', 'box'], ...more },
      });
      const asked = async (names: readonly string[], more?: Record<string, unknown>) => {
        const response = await post(url, body(names, more));
        const answer = (await response.json()) as ChatResponse;
        expect(response.status, JSON.stringify(answer)).toBe(200);
        return answer.choices[0]!;
      };
      for (const names of [[], [pictures[1]!], pictures]) {
        const { message, ivtlr } = await asked(names, { trace: 'full' });
        const printed = await json(...ask(...names));
        expect(message.content).toBe(printed.answer);
        const latent = ivtlr!.steps!.filter(({ kind }) => kind === 'latent');
        expect(latent.map(({ picked }) => picked)).toEqual(
          printed.steps.map(({ picked }: Step) => picked.map(({ token }) => token)),
        );
        expect(ivtlr!.images?.map(({ firstToken }) => firstToken)).toEqual(
          names.length === 0 ? undefined : names.map((_, i) => i * TOKENS),
        );
        for (const { scores } of latent) expect(scores).toHaveLength(names.length * TOKENS);
        expect(ivtlr!.images?.[0]?.views?.map(({ name }) => name)).toEqual(
          names.length === 0 ? undefined : ['tiles', 'whole'],
        );
      }
      const chosen = await asked(pictures, { pick_from: 3 });
      expect(chosen.ivtlr!.steps!.flatMap(({ picked }) => picked).every((token) => token >= 2 * TOKENS)).toBe(true);
      expect(chosen.ivtlr!.settings).toMatchObject({ pick_from: 3 });

      const events = await readStream(await post(url, body(pictures, {}, { stream: true })));
      const chunks = events.slice(0, -1) as unknown as ChatChunk[];
      expect(chunks[0]!.choices[0]!.ivtlr!.images).toHaveLength(3);
      const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
      expect(text).toBe((await asked(pictures)).message.content);
      expect(chunks.flatMap((chunk) => chunk.choices[0]?.ivtlr?.steps ?? [])).toHaveLength(2);
    } finally {
      child.kill('SIGKILL');
    }
  });
});

describe('conversations', () => {
  it('several turns with pictures in two of them, from a file and at the place of --messages', async () => {
    const plain = join(folder, 'plain');
    writeTinySmolVlm(plain);
    const picture = (url: string) => ({ type: 'image_url', image_url: { url } });
    const text = (words: string) => ({ type: 'text', text: words });
    const messages = [
      { role: 'system', content: 'You look at a picture.' },
      { role: 'user', content: [picture('0.png'), text('Which figure?')] },
      { role: 'assistant', content: 'The disk.' },
      {
        role: 'user',
        content: [picture(`data:image/png;base64,${readFileSync(pictures[1]!).toString('base64')}`), text('And here?')],
      },
    ];
    const file = join(folder, 'conversation.json');
    writeFileSync(file, JSON.stringify({ messages }));
    const asking = ['infer', '--model', plain, '--messages', file, '--image-size', SIZE, ...quick];
    const printed = await json(...asking, '--latents', '2', '--patches', '4', '--pick-from', '2');
    expect(printed.images.map(({ width }: { width: number }) => width)).toEqual([90, 40]);
    expect(checkPlaces(printed.steps)).toEqual(new Array(8).fill(1));
    expect(printed.messages).toHaveLength(4);
    // What was said before counts.
    writeFileSync(file, JSON.stringify(messages.slice(1, 2)));
    const first = await json(...asking);
    expect(first.images).toHaveLength(1);
    writeFileSync(file, JSON.stringify([{ role: 'user', content: 'How many boxes?' }]));
    expect((await json(...asking)).images).toEqual([]);
  });
});

it('Chameleon takes one picture, and says so', async () => {
  const chameleon = join(folder, 'chameleon');
  writeTinyChameleon(chameleon);
  const asking = ['infer', '--model', chameleon, '--question', 'Which figure?', '--profile', 'consistent', ...quick];
  const message = (count: string) =>
    `error: prompts of the profile consistent of this model have one image, but the question has ${count}\n`;
  const two = [...asking, '--image', pictures[0]!, '--image', pictures[1]!];
  expect(await failed(...two)).toMatchObject({ code: 2, stderr: expect.stringContaining(message('2')) });
  expect(await failed(...asking)).toMatchObject({ code: 2, stderr: expect.stringContaining(message('none')) });
});
