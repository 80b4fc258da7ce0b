import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { UserError } from '../errors.ts';
import { closestName } from './introspect.ts';
import { checkRecipe, loadRecipe, parseRecipe } from './load.ts';

const recipe = `task: dominoes
model:
  config: { model_type: qwen2_vl }
  initSeed: 3
latent:
  maxLatentStage: 3
  epochsPerStage: [2, 1, 1, 1]
optimizer:
  lr: 1e-3
globalBatch: 32
microBatch: 16
numEpochs: 5
data:
  source: fresh
  samplesPerEpoch: 960
out: runs/x
`;

function failure(text: string, overrides: string[] = []): string {
  try {
    parseRecipe(text, 'r.yaml', overrides);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).message;
  }
  throw new Error('expected a UserError');
}

describe('recipes', () => {
  it('fills in the official defaults', () => {
    const r = parseRecipe(recipe, 'r.yaml');
    expect(r.optimizer).toEqual({ lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01, clip: null });
    expect(r.latent.patches).toBeNull();
    expect(r.latent.latentGradient).toBe('detached');
    expect(r.latent.pickSupervision).toBe(0);
    expect(r.mode).toBe('ivt-lr');
    expect(r.parallel).toEqual({ zero: 2, timeout: 600 });
    expect(r.model.initSeed).toBe(3);
  });

  it('aliases that lead nowhere or multiply, a second document, and a hundred mistakes are one short message', () => {
    expect(failure(`${recipe}x: *a\n`)).toMatch(/^r\.yaml: Unresolved alias/);
    // A key of the official code's, which is translated first.
    expect(failure('save_path: &a [*a, *a]\n')).toMatch(
      /save_path: holds an alias that leads out of it or into itself/,
    );
    expect(failure('save_path: *a\n')).toMatch(/^r\.yaml: Unresolved alias/);
    const bomb = Array.from({ length: 12 }, (_, i) => `a${i}: &a${i} [${new Array(10).fill(i ? `*a${i - 1}` : '1')}]`);
    expect(failure(`${recipe}${bomb.join('\n')}\n`)).toMatch(/^r\.yaml: Excessive alias count/);
    // An official recipe whose data is emptied by hand: nothing can be put into it.
    for (const data of ['data=null', 'data=[1]'])
      expect(failure('project: x\nmodel_id: y\n', [data])).toMatch(/task: missing/);
    expect(failure(`${recipe}---\nb: 1\n`)).toBe('r.yaml:17:1: a second YAML document begins here; a recipe is one');
    const many = failure(recipe + Array.from({ length: 100 }, (_, i) => `key${i}: 1\n`).join(''));
    expect(many.split('\n')).toHaveLength(6);
    expect(many).toMatch(/\nand 95 more$/);
  });

  it('reads overrides with the type of the setting', () => {
    const r = parseRecipe(recipe, 'r.yaml', [
      'optimizer.lr=2e-4',
      'optimizer.betas=[0.9, 0.99]',
      'out=123',
      'checkpoint.stageModels=true',
      'model=runs/a/models/stage-0',
      'latent.epochsPerStage.0=7',
      'pretrain=[]',
    ]);
    expect(r.optimizer.lr).toBe(2e-4);
    expect(r.optimizer.betas).toEqual([0.9, 0.99]);
    expect(r.out).toBe('123');
    expect(r.checkpoint.stageModels).toBe(true);
    expect(r.model).toEqual({ folder: 'runs/a/models/stage-0' });
    expect(r.latent.epochsPerStage).toEqual([7, 1, 1, 1]);
  });

  it('places an unknown key and suggests the right one', () => {
    expect(failure(recipe.replace('  lr:', '  lrr: 1\n  lr:'))).toBe(
      'r.yaml:9:3: optimizer: unknown setting "lrr"; did you mean "lr"?',
    );
    expect(failure(recipe, ['optimiser.lr=1'])).toContain('did you mean "optimizer"?');
    expect(failure(`${recipe}zebra: 1\n`)).toMatch(/^r\.yaml:17:1: unknown setting "zebra"; known are task, /);
  });

  it('places a wrong value, or names the override that gave it', () => {
    expect(failure(recipe.replace('lr: 1e-3', 'lr: fast'))).toMatch(/^r\.yaml:9:7: optimizer\.lr: .*expected number/);
    expect(failure(recipe, ['optimizer.lr=fast'])).toMatch(/^--set optimizer\.lr=fast: optimizer\.lr: /);
    expect(failure(recipe.replace('task: dominoes\n', ''))).toContain('task: missing; expected string');
    expect(failure(recipe, ['parallel.zero=4'])).toBe('--set parallel.zero=4: parallel.zero: must be 0, 1, 2 or 3');
    expect(failure(recipe, ['parallel.timeout=0'])).toMatch(/^--set parallel\.timeout=0: parallel\.timeout: /);
  });

  it('reports broken YAML with line and column', () => {
    expect(failure(recipe.replace('lr: 1e-3', 'lr: [1'))).toMatch(/^r\.yaml:\d+:\d+: /);
    expect(failure('- 1\n')).toContain('r.yaml:1:1');
    expect(failure(`${recipe}task: again\n`)).toMatch(/r\.yaml:17:1: .*unique/);
  });

  it('says how many processes would have nothing to do', () => {
    const notes: string[] = [];
    const load = (processes: number) => parseRecipe(recipe, 'r.yaml', [], (line) => notes.push(line), { processes });
    load(2);
    expect(notes).toEqual([]);
    load(5);
    expect(notes).toEqual([
      'r.yaml: a step has 2 micro-batches (globalBatch 32, microBatch 16), so 3 of 5 processes compute nothing; a smaller microBatch gives each one',
    ]);
  });

  it('refuses settings that contradict each other', () => {
    expect(failure(recipe, ['microBatch=5'])).toContain('must divide globalBatch');
    expect(failure(recipe, ['model.folder=x'])).toContain('exactly one of folder');
    expect(failure(recipe, ['data.source=folder'])).toContain('needs folder');
    expect(failure(recipe, ['mode=cot', 'latent.pickSupervision=0.2'])).toContain('no latent steps');
    expect(failure(recipe, ['lr'])).toContain('write path=value');
    expect(failure(recipe, ['task.x=1'])).toContain('unknown setting "x"');
  });
});

describe('recipes as objects', () => {
  it('a recipe that was read is itself', () => {
    const recipe = loadRecipe('dominoes');
    expect(checkRecipe(recipe)).toEqual(recipe);
  });

  it.each([
    [{ ...loadRecipe('dominoes'), numEpoch: 3 }, /unknown setting "numEpoch"; did you mean "numEpochs"\?/],
    [{ ...loadRecipe('dominoes'), numEpochs: -1 }, /numEpochs/],
    [undefined, /a recipe is a map of settings/],
    [[], /a recipe is a map of settings/],
  ])('says what is wrong', (settings, message) => {
    expect(() => checkRecipe(settings)).toThrow(UserError);
    expect(() => checkRecipe(settings)).toThrow(message);
  });
});

describe('closestName', () => {
  it('finds near names only', () => {
    expect(closestName('microbatch', ['microBatch', 'globalBatch'])).toBe('microBatch');
    expect(closestName('zzzzzz', ['microBatch'])).toBeUndefined();
  });
});

describe('bundled recipes', () => {
  const folder = fileURLToPath(new URL('../../recipes/', import.meta.url));
  const names = readdirSync(folder).map((name) => name.replace(/\.yaml$/, ''));

  it.each(names)('%s is complete', (name) => {
    expect(`-${name}-`).toContain(`-${loadRecipe(name).task}-`);
  });

  it.each(names.filter((name) => /^(qwen|chameleon)/.test(name)))('%s has the numbers of the official code', (name) => {
    const recipe = loadRecipe(name);
    const [, qwen, size = ''] = /^qwen([\d.]+)-vl-(\d+b)/.exec(name) ?? [];
    // The official code knows Qwen2-VL and Chameleon.
    const consistent = name.endsWith('consistent') || (qwen !== undefined && qwen !== '2');
    expect(recipe).toMatchObject({
      profile: consistent ? 'consistent' : 'official',
      mode: 'ivt-lr',
      model: { folder: qwen ? `Qwen/Qwen${qwen}-VL-${size.toUpperCase()}-Instruct` : 'facebook/chameleon-7b' },
      seed: 0,
      dtype: 'bfloat16',
      latent: {
        patches: qwen ? 32 : 64,
        maxLatentStage: 5,
        epochsPerStage: 4,
        padLatentToMax: true,
        latentGradient: 'detached',
      },
      lora: { rank: 64, alpha: 16, dropout: 0.05 },
      activationCheckpointing: true,
      optimizer: { lr: 4e-5, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01, clip: 0.7 },
      schedule: { warmupSteps: 0, decayTo: 1 },
      resetOptimizerAtStage: false,
      globalBatch: 64,
      microBatch: 2,
      numEpochs: 16,
      parallel: { zero: 2, timeout: 600 },
    });
    expect(recipe.lora!.targets).toHaveLength(7);
    // Chameleon has no positions of its own for image tokens.
    expect(recipe.latent.positions).toBe(qwen && consistent ? 'mrope' : 'sequential');
  });

  it('of relay differ from it in what they are named after', () => {
    const { out, ...relay } = loadRecipe('relay');
    expect(relay).toMatchObject({ task: 'relay', maxSteps: 3 });
    expect(relay.latent).toMatchObject({ latentMemory: 'last', hideImageFromAnswer: true, pickSupervision: 0.2 });
    const variants = {
      'all-steps': { latent: { latentMemory: 'all', hideImageFromLatents: true } },
      unsupervised: { latent: { pickSupervision: 0, carrySupervision: 0 } },
      detached: { latent: { latentGradient: 'detached' } },
      coconut: { mode: 'coconut', latent: { pickSupervision: 0, latentMemory: 'all', hideImageFromAnswer: false } },
      cot: { mode: 'cot', latent: { pickSupervision: 0, carrySupervision: 0 } },
      'no-cot': { mode: 'no-cot', latent: { pickSupervision: 0, carrySupervision: 0 } },
    };
    for (const base of ['relay', 'relay-6']) {
      const whole = loadRecipe(base);
      for (const [name, change] of Object.entries(variants)) {
        const latent = { ...whole.latent, ...change.latent };
        expect(loadRecipe(`${base}-${name}`)).toEqual({ ...whole, ...change, latent, out: `runs/${base}-${name}` });
      }
    }
    const { latent, task, maxSteps, numEpochs, out: _, ...six } = loadRecipe('relay-6');
    expect(relay).toMatchObject(six);
    expect({ ...latent, carrySupervision: 0 }).toMatchObject({
      ...relay.latent,
      ...{ maxLatentStage: 6, epochsPerStage: latent.epochsPerStage },
    });
    expect({ task, maxSteps, stages: latent.maxLatentStage }).toEqual({ task: 'relay-6', maxSteps: 6, stages: 6 });
    expect((latent.epochsPerStage as number[]).reduce((a, b) => a + b)).toBe(numEpochs);
  });

  it('are found by name only when there is one', () => {
    expect(names).toContain('dominoes');
    expect(() => loadRecipe('domino')).toThrow(/no recipe domino/);
    expect(() => loadRecipe('../recipes/dominoes')).toThrow(/no recipe/);
  });
});

it('--set takes null for a text that may be null, and as text elsewhere', () => {
  expect(parseRecipe(recipe, 'r.yaml', ['imageSize=native', 'imageSize=null', 'out=null'])).toMatchObject({
    ...{ imageSize: null, out: 'null' },
  });
});

describe('recipes that extend another one', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ivtlr-extends-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const file = (name: string, text: string) => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  file('base.yaml', recipe);

  it('change it key by key, lists as a whole, and can be extended and set in turn', () => {
    const path = file(
      'one.yaml',
      'extends: base.yaml\nlatent: { epochsPerStage: [1, 2] , latentMemory: last }\nout: runs/1e3\nlora: null\n',
    );
    const base = loadRecipe(join(folder, 'base.yaml'));
    const latent = { ...base.latent, epochsPerStage: [1, 2], latentMemory: 'last' };
    expect(loadRecipe(path)).toEqual({ ...base, latent, out: 'runs/1e3' });
    const second = file('two.yaml', 'extends: one.yaml\nseed: 4\nmodel: { initSeed: 4 }\nout: runs/two\n');
    const model = { ...base.model, initSeed: 4 };
    expect(loadRecipe(second)).toEqual({ ...base, latent, seed: 4, model, out: 'runs/two' });
    expect(loadRecipe(second, ['seed=5', 'latent.latentMemory=all'])).toMatchObject({
      seed: 5,
      latent: { latentMemory: 'all' },
      out: 'runs/two',
    });
    expect(loadRecipe(file('own.yaml', 'extends: dominoes\nout: runs/own\n')).task).toBe('dominoes');
  });

  it.each([
    ['extends: base.yaml\nseed: 4\n', /needs a folder of its own: out/],
    ['extends: 3\nout: runs/x\n', /extends should be the name of a recipe/],
    ['extends: nothing\nout: runs/x\n', /no recipe nothing/],
    ['extends: wrong.yaml\nout: runs/x\n', /extend each other in a circle/],
    [
      'extends: base.yaml\nout: runs/x\nlatent: { memory: last }\n',
      /wrong\.yaml: latent\.memory: unknown setting "memory"/,
    ],
    ['extends: base.yaml\nout: runs/x\nseed: soon\n', /wrong\.yaml: seed.*number/],
  ])('%j is refused', (text, message) => {
    expect(() => loadRecipe(file('wrong.yaml', text))).toThrow(message);
  });
});

describe('what no recipe may hold', () => {
  it.each([
    'numEpochs=1e15',
    'data.validation.samples=1e12',
    'data.validation.batch=1e9',
    'data.validation.maxNewTokens=1e8',
    'data.samplesPerEpoch=1e12',
    'data.threads=5000',
    'globalBatch=1e9',
    'lora={rank: 1000000000}',
    'threads=5000',
    'maxSteps=1e9',
    'latent.patches=1e9',
    'latent.maxLatentStage=1e9',
    'latent.epochsPerStage=1e15',
    'checkpoint.everySteps=1e15',
    'pretrain=[{name: a, steps: 1.0e+15, mix: [{task: picture, batch: 1}], lr: 1}]',
    'pretrain=[{name: a, steps: 1, mix: [{task: picture, batch: 1000000000}], lr: 1}]',
  ])('refuses a number beyond all use: %s', (override) => {
    const message = failure(recipe, [override]);
    expect(message.split('\n')).toHaveLength(1);
    expect(message).toMatch(/^--set .*(expected (number|int) to be <=|fits none of the allowed forms)/);
  });

  it.each(['../../victim', 'a/b', '.', '', 'stage-3', 'ü', 'a\u0000'])(
    'refuses a phase named %j, whose name becomes a folder',
    (name) => {
      const phase = { name, steps: 1, mix: [{ task: 'picture', batch: 1 }], lr: 1 };
      expect(failure(recipe, [`pretrain=${JSON.stringify([phase])}`])).toMatch(
        /pretrain\.0\.name: (a name has|stage-N is)/,
      );
    },
  );

  it('refuses an index far beyond the end of a list', () => {
    expect(failure(recipe, ['latent.epochsPerStage.900000000=1'])).toBe(
      '--set latent.epochsPerStage.900000000=1: latent.epochsPerStage has 4 entries, so the next index is 4',
    );
    expect(failure(recipe, ['pretrain.3.name=a'])).toContain('pretrain has 0 entries, so the next index is 0');
    expect(parseRecipe(recipe, 'r.yaml', ['latent.epochsPerStage.4=2']).latent.epochsPerStage).toHaveLength(5);
  });

  it('refuses two phases of one name, and a run without a folder', () => {
    const phase = { name: 'a', steps: 1, mix: [{ task: 'picture', batch: 1 }], lr: 1 };
    expect(failure(recipe, [`pretrain=${JSON.stringify([phase, phase])}`])).toContain('two phases have the same name');
    expect(failure(recipe.replace('runs/x', '""'))).toMatch(/^r\.yaml:16:6: out: /);
  });

  it('says in one sentence that a recipe is a folder, too long, too deep or an alias bomb', () => {
    expect(() => loadRecipe(tmpdir())).toThrow(`recipe should be a file, but ${tmpdir()} is a folder`);
    expect(failure(`${recipe}# ${'x'.repeat(1_000_000)}`)).toMatch(
      /^r\.yaml has \d+ characters; a recipe has at most 1000000$/,
    );
    const bomb = Array.from({ length: 12 }, (_, i) => `b${i}: &b${i} [${i === 0 ? 'x' : `*b${i - 1}, `.repeat(10)}]`);
    expect(failure(`${bomb.join('\n')}\n${recipe}`)).toMatch(/^r\.yaml: Excessive alias count/);
    expect(failure(`task: ${'['.repeat(100_000)}`)).toMatch(/^r\.yaml/);
    expect(failure(recipe, [`pretrain=${'['.repeat(100_000)}`])).toMatch(/^--set pretrain=/);
  });
});
