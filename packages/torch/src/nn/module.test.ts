import { afterEach, describe, expect, test } from 'vitest';
import {
  keep,
  Linear,
  liveTensorBytes,
  liveTensorCount,
  Module,
  ones,
  RMSNorm,
  StateDictError,
  scope,
  type Tensor,
  type TensorSource,
  tensor,
  zeros,
} from '../index.ts';

const baseline = liveTensorCount();

afterEach(() => expect(liveTensorCount()).toBe(baseline));

class Block extends Module {
  readonly input_layernorm = new RMSNorm(2);
  readonly mlp = { hidden: 3 }; // a plain object is no part of the tree
  up_proj: Module = new Linear(2, 2, { bias: false });
}

class Model extends Module {
  readonly embed_tokens = new Linear(2, 3, { bias: false });
  readonly layers = [new Block(), new Block()];
  readonly scales = [this.parameter(ones([1])), this.parameter(zeros([1]))];
  readonly inv_freq = this.buffer('inv_freq', ones([2]), { persistent: false });
  readonly running = this.buffer('running', tensor([7], { dtype: 'int64' }));
  readonly lm_head = new Linear(2, 3, { bias: false });
  readonly #hidden = keep(ones([1]));

  constructor({ tied = false } = {}) {
    super();
    if (tied) {
      this.lm_head.weight.dispose();
      this.lm_head.weight = this.embed_tokens.weight;
    }
  }

  override dispose(): void {
    super.dispose();
    this.#hidden.dispose();
  }
}

const NAMES = [
  'embed_tokens.weight',
  'layers.0.input_layernorm.weight',
  'layers.0.up_proj.weight',
  'layers.1.input_layernorm.weight',
  'layers.1.up_proj.weight',
  'scales.0',
  'scales.1',
  'lm_head.weight',
];

describe('the tree', () => {
  test('parameters, buffers and modules are found by property path', () => {
    using model = new Model();
    expect([...model.namedParameters().keys()]).toEqual(NAMES);
    expect([...model.namedBuffers().keys()]).toEqual(['running', 'inv_freq']);
    expect([...model.stateDict().keys()]).toEqual([...NAMES.slice(0, -1), 'running', 'lm_head.weight']);
    expect([...model.namedModules().keys()]).toEqual([
      '',
      'embed_tokens',
      'layers.0',
      'layers.0.input_layernorm',
      'layers.0.up_proj',
      'layers.1',
      'layers.1.input_layernorm',
      'layers.1.up_proj',
      'lm_head',
    ]);
  });

  test('a tied parameter is one parameter with two names in the state', () => {
    using model = new Model({ tied: true });
    expect([...model.namedParameters().keys()]).toEqual(NAMES.slice(0, -1));
    expect(model.stateDict().get('lm_head.weight')).toBe(model.embed_tokens.weight);
  });

  test('replacing a module changes the tree', () => {
    using model = new Model();
    using before = model.replaceModule('layers.1.up_proj', new Linear(2, 2));
    expect(before).toBeInstanceOf(Linear);
    expect([...model.namedParameters().keys()]).toContain('layers.1.up_proj.bias');
    for (const path of ['layers.2.up_proj', 'layers.1.nothing', 'scales.0', 'layers'])
      expect(() => model.replaceModule(path, before)).toThrow(`there is no module at ${path}`);
  });

  test('train, eval and requiresGrad reach everything below', () => {
    using model = new Model();
    const modes = () => new Set([...model.namedModules().values()].map(({ training }) => training));
    expect(modes()).toEqual(new Set([true]));
    expect(model.eval()).toBe(model);
    expect(modes()).toEqual(new Set([false]));
    model.train();
    expect(modes()).toEqual(new Set([true]));
    model.setRequiresGrad(false);
    expect(model.parameters().some(({ requiresGrad }) => requiresGrad)).toBe(false);
  });

  test('parameters outlive the scope they were made in', () => {
    const model = scope(() => new Model());
    expect(model.parameters().every(({ disposed }) => !disposed)).toBe(true);
    scope(() => model.to({ dtype: 'float64' }));
    expect(model.parameters().every(({ disposed }) => !disposed)).toBe(true);
    model.dispose();
    expect(model.parameters().every(({ disposed }) => disposed)).toBe(true);
  });
});

describe('to', () => {
  test('changes floating dtypes, keeps ties and requiresGrad, frees the old tensors', () => {
    using model = new Model({ tied: true });
    model.layers[0]!.input_layernorm.weight.requiresGrad = false;
    const count = liveTensorCount();
    const old = model.parameters();
    model.to({ dtype: 'bfloat16' });
    expect(liveTensorCount()).toBe(count);
    expect(old.every(({ disposed }) => disposed)).toBe(true);
    expect(model.lm_head.weight).toBe(model.embed_tokens.weight);
    expect(new Set(model.parameters().map(({ dtype }) => dtype))).toEqual(new Set(['bfloat16']));
    expect(model.namedBuffers().get('running')!.dtype).toBe('int64');
    expect(model.namedBuffers().get('inv_freq')!.dtype).toBe('bfloat16');
    expect(model.layers[0]!.input_layernorm.weight.requiresGrad).toBe(false);
    expect(model.embed_tokens.weight.requiresGrad).toBe(true);
    const same = model.parameters();
    model.to({ dtype: 'bfloat16', device: 'cpu' });
    expect(model.parameters().every((parameter, i) => parameter === same[i])).toBe(true);
  });
});

describe('loadStateDict', () => {
  function state(names: string[], value = 2): Map<string, Tensor> {
    using model = new Model();
    const shapes = model.stateDict();
    return new Map(
      names.map((name) => [name, (shapes.get(name) ? zeros(shapes.get(name)!.shape) : zeros([1])).fill_(value)]),
    );
  }
  const all = [...NAMES, 'running'];

  test('copies into place, casting, without touching requiresGrad', () => {
    scope(() => {
      using model = new Model();
      const before = model.parameters();
      expect(model.loadStateDict(state(all))).toEqual({ missing: [], unexpected: [] });
      expect(model.parameters()).toEqual(before);
      for (const value of model.stateDict().values()) expect(new Set(value.toNumbers())).toEqual(new Set([2]));
      expect(model.stateDict().get('running')!.dtype).toBe('int64');
      expect(model.lm_head.weight.requiresGrad).toBe(true);
    });
  });

  test('strict: missing and unexpected names, with nothing changed', () => {
    scope(() => {
      using model = new Model();
      const before = model.lm_head.weight.toNumbers();
      const wrong = state([...all.filter((name) => name !== 'scales.1'), 'extra']);
      expect(() => model.loadStateDict(wrong)).toThrow(StateDictError);
      expect(() => model.loadStateDict(wrong)).toThrow('the state lacks scales.1 and has the unexpected extra');
      expect(model.lm_head.weight.toNumbers()).toEqual(before);
      expect(model.loadStateDict(wrong, { strict: false })).toEqual({ missing: ['scales.1'], unexpected: ['extra'] });
      expect(model.scales[1]!.toNumbers()).toEqual([0]);
      expect(() => model.loadStateDict(new Map())).toThrow(/lacks embed_tokens.weight, .* and 4 more/);
    });
  });

  test('a wrong shape always throws; a name given twice too', () => {
    scope(() => {
      using model = new Model();
      const wrong = state(all);
      wrong.set('scales.0', zeros([3]));
      expect(() => model.loadStateDict(wrong, { strict: false })).toThrow(
        'scales.0 has shape [3], the module needs [1]',
      );
      const twice = state([...all, 'extra']);
      expect(() => model.loadStateDict(twice, { rename: (name) => (name === 'extra' ? 'scales.0' : name) })).toThrow(
        'the state names scales.0 twice, as scales.0 and as extra',
      );
    });
  });

  test('a tied parameter is found under either name; renaming and skipping', () => {
    scope(() => {
      using model = new Model({ tied: true });
      const names = all.filter((name) => name !== 'lm_head.weight');
      const source = new Map([...state(names)].map(([name, value]) => [`model.${name}`, value]));
      source.set('rotary.inv_freq', zeros([9]));
      const rename = (name: string) => (name.startsWith('rotary') ? null : name.slice('model.'.length));
      model.loadStateDict(source, { rename });
      expect(model.lm_head.weight.toNumbers()[0]).toBe(2);
    });
  });

  test('from a file: read in the dtype of the parameter, one at a time, ties kept', () => {
    const peak: number[] = [];
    const source = (names: string[]): TensorSource => ({
      names: () => names,
      info: (name) => ({ dtype: 'float32', shape: shapes.get(name)! }),
      read: (name, options) => {
        peak.push(liveTensorBytes());
        return ones(shapes.get(name)!, { dtype: options?.dtype ?? 'float32' });
      },
    });
    using model = new Model({ tied: true });
    model.to({ dtype: 'float64' });
    const shapes = new Map([...model.stateDict()].map(([name, { shape }]) => [name, shape]));
    model.layers[0]!.up_proj.setRequiresGrad(false);
    const start = liveTensorBytes();
    scope(() => model.loadStateDict(source(all)));
    expect(Math.max(...peak)).toBeLessThanOrEqual(start);
    expect(new Set(model.parameters().map(({ dtype }) => dtype))).toEqual(new Set(['float64']));
    expect(model.lm_head.weight).toBe(model.embed_tokens.weight);
    expect(model.lm_head.weight.toNumbers()[0]).toBe(1);
    expect(model.stateDict().get('running')!.dtype).toBe('int64');
    expect((model.layers[0]!.up_proj as Linear).weight.requiresGrad).toBe(false);
    expect(model.lm_head.weight.requiresGrad).toBe(true);
  });
});
