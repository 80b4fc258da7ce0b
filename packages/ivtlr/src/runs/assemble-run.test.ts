import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount, scope } from '@ivtlr/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadRecipe } from '../config/load.ts';
import { openModelFolder, readReasoningSettings } from '../engine/loaded-model.ts';
import { writeFiles } from '../file-contents.ts';
import { dominoesSample } from '../tasks/dominoes/generator.ts';
import { encodePng } from '../tasks/make-file.ts';
import { disposeBatches } from '../train/batches.ts';
import { positionOf } from '../train/schedule.ts';
import { assembleRun } from './assemble-run.ts';

let out: string;
let baseline: number;
beforeAll(() => {
  baseline = liveTensorCount();
  out = mkdtempSync(join(tmpdir(), 'ivtlr-assemble-'));
});
afterAll(() => {
  rmSync(out, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

const recipe = (...set: string[]) => loadRecipe('dominoes', [`out=${out}`, 'threads=1', ...set]);
const quiet = { step() {}, note() {} };
const context = { device: 'cpu', resume: null, reporter: quiet, hub: {}, stopRequested: () => null };
const build = (...set: string[]) => assembleRun(recipe(...set), context);
describe('assembleRun', () => {
  it('makes the model the recipe describes and a loss that reaches every parameter', async () => {
    using run = await build();
    expect(run.plan.phases.map(({ name, steps }) => [name, steps])).toEqual([
      ['pretrain', 700],
      ['stage-0', 240],
      ['stage-1', 120],
      ['stage-2', 180],
      ['stage-3', 360],
    ]);
    const micros = await run.batches(positionOf(run.plan, run.plan.totalSteps - 1));
    const without = scope(() => {
      run.trainee.loss(micros[0]!).loss.backward();
      return [...run.trainee.parameters].filter(([, { grad }]) => grad === null).map(([name]) => name);
    });
    expect(without).toEqual([]);
    for (const parameter of run.trainee.parameters.values()) parameter.grad = null;
    disposeBatches(micros);
  });

  it('stays at stage 0 without latent steps', async () => {
    using cot = await build('mode=cot', 'latent.pickSupervision=0');
    expect(cot.plan.phases.map(({ name }) => name)).toEqual(['pretrain', 'stage-0']);
    using bare = await assembleRun({ ...loadRecipe('dominoes-no-cot'), out }, context);
    expect(bare.plan.phases.at(-1)!.name).toBe('stage-0');
  });

  it('saves a folder that knows how many latent steps its stage has', async () => {
    using run = await build('latent.latentVision=zero');
    const [pretrain, , stage1] = run.plan.phases;
    writeFiles(out, run.trainee.files(stage1!));
    const opened = openModelFolder(out);
    expect(opened.settings).toMatchObject({
      task: 'dominoes',
      latents: 1,
      patches: 1,
      hideImageFromLatents: true,
      latentVision: 'zero',
      resize: 'pillow-13',
    });
    expect(opened.renderOptions('dominoes').profile.name).toBe('consistent');
    opened.model.module.dispose();
    writeFiles(out, run.trainee.files(pretrain!));
    const bare = openModelFolder(out);
    expect(bare.settings.latents).toBe(0);
    bare.model.module.dispose();
  });

  it('resizes as the recipe says, and the saved model as it was trained', async () => {
    for (const [setting, rule] of [
      ['profile=official', 'pillow-11'],
      ['resize=pillow-11', 'pillow-11'],
    ] as const) {
      using run = await build(setting);
      writeFiles(out, run.trainee.files(run.plan.phases.at(-1)!));
      for (const settings of [{}, { profile: 'consistent' }] as const) {
        const opened = openModelFolder(out, { settings });
        expect(opened.inputs.resize).toBe(rule);
        opened.model.module.dispose();
      }
    }
  });

  it('leaves patches out in Coconut mode', async () => {
    using run = await build('mode=coconut', 'latent.pickSupervision=0');
    writeFiles(out, run.trainee.files(run.plan.phases.at(-1)!));
    const opened = openModelFolder(out);
    expect(opened.settings).toMatchObject({ latents: 3, latentVision: 'off' });
    opened.model.module.dispose();
  });

  it('leaves bad rows out of validation too, saying so once, or stops at them', async () => {
    const folder = join(out, 'data');
    mkdirSync(folder);
    const {
      images: [image],
      id,
      question,
      choices,
      rationale,
      answer,
    } = dominoesSample(1, 'train', 0);
    writeFileSync(join(folder, 'p.png'), await encodePng(image!));
    const good = { id, question, choices, rationale, answer, domain: '', topic: '', image: 'p.png' };
    const lines = (...rows: object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join('');
    writeFileSync(join(folder, 'train.jsonl'), lines(good, good, good));
    writeFileSync(join(folder, 'validation.jsonl'), lines(good, { ...good, image: 'none.png' }, good, good));
    const set = ['data.source=folder', `data.folder=${folder}`, 'data.samplesPerEpoch=3', 'data.validation.samples=10'];
    const notes: string[] = [];
    const open = (onBadRow: string) =>
      assembleRun(
        recipe(...set, 'data.threads=0', 'pretrain=[]', 'data.validation.maxNewTokens=2', `data.onBadRow=${onBadRow}`),
        { ...context, reporter: { step() {}, note: (text) => notes.push(text) } },
      );
    using skipping = await open('skip');
    const position = positionOf(skipping.plan, 0);
    expect((await skipping.validation.measure(position)).samples).toBe(3);
    expect((await skipping.validation.measure(position)).samples).toBe(3);
    expect(notes.filter((note) => note.includes('left out 1 row: '))).toHaveLength(1);
    using strict = await open('error');
    await expect(strict.validation.measure(position)).rejects.toThrow(/validation\.jsonl line 2.*there is no image/);
  });

  it('leaves out rows that the model cannot take, or stops at them', async () => {
    const folder = join(out, 'hard');
    mkdirSync(folder);
    const { images, id, question, choices, rationale, answer } = dominoesSample(1, 'train', 0);
    writeFileSync(join(folder, 'p.png'), await encodePng(images[0]!));
    const narrow = { kind: 'rgb', width: 900, height: 3, data: new Uint8Array(8100) } as const;
    writeFileSync(join(folder, 'narrow.png'), await encodePng(narrow));
    const good = { id, question, choices, rationale, answer, domain: '', topic: '', image: 'p.png' };
    const rows = [
      { ...good, image: 'narrow.png' },
      { ...good, rationale: `${rationale} <|image_pad|>` },
      { ...good, question: `${question} `.repeat(60) },
      good,
    ];
    for (const split of ['train', 'validation'])
      writeFileSync(join(folder, `${split}.jsonl`), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
    const notes: string[] = [];
    const open = (onBadRow: string) =>
      assembleRun(
        recipe(
          ...['data.source=folder', `data.folder=${folder}`, 'data.samplesPerEpoch=null', 'data.threads=0'],
          ...['pretrain=[]', 'model.config.max_position_embeddings=200', `data.onBadRow=${onBadRow}`],
        ),
        { ...context, reporter: { step() {}, note: (text) => notes.push(text) } },
      );
    using skipping = await open('skip');
    for (const step of [0, skipping.plan.totalSteps - 1]) {
      const micros = await skipping.batches(positionOf(skipping.plan, step));
      expect(micros.map(({ ids }) => ids)).toEqual([[id]]);
      disposeBatches(micros);
    }
    expect(notes).toHaveLength(3);
    expect(notes[0]).toMatch(/train\.jsonl line 1: left out 1 row: .*narrow\.png .*an image of 900x3 is too narrow/);
    expect(notes[1]).toMatch(/line 2: left out 1 row: .*the rationale spells <\|image_pad\|>/);
    expect(notes[2]).toMatch(/line 3: left out 1 row: .*takes \d+ positions .* but the model has 200 /);
    // The rationale is not part of a question.
    expect((await skipping.validation.measure(positionOf(skipping.plan, 0))).samples).toBe(2);
    expect(notes.slice(3)).toHaveLength(2);
    expect(notes[4]).toMatch(/validation\.jsonl line 3: left out 1 row: .*the prompt takes \d+ positions/);
    using strict = await open('error');
    await expect(strict.batches(positionOf(strict.plan, 0))).rejects.toThrow(/narrow|spells|positions/);
  });

  it('reads a task and columns of the user, and stores the name of the task with the model', async () => {
    const folder = join(out, 'own');
    mkdirSync(folder);
    const {
      images: [image],
      question,
      choices,
      rationale,
      answer,
    } = dominoesSample(1, 'train', 0);
    writeFileSync(join(folder, 'p.png'), await encodePng(image!));
    const row = { prompt: question, choices, answer, why: rationale, image: 'p.png' };
    for (const split of ['train', 'validation']) writeFileSync(join(folder, `${split}.jsonl`), JSON.stringify(row));
    const task = join(folder, 'task.mjs');
    writeFileSync(
      task,
      `export default {
        name: 'mine', columns: ['image', 'question', 'choices', 'answer'], trainingColumns: ['rationale'],
        rowToSample: ({ rationale, ...row }, place, index) => ({ id: 'mine-' + index, meta: {}, rationale: rationale ?? '', ...row }),
      };`,
    );
    const trained = join(import.meta.dirname, '../../models/dominoes');
    const set = [
      `task=${task}`,
      `model=${trained}`,
      'data.source=folder',
      `data.folder=${folder}`,
      'data.samplesPerEpoch=1',
      'pretrain=[]',
    ];
    set.push('data.threads=0', 'data.validation.samples=1', 'data.validation.maxNewTokens=2');
    await expect(build(...set)).rejects.toThrow(/train\.jsonl line 1 has no column question, rationale;/);
    set.push('data.columns={question: prompt, rationale: why}');
    const notes: string[] = [];
    const reporter = { step() {}, note: (text: string) => notes.push(text) };
    using run = await assembleRun(recipe(...set, 'latent.pickSupervision=2'), { ...context, reporter });
    expect(notes).toEqual([
      'latent.pickSupervision is 2, but samples of task mine have no pickTargets, so nothing is taught by it',
    ]);
    expect((await run.validation.measure(positionOf(run.plan, 0))).samples).toBe(1);
    const saved = join(folder, 'saved');
    writeFiles(saved, run.trainee.files(run.plan.phases.at(-1)!));
    expect(readReasoningSettings(saved, { patches: 1, positions: 'mrope', official: true }).task).toBe('mine');
  });

  it('refuses a sample that is longer than the positions of the model', async () => {
    using run = await build('model.config.max_position_embeddings=40', 'pretrain=[]');
    await expect(run.batches(positionOf(run.plan, 0))).rejects.toThrow(
      /^sample dominoes-train-\S+ takes \d+ positions with its images and latent steps, but the model has 40 /,
    );
  });

  it('says what a recipe asks for in vain', async () => {
    await expect(build('pretrain.0.mix.0.task=images')).rejects.toThrow(
      'pretrain.0.mix.0.task: task dominoes has no pretraining text "images"; it has picture, options',
    );
    await expect(build('task=dominos')).rejects.toThrow('there is no task dominos');
    await expect(build('task=m3cot', 'pretrain=[]')).rejects.toThrow('task m3cot has no generator');
    await expect(build('model=nowhere')).rejects.toThrow('there is no model folder nowhere');
    await expect(build('numEpochs=0', 'pretrain=[]')).rejects.toThrow('the recipe has no steps');
    const fromFolder = ['pretrain=[]', 'data.source=folder', `data.folder=${join(out, 'train-only')}`];
    mkdirSync(join(out, 'train-only'));
    writeFileSync(join(out, 'train-only', 'train.jsonl'), '{}');
    await expect(build(...fromFolder, 'data.validation.samples=6')).rejects.toThrow(
      /no file of split validation in .*train-only; .*add it, or set data\.validation\.samples to 0$/,
    );
  });
});
