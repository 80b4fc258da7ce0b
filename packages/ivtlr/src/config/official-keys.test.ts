import { describe, expect, it } from 'vitest';
import { UserError } from '../errors.ts';
import { parseRecipe } from './load.ts';

/** Every key of the official code, as its YAML files write them. */
const official = `project: ivtlr
save_path: /data/runs
name: m3cot_IVTLR

epochs_per_stage: 4
max_latent_stage: 5
pad_latent_to_max: False

load_model_path: None
seed: 7
resume: 0
bf16: True
batch_size_training: 2
debug: False
gradient_accumulation_steps: 8
num_epochs: 16
lr: !!float "4e-5"
`;
const ours = `task: m3cot
model: models/base
data: { source: folder, folder: data/m3cot }
latent: { patches: 32 }
globalBatch: 64
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

describe("the official code's names", () => {
  it('all become what they are called here', () => {
    const recipe = parseRecipe(official + ours, 'r.yaml');
    expect(recipe).toMatchObject({
      out: '/data/runs/m3cot_IVTLR',
      seed: 7,
      dtype: 'bfloat16',
      microBatch: 2,
      globalBatch: 64,
      numEpochs: 16,
      optimizer: { lr: 4e-5 },
      latent: { epochsPerStage: 4, maxLatentStage: 5, padLatentToMax: false, patches: 32 },
      model: { folder: 'models/base' },
      data: { samplesPerEpoch: null },
    });
  });

  it('say where weights come from, and how many rows a trial takes', () => {
    const text = (official + ours.replace('model: models/base\n', ''))
      .replace('None', 'checkpoints/x')
      .replace('debug: False', 'debug: True');
    const recipe = parseRecipe(text.replace('bf16: True', 'bf16: false'), 'r.yaml');
    expect(recipe.model.folder).toBe('checkpoints/x');
    expect(recipe.data.samplesPerEpoch).toBe(5000);
    expect(recipe.dtype).toBe('float32');
  });

  it('may be overridden under either name', () => {
    const recipe = parseRecipe(official + ours, 'r.yaml', ['lr=1e-3', 'latent.epochsPerStage=2', 'num_epochs=3']);
    expect(recipe.optimizer.lr).toBe(1e-3);
    expect(recipe.latent.epochsPerStage).toBe(2);
    expect(recipe.numEpochs).toBe(3);
  });

  it('clash with the name they have here', () => {
    expect(failure(`${official}${ours}optimizer: { lr: 1e-3 }\n`)).toBe(
      'r.yaml:17:1: lr: is called optimizer.lr here, which the recipe sets too',
    );
    expect(failure(`${official}${ours}out: x\n`)).toContain('r.yaml:2:1: save_path: is called out here');
  });

  it('do not hide a mistake in them', () => {
    expect(failure((official + ours).replace('epochs_per_stage: 4', 'epochs_per_stage: many'))).toMatch(
      /^r\.yaml:5:19: latent\.epochsPerStage: /,
    );
    expect(failure((official + ours).replace('num_epochs', 'num_epoch'))).toContain(
      'r.yaml:16:1: unknown setting "num_epoch"; did you mean "num_epochs"?',
    );
    expect(failure((official + ours).replace('bf16: True', 'bf16: maybe'))).toBe(
      'r.yaml:12:1: bf16: expected true or false',
    );
  });

  it('do not resume by skipping epochs', () => {
    expect(failure((official + ours).replace('resume: 0', 'resume: 4'))).toMatch(
      /^r\.yaml:11:1: resume: the official code skips 4 epochs .* --resume$/,
    );
  });

  it('leave the global batch to be written down', () => {
    expect(failure((official + ours).replace('globalBatch: 64\n', ''))).toBe(
      'r.yaml:15:1: gradient_accumulation_steps: write globalBatch too; 8 x 2 rows are 16 in one process and 64 on the official four',
    );
    expect(failure((official + ours).replace('globalBatch: 64', 'globalBatch: 40'))).toContain(
      '8 x 2 rows do not divide globalBatch 40',
    );
  });
});
