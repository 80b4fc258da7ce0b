/** Chameleon folders: shards as transformers writes them, an adapter of PEFT's, an official checkpoint; what is computed from them. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { AdamW, liveTensorCount, openCheckpoint, openSafetensors, scope } from '@ivtlr/torch';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { convertOfficial } from '../../packages/ivtlr/src/convert/convert-official.ts';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { loadAdapter, saveAdapter } from '../../packages/ivtlr/src/lora/adapter-folder.ts';
import { loraParameters } from '../../packages/ivtlr/src/lora/inject.ts';
import type { Chameleon } from '../../packages/ivtlr/src/models/chameleon/model.ts';
import { loadModel, saveModel } from '../../packages/ivtlr/src/models/registry.ts';
import { trainingLoss } from '../../packages/ivtlr/src/train/loss.ts';
import { type ChameleonCase, seededChameleon, seededChameleonImages } from './chameleon-model.ts';
import { makeBatch, readGolden, relativeError } from './model.ts';

interface FolderCase extends ChameleonCase {
  masked: number[];
  input_ids: number[];
}

interface CheckpointCase extends FolderCase {
  patches: number;
  picked: number[][];
  new_tokens: number[];
  last_logits: number[];
}

const { sharded, lora, checkpoint } = readGolden<{
  sharded: FolderCase & {
    folder: string;
    codes: number[][];
    last_logits: number[];
    greedy: number[][];
    tensors: number;
    names: string[];
  };
  lora: FolderCase & {
    adapter: string;
    labels: number[];
    plain: number[];
    adapted: number[];
    training: { lr: number; weight_decay: number; losses: number[] };
  };
  checkpoint: {
    rows: number;
    rank: number;
    max_new_tokens: number;
    merged: Record<string, Record<'float32' | 'stored', { abs_sum: number; first: number[] }>>;
    cases: CheckpointCase[];
  };
}>('chameleon-folders.json');
const goldens = fileURLToPath(new URL('goldens/', import.meta.url));
const temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'chameleon-folders-'));
const readConfig = (folder: string) => JSON.parse(fs.readFileSync(path.join(folder, 'config.json'), 'utf8'));

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => fs.rmSync(temporary, { recursive: true }));

/** Last logits without the masked ids, and greedy tokens. */
function answer(model: Chameleon, golden: FolderCase, maxNewTokens = 1) {
  return scope(() => {
    const ids = golden.input_ids;
    const batch = makeBatch([ids], [ids.map(() => 1)], seededChameleonImages(golden), golden.ids);
    const result = generateAll(model, batch, {
      ...LATENT_DEFAULTS,
      maxNewTokens,
      eosIds: [],
      trace: true,
      firstLogits: true,
    });
    return {
      logits: result.firstLogits[0]!.filter((_, id) => !golden.masked.includes(id)),
      tokens: result.tokens[0]!,
    };
  });
}

describe('a sharded bfloat16 folder as transformers writes it', () => {
  const folder = path.join(goldens, sharded.folder);

  test('its names are the hub checkpoint’s', () => {
    using file = openCheckpoint(folder);
    expect(file.names().length).toBe(sharded.tensors);
    expect(fs.readdirSync(folder).filter((name) => name.endsWith('.safetensors')).length).toBe(3);
    expect(sharded.names).toContain('model.layers.1.self_attn.k_norm.bias');
    expect(sharded.names.every((name) => /^(lm_head|model\.(embed_tokens|norm|layers\.\d\..*))\.\w+$/.test(name))).toBe(
      true,
    );
  });

  test('in float32: codes, logits and tokens as transformers', () => {
    using model = loadModel(folder, { dtype: 'float32' }) as Chameleon;
    const { logits, tokens } = answer(model, sharded, sharded.greedy[0]!.length);
    expect(relativeError(logits, sharded.last_logits)).toBeLessThan(1e-4);
    expect(tokens).toEqual(sharded.greedy[0]);
    scope(() => {
      const [picture] = seededChameleonImages(sharded);
      const codes = sharded.codes[0]!.map((code) => model.config.codeIds[code]);
      expect(model.imageTokens(picture!).toNumbers()).toEqual(codes);
    });
  });

  test('as stored: within bfloat16’s rounding, and the same after saving', () => {
    using model = loadModel(folder) as Chameleon;
    expect(model.dtype).toBe('bfloat16');
    // A code on a border may change with the rounding, and with it the image that the model sees.
    expect(relativeError(answer(model, sharded).logits, sharded.last_logits)).toBeLessThan(0.1);
    const copy = fs.mkdtempSync(path.join(temporary, 'saved-'));
    saveModel(model, readConfig(folder), copy);
    using again = loadModel(copy) as Chameleon;
    const parameters = again.namedParameters();
    expect(parameters.size).toBe(sharded.tensors);
    for (const [name, tensor] of model.namedParameters())
      expect(parameters.get(name)!.bytes(), name).toEqual(tensor.bytes());
  });

  test('weights of the picture decoder are left out, others that do not belong are said', () => {
    const copy = fs.mkdtempSync(path.join(temporary, 'decoder-'));
    fs.cpSync(folder, copy, { recursive: true });
    const index = path.join(copy, 'model.safetensors.index.json');
    const shard = 'model-00001-of-00003.safetensors';
    const rename = (to: string) => {
      const bytes = fs.readFileSync(path.join(folder, shard));
      const json = JSON.parse(fs.readFileSync(path.join(folder, path.basename(index)), 'utf8'));
      // The same length, so that the header's offsets stay.
      const from = 'model.vqmodel.encoder.conv_in.bias';
      const home = json.weight_map[from] as string;
      const file = home === shard ? bytes : fs.readFileSync(path.join(folder, home));
      const text = Buffer.from(file.toString('latin1').replace(from, to), 'latin1');
      fs.writeFileSync(path.join(copy, home), text);
      json.weight_map = { ...json.weight_map, [to]: home };
      delete json.weight_map[from];
      fs.writeFileSync(index, JSON.stringify(json));
    };
    rename('model.vqmodel.decoder.conv_in.bias');
    expect(() => loadModel(copy)).toThrow(/weights do not fit config\.json.*model\.vqmodel\.encoder\.conv_in\.bias/);
    rename('model.vqmodel.unknown.conv_in.bias');
    expect(() => loadModel(copy)).toThrow(/model\.vqmodel\.unknown\.conv_in\.bias/);
  });
});

describe('an adapter as PEFT writes it', () => {
  const folder = path.join(goldens, lora.adapter);

  test('gives PEFT’s logits and trains as PEFT does', () => {
    using model = seededChameleon(lora);
    const question = { ...lora, input_ids: lora.input_ids };
    expect(relativeError(answer(model, question).logits, lora.plain)).toBeLessThan(1e-5);
    expect(relativeError(lora.plain, lora.adapted)).toBeGreaterThan(0.05);
    loadAdapter(model, folder);
    model.eval();
    expect(relativeError(answer(model, question).logits, lora.adapted)).toBeLessThan(1e-5);
    const { lr, weight_decay: weightDecay, losses } = lora.training;
    using optimizer = new AdamW(loraParameters(model), { lr, weightDecay });
    const got = losses.map(() =>
      scope(() => {
        const ids = [lora.input_ids];
        const batch = makeBatch(ids, [ids[0]!.map(() => 1)], seededChameleonImages(lora), lora.ids, [lora.labels]);
        const options = { ...LATENT_DEFAULTS, latentGradient: 'detached', pickSupervision: 0 } as const;
        const { loss } = trainingLoss(model, batch, options);
        loss.backward();
        optimizer.step();
        optimizer.zeroGrad();
        return loss.item();
      }),
    );
    expect(relativeError(got, losses)).toBeLessThan(1e-5);
  });

  test('is written again with the same names and bytes', () => {
    using model = seededChameleon(lora);
    const { config } = loadAdapter(model, folder);
    const copy = fs.mkdtempSync(path.join(temporary, 'adapter-'));
    saveAdapter(model, copy, config, { baseModel: 'base', style: model.pathStyle });
    using ours = openSafetensors(path.join(copy, 'adapter_model.safetensors'));
    using theirs = openSafetensors(path.join(folder, 'adapter_model.safetensors'));
    expect(ours.names().toSorted()).toEqual(theirs.names().toSorted());
    scope(() => {
      for (const name of theirs.names()) expect(ours.read(name).bytes(), name).toEqual(theirs.read(name).bytes());
    });
  });
});

describe('an official checkpoint with three added tokens', () => {
  const source = path.join(goldens, 'chameleon-checkpoint');
  const convert = (out: string, merge: boolean, dtype?: 'float32') =>
    convertOfficial({
      checkpoint: path.join(source, 'model.pth'),
      base: path.join(source, 'base'),
      out,
      merge,
      ...(dtype && { dtype }),
    });

  function check(model: Chameleon): void {
    for (const wanted of checkpoint.cases)
      scope(() => {
        const config = readConfig(path.join(source, 'base'));
        const batch = makeBatch(
          [wanted.input_ids],
          [wanted.input_ids.map(() => 1)],
          seededChameleonImages({ ...wanted, config }),
          wanted.ids,
        );
        const result = generateAll(model, batch, {
          ...LATENT_DEFAULTS,
          patches: wanted.patches,
          maxNewTokens: checkpoint.max_new_tokens,
          eosIds: [wanted.ids.eos],
          trace: true,
          firstLogits: true,
        });
        const start = batch.inputIds[0]!.indexOf(wanted.ids.image);
        const picked = result.traces[0]!.map((step) => step.picked.map((index) => index + start));
        expect(picked, wanted.name).toEqual(wanted.picked);
        const logits = result.firstLogits[0]!.filter((_, id) => !wanted.masked.includes(id));
        expect(relativeError(logits, wanted.last_logits), wanted.name).toBeLessThan(1e-4);
        expect(result.tokens[0], wanted.name).toEqual(wanted.new_tokens);
      });
  }

  test('merged: picks, tokens and logits of the official code, weights as PEFT merges them', async () => {
    const out = path.join(temporary, 'merged');
    const result = await convert(out, true, 'float32');
    expect(result).toMatchObject({ rank: checkpoint.rank, vocabulary: checkpoint.rows, adapters: 14 });
    using model = loadModel(out) as Chameleon;
    expect(model.vocabularySize).toBe(320);
    check(model);
    const parameters = model.namedParameters();
    expect(Object.keys(checkpoint.merged).length).toBe(14);
    for (const [name, { float32: wanted }] of Object.entries(checkpoint.merged))
      scope(() => {
        const value = parameters.get(name)!.detach().to('float64');
        expect(Math.abs(value.abs().sum().item() / wanted.abs_sum - 1), name).toBeLessThan(1e-6);
      });
  });

  test('adapter beside the weights: the same, under the paths of today’s transformers', async () => {
    const out = path.join(temporary, 'adapter');
    await convert(out, false, 'float32');
    using model = loadModel(out) as Chameleon;
    expect(() => check(model)).toThrow(/T 3, K 64/);
    loadAdapter(model, path.join(out, 'adapter'));
    model.eval();
    check(model);
    using file = openSafetensors(path.join(out, 'adapter', 'adapter_model.safetensors'));
    expect(file.names()).toContain('base_model.model.model.layers.1.mlp.up_proj.lora_B.weight');
  });
});
