/** A Qwen2-VL, Qwen2.5-VL or Qwen3-VL that was taught no latent steps answers as transformers' generate does; see README.md for the goldens. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { liveTensorCount, setNumThreads } from '@ivtlr/torch';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Answer, answer } from '../../packages/ivtlr/src/engine/ask.ts';
import { type ReasoningSettings, withModel } from '../../packages/ivtlr/src/engine/loaded-model.ts';
import { saveModel } from '../../packages/ivtlr/src/models/registry.ts';
import { type GoldenCase, readGolden, seededModel } from './model.ts';
import { writeQwenTokenizer } from './qwen-tokenizer.ts';

interface Case extends GoldenCase {
  file: string;
  template: string;
  /** preprocessor_config.json; null for the defaults. */
  preprocessor: object | null;
  question: string;
  choices: string[];
  prompt_ids: number[];
  grid: [number, number, number];
  /** Stands in generation_config.json beside the tokenizer's end of text. */
  generation_eos: number | null;
  new_tokens: number[];
}

setNumThreads(1);
const goldens = readGolden<{ max_new_tokens: number; cases: Case[] }>('plain-answers.json');
const execute = promisify(execFile);
const program = fileURLToPath(new URL('../../packages/ivtlr/bin/ivtlr.mjs', import.meta.url));
const folder = fs.mkdtempSync(join(tmpdir(), 'ivtlr-plain-'));
const baseline = liveTensorCount();
beforeAll(() => writeQwenTokenizer(folder));
afterAll(() => {
  fs.rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

const imagePath = ({ file }: Case) => fileURLToPath(new URL(`goldens/preprocess/images/${file}`, import.meta.url));

async function asked(golden: Case, settings: Partial<ReasoningSettings> = {}): Promise<Answer> {
  const eos = { eos_token_id: [151645, golden.generation_eos].filter((id) => id !== null) };
  fs.writeFileSync(join(folder, 'generation_config.json'), JSON.stringify(eos));
  fs.writeFileSync(join(folder, 'config.json'), JSON.stringify(golden.config));
  fs.writeFileSync(join(folder, 'chat_template.jinja'), golden.template);
  fs.writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(golden.preprocessor ?? {}));
  const opened = withModel(folder, golden.config, seededModel(golden), settings);
  const { question, choices } = golden;
  const image = { kind: 'encoded', bytes: fs.readFileSync(imagePath(golden)), name: golden.file } as const;
  let result: Answer | undefined;
  try {
    for await (const event of answer(
      opened,
      { images: [image], question, choices },
      { maxNewTokens: goldens.max_new_tokens },
    ))
      if (event.type === 'end') result = event.answer;
  } finally {
    opened.model.module.dispose();
  }
  return result!;
}

test.each(goldens.cases)('$name', async (golden) => {
  const { promptIds, images, tokens, picked } = await asked(golden);
  expect(promptIds).toEqual(golden.prompt_ids);
  expect(images[0]!.tokenGrid).toEqual([golden.grid[1] / 2, golden.grid[2] / 2]);
  expect(tokens).toEqual(golden.new_tokens);
  expect(picked).toEqual([]);
});

test('the positions, the image size and the prompts of the official way give other tokens', async () => {
  const golden = goldens.cases.find(({ file }) => file === 'large.jpg')!;
  for (const settings of [{ positions: 'sequential' }, { imageSize: '280x280' }] as const) {
    expect((await asked(golden, settings)).tokens, JSON.stringify(settings)).not.toEqual(golden.new_tokens);
  }
  const official = await asked(golden, { profile: 'official' });
  expect(official.images[0]!.tokenGrid).toEqual([10, 10]);
  expect(official.picked).toHaveLength(3);
});

test('ivtlr infer takes that way for a folder without settings, says so, and warns where latent steps are asked for', async () => {
  const golden = goldens.cases.find(({ file }) => file === 'rgba.png')!;
  const expected = await asked(golden);
  const model = seededModel(golden);
  saveModel(model, golden.config, folder);
  model.dispose();
  const infer = async (...more: string[]) => {
    const flags = ['--max-new-tokens', '8', '--threads', '1', '--choices', ...golden.choices, ...more];
    const asked = ['--model', folder, '--image', imagePath(golden), '--question', golden.question, '--json'];
    const { stdout, stderr } = await execute(process.execPath, [program, 'infer', ...asked, ...flags]);
    return { printed: JSON.parse(stdout), stderr };
  };
  const plain = await infer('--latents', '0');
  expect(plain.printed).toMatchObject({ answer: expected.text, profile: 'plain', positions: 'mrope' });
  expect(plain.printed).toMatchObject({ imageSize: 'native', latents: 0 });
  expect(plain.stderr).not.toContain('taught');
  const latent = await infer('--latents', '1', '--patches', '2');
  expect(latent.printed).toMatchObject({ latents: 1, patches: 2, latentSteps: 1 });
  expect(latent.stderr).toMatch(/^note: .* has no ivtlr\.json, so nothing says that it was taught latent steps/);
  const official = { profile: 'official', positions: 'sequential', imageSize: '280x280', latents: 3, patches: 32 };
  expect((await infer('--profile', 'official')).printed).toMatchObject({
    ...official,
    images: [{ tokenGrid: [10, 10] }],
  });
  const sized = await infer('--profile', 'consistent', '--positions', 'mrope', '--image-size', '84x56');
  const consistent = { profile: 'consistent', positions: 'mrope', imageSize: '84x56', images: [{ tokenGrid: [2, 3] }] };
  expect(sized.printed).toMatchObject(consistent);
});
