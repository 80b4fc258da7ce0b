/** POST /v1/chat/completions against the bundled model: whole answers, streams, options, and the clients of others. */
import { execFile } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  chatBody,
  errorOf,
  type Puzzle,
  post,
  puzzle,
  readStream,
  serveDominoes,
} from '../../../../test/served-model.ts';
import { ask as askEngine } from '../engine/ask.ts';
import { openModelFolder } from '../engine/loaded-model.ts';
import type { ChatChunk, ChatResponse } from './protocol.ts';
import type { Serving } from './serve.ts';

let served: Serving;
let folder: string;
let asked: Puzzle;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-chat-'));
  served = await serveDominoes();
  asked = await puzzle(5);
});
afterAll(async () => {
  await served?.stop(0);
  rmSync(folder, { recursive: true, force: true });
});

describe('chat completions', () => {
  test('a whole answer: text, picks of the latent steps, usage', async () => {
    const response = await post(served.url, chatBody(asked), { headers: { 'x-request-id': 'mine-1' } });
    expect(response.status).toBe(200);
    expect(response.headers.get('x-request-id')).toBe('mine-1');
    const answer = (await response.json()) as ChatResponse;
    expect(answer).toMatchObject({ object: 'chat.completion', model: 'dominoes' });
    const [choice] = answer.choices;
    expect(choice!.finish_reason).toBe('stop');
    expect(choice!.message.content).toMatch(new RegExp(`the answer is ${asked.answer}$`));
    const { image, steps, settings, seconds } = choice!.ivtlr!;
    expect(image).toEqual({
      tokenGrid: [4, 4],
      width: 112,
      height: 112,
      crop: { x: 0, y: 0, width: 112, height: 112 },
    });
    expect(steps!.map(({ step, kind, picked, scores }) => ({ step, kind, picks: picked.length, scores }))).toEqual(
      [0, 1, 2].map((step) => ({ step, kind: 'latent', picks: 1, scores: null })),
    );
    const seed = expect.any(Number);
    expect(settings).toEqual({ latents: 3, patches: 1, task: 'dominoes', ablation: null, seed });
    expect(Object.values(seconds!).every((value) => value >= 0)).toBe(true);
    const { usage } = answer;
    expect(usage.completion_tokens_details).toEqual({ latent_steps: 3 });
    expect(usage.total_tokens).toBe(usage.prompt_tokens + usage.completion_tokens);
    expect(usage.prompt_tokens).toBeGreaterThan(16);
  });

  test('a stream says the same piece by piece', async () => {
    const body = chatBody(asked, { stream: true, stream_options: { include_usage: true } });
    const response = await post(served.url, body);
    expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/);
    const events = await readStream(response);
    expect(events.at(-1)).toBe('[DONE]');
    const chunks = events.slice(0, -1) as unknown as ChatChunk[];
    const whole = (await (await post(served.url, chatBody(asked))).json()) as ChatResponse;
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
    expect(text).toBe(whole.choices[0]!.message.content);
    const steps = chunks.flatMap((chunk) => chunk.choices[0]?.ivtlr?.steps ?? []);
    expect(steps.map(({ picked }) => picked)).toEqual(whole.choices[0]!.ivtlr!.steps!.map(({ picked }) => picked));
    // Latent steps come before the text, as they happen.
    const firstText = chunks.findIndex((chunk) => chunk.choices[0]?.delta.content);
    const lastStep = chunks.findLastIndex((chunk) => chunk.choices[0]?.ivtlr?.steps);
    expect(lastStep).toBeLessThan(firstText);
    expect(chunks[0]!.choices[0]).toMatchObject({
      delta: { role: 'assistant' },
      ivtlr: { image: { tokenGrid: [4, 4] } },
    });
    expect(chunks.map((chunk) => chunk.choices[0]?.finish_reason).filter(Boolean)).toEqual(['stop']);
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: whole.usage });
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  });

  test('trace: none has no steps, full has scores of latent steps and of written tokens', async () => {
    const steps = async (trace: string) =>
      ((await (await post(served.url, chatBody(asked, { ivtlr: { trace } }))).json()) as ChatResponse).choices[0]!
        .ivtlr!.steps!;
    expect(await steps('none')).toEqual([]);
    const full = await steps('full');
    expect(full.map(({ kind }) => kind)).toEqual([...Array(3).fill('latent'), ...Array(11).fill('token')]);
    for (const { scores, pickedScores, picked, attentionRatio, focus } of full) {
      expect(scores).toHaveLength(16);
      expect(pickedScores).toEqual(picked.map((index) => scores![index]));
      expect(attentionRatio).toBeGreaterThan(0);
      expect(focus).toBeGreaterThan(0);
    }
  });

  test('options of the request: latent steps, ablation, patches, longest answer, several answers', async () => {
    const ask = async (more: Record<string, unknown>) =>
      (await (await post(served.url, chatBody(asked, more))).json()) as ChatResponse;
    const short = await ask({ max_tokens: 2 });
    expect(short.choices[0]!.finish_reason).toBe('length');
    expect(short.usage.completion_tokens).toBe(2);
    expect((await ask({ max_completion_tokens: 3 })).usage.completion_tokens).toBe(3);
    const none = await ask({ ivtlr: { ablation: 'zero-latents' } });
    expect(none.choices[0]!.ivtlr).toMatchObject({ steps: [], settings: { latents: 0, ablation: 'zero-latents' } });
    const two = await ask({ ivtlr: { latents: 2, patches: 3 } });
    expect(two.choices[0]!.ivtlr!.steps!.map(({ picked }) => picked.length)).toEqual([3, 3]);
    const random = async (seed: number) =>
      (await ask({ seed, ivtlr: { ablation: 'random-patches' } })).choices[0]!.ivtlr!.steps!.map(
        ({ picked }) => picked,
      );
    expect(await random(1)).toEqual(await random(1));
    expect([await random(2), await random(3), await random(4)]).not.toEqual(Array(3).fill(await random(1)));
    const both = await ask({ n: 2, ivtlr: { trace: 'none' } });
    expect(both.choices.map(({ index }) => index)).toEqual([0, 1]);
    expect(both.choices[1]!.message).toEqual(both.choices[0]!.message);
    expect(both.usage.completion_tokens).toBe(22);
  });

  test('answers are those of ivtlr infer', async () => {
    const puzzles = await Promise.all(Array.from({ length: 12 }, (_, seed) => puzzle(100 + seed)));
    const file = join(folder, 'questions.jsonl');
    writeFileSync(file, '');
    puzzles.forEach(({ image, question, choices }, i) => {
      writeFileSync(join(folder, `${i}.png`), Buffer.from(image.split(',')[1]!, 'base64'));
      appendFileSync(file, `${JSON.stringify({ id: String(i), image: `${i}.png`, question, choices })}\n`);
    });
    const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
    const model = fileURLToPath(new URL('../../models/dominoes', import.meta.url));
    const args = [program, 'infer', '--model', model, '--questions', file, '--threads', '1', '--max-new-tokens', '64'];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    const expected = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { id: string; answer: string });
    const given = await Promise.all(
      puzzles.map(async (each) => (await (await post(served.url, chatBody(each))).json()) as ChatResponse),
    );
    expect(expected).toHaveLength(12);
    for (const { id, answer } of expected) expect(given[Number(id)]!.choices[0]!.message.content).toBe(answer);
  });

  test('sampling: by seed, greedy without temperature, as many draws as answers', async () => {
    const texts = async (more: Record<string, unknown>) =>
      ((await (await post(served.url, chatBody(asked, more))).json()) as ChatResponse).choices.map(
        ({ message }) => message.content,
      );
    const greedy = await texts({});
    expect(await texts({ temperature: 0, top_p: 0.5, top_k: 3 })).toEqual(greedy);
    expect(await texts({ temperature: 2, top_k: 1, seed: 1 })).toEqual(greedy);
    // Without choices and latent steps the model can only guess.
    const hot = { temperature: 2, ivtlr: { choices: [], latents: 0 } };
    expect(await texts({ ...hot, seed: 7 })).toEqual(await texts({ ...hot, seed: 7 }));
    expect(new Set(await texts({ ...hot, seed: 7, n: 6 })).size).toBeGreaterThan(2);
    expect(new Set(await texts({ ...hot, n: 6 })).size).toBeGreaterThan(2);
    expect((await texts({ repetition_penalty: 100 }))[0]).not.toBe(greedy[0]);
  });

  test('without a seed every request draws its own, and tells it', async () => {
    const hot = { temperature: 2, ivtlr: { choices: [], latents: 0 } };
    const draw = async (more: Record<string, unknown>) => {
      const body = chatBody(asked, { ...hot, ...more });
      const [choice] = ((await (await post(served.url, body)).json()) as ChatResponse).choices;
      return { text: choice!.message.content, seed: choice!.ivtlr!.settings!.seed! };
    };
    const drawn = await Promise.all(Array.from({ length: 6 }, () => draw({})));
    expect(new Set(drawn.map(({ seed }) => seed)).size).toBe(6);
    expect(new Set(drawn.map(({ text }) => text)).size).toBeGreaterThan(2);
    expect(await draw({ seed: drawn[0]!.seed })).toEqual(drawn[0]);
  });

  test('stop strings end the answer before them, in a stream too', async () => {
    const body = (more: object) => chatBody(asked, { stop: ['\nTherefore', ' answer'], ...more });
    const whole = ((await (await post(served.url, body({}))).json()) as ChatResponse).choices[0]!;
    expect([whole.message.content, whole.finish_reason]).toEqual([expect.stringMatching(/^\w+ is [A-D]$/), 'stop']);
    const events = (await readStream(await post(served.url, body({ stream: true })))).slice(
      0,
      -1,
    ) as never as ChatChunk[];
    expect(events.map(({ choices }) => choices[0]?.delta.content ?? '').join('')).toBe(whole.message.content);
    const one = await post(served.url, chatBody(asked, { stop: 'answer' }));
    expect(((await one.json()) as ChatResponse).choices[0]!.message.content).toMatch(
      /Therefore, the $|Therefore, the$/,
    );
  });

  test('logprobs of every token, whole and streamed', async () => {
    const body = (more: object) => chatBody(asked, { logprobs: true, top_logprobs: 3, ...more });
    const { message, logprobs } = ((await (await post(served.url, body({}))).json()) as ChatResponse).choices[0]!;
    // Ten words and the end, which is no text.
    expect(logprobs!.content).toHaveLength(10);
    expect(logprobs!.content.map(({ token }) => token).join('')).toBe(message.content);
    expect(Buffer.from(logprobs!.content.flatMap(({ bytes }) => bytes!)).toString()).toBe(message.content);
    for (const { token, logprob, top_logprobs } of logprobs!.content)
      if (top_logprobs[0]!.logprob === logprob) expect(top_logprobs.map((each) => each.token)).toContain(token);
    for (const { token, logprob, bytes, top_logprobs } of logprobs!.content) {
      expect(message.content).toContain(token);
      expect(Buffer.from(bytes!).toString()).toBe(token);
      expect(logprob).toBeLessThanOrEqual(0);
      expect(top_logprobs.map(({ logprob }) => logprob)[0]).toBe(logprob);
      expect(top_logprobs).toHaveLength(3);
      expect(top_logprobs.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0)).toBeLessThanOrEqual(1.0001);
    }
    const chunks = (await readStream(await post(served.url, body({ stream: true })))).slice(
      0,
      -1,
    ) as never as ChatChunk[];
    const streamed = chunks.flatMap(({ choices }) => choices[0]?.logprobs?.content ?? []);
    expect(streamed.map(({ token }) => token)).toEqual(logprobs!.content.map(({ token }) => token));
  });

  test('patches that are forced are picked, those that are forbidden are not', async () => {
    const picks = async (ivtlr: object) =>
      (
        (await (await post(served.url, chatBody(asked, { ivtlr }))).json()) as ChatResponse
      ).choices[0]!.ivtlr!.steps!.map(({ picked }) => picked[0]!);
    const free = await picks({});
    const other = [0, 1, 2, 3].find((index) => !free.includes(index))!;
    expect((await picks({ force: [[other]] }))[0]).toBe(other);
    expect((await picks({ force: [[], [other]] })).slice(0, 2)).toEqual([free[0], other]);
    expect((await picks({ forbid: [[free[0]!]] }))[0]).not.toBe(free[0]);
    for (const [ivtlr, param] of [
      [{ force: [[99]] }, 'ivtlr.force'],
      [{ forbid: [[99]] }, 'ivtlr.forbid'],
      [{ force: [[1, 2]] }, 'ivtlr.force'],
      [{ force: [[1]], forbid: [[1]] }, 'ivtlr.force'],
    ] as const) {
      const response = await post(served.url, chatBody(asked, { ivtlr }));
      expect([response.status, (await errorOf(response)).param]).toEqual([400, param]);
    }
  });

  test('another picture lends its latent steps, in a crowd too', async () => {
    const puzzles = await Promise.all(Array.from({ length: 8 }, (_, seed) => puzzle(40 + seed)));
    const ask = async (index: number, ivtlr: object) => {
      const response = await post(served.url, chatBody(puzzles[index]!, { ivtlr }));
      const [choice] = ((await response.json()) as ChatResponse).choices;
      return { text: choice!.message.content, picks: choice!.ivtlr!.steps!.map(({ picked }) => picked) };
    };
    const swapped = (index: number, other: number, ablation: string) =>
      ask(index, { ablation, other_image: { url: puzzles[other]!.image } });
    const all = puzzles.map((_, i) => i);
    const plain = await Promise.all(all.map((i) => ask(i, {})));
    // Its own picture lends what it would have taken anyway.
    expect(await Promise.all(all.map((i) => swapped(i, i, 'patches-swapped')))).toEqual(plain);
    const lent = await Promise.all(all.map((i) => swapped(i, (i + 1) % 8, 'patches-swapped')));
    const last = await Promise.all(all.map((i) => swapped(i, (i + 1) % 8, 'last-text-swapped')));
    // Only what is written changes: the last step has picked before its text is swapped.
    expect(last.map(({ picks }) => picks)).toEqual(plain.map(({ picks }) => picks));
    expect(last).not.toEqual(plain);
    expect(lent.map(({ picks }) => picks[0])).toEqual(plain.map(({ picks }) => picks[0]));
    expect(lent).not.toEqual(plain);
    // As in a batch of evaluation.
    const opened = openModelFolder(fileURLToPath(new URL('../../models/dominoes', import.meta.url)));
    const question = (index: number, picture: number) => {
      const { question, choices } = puzzles[index]!;
      const bytes = Buffer.from(puzzles[picture]!.image.split(',')[1]!, 'base64');
      return { images: [{ kind: 'encoded' as const, bytes, name: 'picture' }], question, choices };
    };
    for (const i of [0, 1, 2]) {
      const group = [question(i, i), question(i, i + 1)];
      const options = { rows: 2, latent: { latentVision: 'swap' as const }, maxNewTokens: 64 };
      for await (const event of askEngine(opened, [group], options))
        if (event.type === 'end' && event.question === group[0]) expect(event.answer.text).toBe(lent[i]!.text);
    }
    opened.model.module.dispose();
  });

  test("OpenAI's own client asks, streams, lists models and understands errors", async () => {
    const client = new OpenAI({ apiKey: 'none', baseURL: `${served.url}/v1`, maxRetries: 0 });
    const { model, messages } = chatBody(asked) as never as OpenAI.ChatCompletionCreateParamsNonStreaming;
    const answer = await client.chat.completions.create({ model, messages, ...{ ivtlr: { choices: asked.choices } } });
    expect(answer.choices[0]!.message.content).toMatch(/the answer is/);
    let text = '';
    const stream = await client.chat.completions.create({
      model,
      messages,
      ...{ ivtlr: { choices: asked.choices } },
      stream: true,
    });
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
    expect(text).toBe(answer.choices[0]!.message.content);
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual(['dominoes']);
    await expect(client.chat.completions.create({ model: 'gpt-4', messages })).rejects.toMatchObject({
      status: 404,
      code: 'model_not_found',
    });
  });
});
