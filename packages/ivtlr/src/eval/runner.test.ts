import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount } from '@ivtlr/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type LoadedModel, withModel } from '../engine/loaded-model.ts';
import { ABLATIONS } from '../latent/options.ts';
import { createModel } from '../models/registry.ts';
import { dominoes } from '../tasks/dominoes/dominoes.ts';
import { makeDominoes } from '../tasks/dominoes/make.ts';
import { writeDominoesTokenizer } from '../tasks/dominoes/vocabulary.ts';
import { m3cot } from '../tasks/m3cot/m3cot.ts';
import { streamSamples } from '../tasks/read-samples.ts';
import { Tokenizer } from '../text/tokenizer.ts';
import { planRuns } from './modes.ts';
import { type AnsweredSample, evaluate, generatedSamples } from './runner.ts';

let folder: string;
let opened: LoadedModel;
let baseline: number;
beforeAll(() => {
  baseline = liveTensorCount();
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-eval-'));
  const size = writeDominoesTokenizer(folder);
  const limits = { min_pixels: 784, max_pixels: 50176 };
  writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(limits));
  writeFileSync(join(folder, 'ivtlr.json'), JSON.stringify({ profile: 'consistent', latents: 2, patches: 3 }));
  const config = {
    model_type: 'qwen2_vl',
    hidden_size: 32,
    intermediate_size: 32,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    vocab_size: size,
    image_token_id: Tokenizer.fromFolder(folder).tokenToId('<|image_pad|>')!,
    rope_scaling: { type: 'mrope', mrope_section: [2, 3, 3] },
    tie_word_embeddings: true,
    vision_config: { depth: 1, embed_dim: 16, num_heads: 1, mlp_ratio: 2 },
  };
  opened = withModel(folder, config, createModel(config, 4));
});
afterAll(() => {
  opened.model.module.dispose();
  rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

const samples = (count: number) => generatedSamples(dominoes, 3, 'test', count);

async function answers(batch: number, more: { ablation?: string; seed?: number } = {}) {
  const seen: AnsweredSample[] = [];
  const result = await evaluate(opened, dominoes, samples(5), {
    name: 'x',
    batch,
    maxNewTokens: 6,
    ablation: ABLATIONS[more.ablation ?? 'full']!,
    seed: more.seed ?? 0,
    trace: true,
    onAnswer: (answer) => seen.push(answer),
  });
  return { seen, result };
}

describe('evaluate', () => {
  it('answers every sample in order, alike alone and in batches', async () => {
    const single = await answers(1);
    const batched = await answers(3);
    expect(single.seen.map(({ sample }) => sample.id)).toEqual([...samples(5)].map(({ id }) => id));
    expect(batched.seen.map(({ answered }) => answered)).toEqual(single.seen.map(({ answered }) => answered));
    expect(batched.seen.map(({ trace }) => trace.map(({ picked }) => picked))).toEqual(
      single.seen.map(({ trace }) => trace.map(({ picked }) => picked)),
    );
    expect(single.seen[0]!.answered.prompt).toContain('Start at');
    expect(single.result).toMatchObject({ samples: 5, latentSteps: 2 });
    expect(single.result.autoregressiveSteps).toBe(2 + single.result.generatedTokens);
    expect(single.result.secondsPerSample).toBeGreaterThan(0);
  });

  it('counts picks that hit the cell a step looks at', async () => {
    const { seen, result } = await answers(5);
    const hits = seen.flatMap(({ sample, trace }) =>
      trace.map(({ picked }, step) => picked.includes(sample.pickTargets![step]![0]!)),
    );
    expect(hits).toHaveLength(10);
    expect(result.pickAccuracy).toBeCloseTo(hits.filter(Boolean).length / 10);
  });

  it('takes parts of the latent steps away', async () => {
    const full = await answers(5);
    const zero = await answers(5, { ablation: 'zero-latents' });
    expect(zero.result).toMatchObject({ latentSteps: 0 });
    expect(zero.result.pickAccuracy).toBeUndefined();
    const random = await answers(5, { ablation: 'random-patches', seed: 1 });
    const again = await answers(5, { ablation: 'random-patches', seed: 1 });
    const picks = ({ seen }: typeof full) => seen.map(({ trace }) => trace.map(({ picked }) => picked));
    expect(picks(random)).toEqual(picks(again));
    expect(picks(random)).not.toEqual(picks(full));
  });

  it('goes on from earlier answers to the same result', async () => {
    const run = (restored: AnsweredSample[], stopAt: number) => {
      const seen: AnsweredSample[] = [];
      const done = evaluate(opened, dominoes, samples(5), {
        name: 'x',
        batch: 2,
        maxNewTokens: 4,
        seed: 1,
        trace: true,
        ablation: ABLATIONS['random-patches']!,
        restore: (_, index) => restored.find((answer) => answer.index === index),
        onAnswer: (answer) => seen.push(answer),
        onProgress: (count) => count < stopAt,
      });
      return done.then((result) => ({ result, seen }));
    };
    const whole = await run([], 9);
    const part = await run([], 4);
    expect(part.result.samples).toBe(4);
    const rest = await run(part.seen, 9);
    expect(rest.seen.map(({ restored }) => restored)).toEqual([true, true, true, true, false]);
    expect(rest.seen.map(({ answered, index }) => [index, answered])).toEqual(
      whole.seen.map(({ answered, index }) => [index, answered]),
    );
    expect(rest.seen[4]!.trace[0]!.picked).toEqual(whole.seen[4]!.trace[0]!.picked);
    const { secondsPerSample: _a, ...counted } = rest.result;
    const { secondsPerSample: _b, ...expected } = whole.result;
    expect(counted).toEqual(expected);
  });

  it('never swaps a sample with itself', async () => {
    const looked = async (count: number, batch: number, name: string) => {
      const seen: AnsweredSample[] = [];
      const result = await evaluate(opened, dominoes, samples(count), {
        ...{ name, batch, maxNewTokens: 2, trace: true, ablation: ABLATIONS[name]! },
        onAnswer: (answer) => seen.push(answer),
      });
      expect(result.samples).toBe(count);
      return seen.sort((a, b) => a.index - b.index).map(({ trace }) => trace[1]!.scores);
    };
    const full = await looked(5, 2, 'full');
    // A last sample alone joins the group before it.
    for (const [count, batch] of [
      [5, 2],
      [4, 2],
      [5, 3],
    ] as const)
      (await looked(count, batch, 'patches-swapped')).forEach((scores, index) => {
        expect(scores).not.toEqual(full[index]);
      });
    await expect(looked(4, 1, 'patches-swapped')).rejects.toThrow('batch of at least 2');
    await expect(looked(1, 2, 'patches-swapped')).rejects.toThrow('only one sample');
  });

  it('says which sample cannot be asked', async () => {
    const samples = [...generatedSamples(dominoes, 1, 'test', 2)];
    samples[1] = { ...samples[1]!, id: 'r5', question: 'red '.repeat(40_000) };
    await expect(evaluate(opened, dominoes, samples, { name: 'x', batch: 2, maxNewTokens: 2 })).rejects.toThrow(
      /^sample r5: the prompt takes 40\d{3} positions /,
    );
  });

  it('begins an answer for the model, as part of the text and not of the steps', async () => {
    const [run] = planRuns('no-cot', ['full']);
    const seen: AnsweredSample[] = [];
    const { name, ablation, answerStart } = run!;
    const more = { batch: 2, maxNewTokens: 3, onAnswer: (answer: AnsweredSample) => seen.push(answer) };
    const result = await evaluate(opened, dominoes, samples(2), { name, ablation, answerStart: answerStart!, ...more });
    expect(result).toMatchObject({ latentSteps: 0, name: 'no chain of thought' });
    expect(result.autoregressiveSteps).toBeLessThanOrEqual(3);
    for (const { answered } of seen) {
      expect(answered.generated).toMatch(/^Therefore, the answer is( |$)/);
      expect(answered.generated).not.toContain('\n');
      expect(answered.prompt).not.toContain('Therefore');
    }
  });

  it('traces written tokens like latent steps', async () => {
    const traced = async (latentSteps: number, traceText: boolean) => {
      const seen: AnsweredSample[] = [];
      const more = {
        batch: 3,
        maxNewTokens: 4,
        latentSteps,
        trace: true,
        traceText,
        onAnswer: (a: AnsweredSample) => seen.push(a),
      };
      await evaluate(opened, dominoes, samples(3), { name: 'x', ...more });
      return seen;
    };
    const written = await traced(0, true);
    const latent = await traced(1, true);
    const plain = await traced(1, false);
    expect(latent.map(({ answered }) => answered)).toEqual(plain.map(({ answered }) => answered));
    expect(plain[0]!.textTrace).toEqual([]);
    written.forEach(({ textTrace, generatedTokens }, row) => {
      expect(textTrace).toHaveLength(generatedTokens);
      // The first token and the first latent step look from the same place, the end of the prompt.
      const [step] = latent[row]!.trace;
      const [token] = textTrace;
      expect([...token!.picked].sort()).toEqual([...step!.picked].sort());
      expect(token!.attentionRatio).toBeCloseTo(step!.attentionRatio, 5);
      expect(token!.focus).toBeCloseTo(step!.focus, 5);
      // A row of attention probabilities adds up to one: later tokens' text share grows by their own columns.
      for (const { scores, attentionRatio, pickedScores } of textTrace) {
        const image = scores.reduce((a, b) => a + b, 0);
        const picked = pickedScores.reduce((a, b) => a + b, 0);
        expect(picked / attentionRatio + image).toBeCloseTo(1, 4);
      }
    });
  });

  it('stops when asked, and refuses an empty set', async () => {
    const stopped = await evaluate(opened, dominoes, samples(5), {
      name: 'x',
      batch: 2,
      maxNewTokens: 2,
      onProgress: (done) => done < 4,
    });
    expect(stopped.samples).toBe(4);
    await expect(evaluate(opened, dominoes, [], { name: 'x', batch: 2, maxNewTokens: 2 })).rejects.toThrow(
      'no samples to answer',
    );
    expect(() => [...generatedSamples(m3cot, 0, 'test', 1)]).toThrow('cannot make its own samples');
  });
});

describe('stored samples', () => {
  it('reads back what was made, pick targets included', async () => {
    const out = join(folder, 'data');
    await makeDominoes({ rows: 3, out, seed: 3, split: 'test', hops: 3, dominoes: 7 });
    const read = [];
    for await (const sample of streamSamples(out, dominoes, { split: 'test', limit: 2 })) read.push(sample);
    const drawn = [...samples(2)];
    expect(read.map(({ id, pickTargets }) => [id, pickTargets])).toEqual(
      drawn.map(({ id, pickTargets }) => [id, pickTargets]),
    );
  });
});
