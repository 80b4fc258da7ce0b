/** From image file and question to picks and text, as the official code with transformers' processor; see README.md for the goldens. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { liveTensorCount, setNumThreads } from '@ivtlr/torch';
import { afterAll, expect, test } from 'vitest';
import { type Answer, answer } from '../../packages/ivtlr/src/engine/ask.ts';
import { openModelFolder } from '../../packages/ivtlr/src/engine/loaded-model.ts';
import { saveModel } from '../../packages/ivtlr/src/models/registry.ts';
import { type ChameleonCase, seededChameleon } from './chameleon-model.ts';
import { readGolden } from './model.ts';

interface Case extends Pick<ChameleonCase, 'name' | 'seed' | 'config'> {
  task: string;
  file: string;
  question: string;
  choices: string[];
  latents: number;
  picked: number[][];
  new_tokens: number[];
  text: string;
}

setNumThreads(1);
const goldens = readGolden<{ max_new_tokens: number; cases: Case[] }>('chameleon-answers.json');
const folder = fs.mkdtempSync(join(tmpdir(), 'ivtlr-answers-'));
const baseline = liveTensorCount();
afterAll(() => {
  fs.rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

test.each(goldens.cases)('$name, T $latents', async (golden) => {
  const at = fs.mkdtempSync(join(folder, 'model-'));
  fs.cpSync(fileURLToPath(new URL('goldens/chameleon-tokenizer', import.meta.url)), at, { recursive: true });
  const made = seededChameleon(golden);
  saveModel(made, golden.config, at);
  made.dispose();
  // No ivtlr.json and no preprocessor_config.json: what the profile does not say is the official code's and transformers'.
  const opened = openModelFolder(at, { settings: { profile: 'official' } });
  const { file, question, choices, task, latents } = golden;
  const bytes = fs.readFileSync(new URL(`goldens/${file}`, import.meta.url));
  const asked = { images: [{ kind: 'encoded', bytes, name: file } as const], question, choices };
  let result: Answer | undefined;
  try {
    for await (const event of answer(opened, asked, {
      task,
      latentSteps: latents,
      maxNewTokens: goldens.max_new_tokens,
    }))
      if (event.type === 'end') result = event.answer;
  } finally {
    opened.model.module.dispose();
  }
  expect(result!.picked).toEqual(golden.picked);
  expect(result!.tokens).toEqual(golden.new_tokens);
  expect(result!.text).toBe(golden.text);
});
