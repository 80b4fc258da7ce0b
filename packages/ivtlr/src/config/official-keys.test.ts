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

  it('make the global batch that of four processes where it is not written down, and say so', () => {
    const notes: string[] = [];
    const recipe = parseRecipe((official + ours).replace('globalBatch: 64\n', ''), 'r.yaml', [], (n) => notes.push(n));
    expect(recipe.globalBatch).toBe(64);
    expect(notes.at(-1)).toBe(
      'r.yaml: globalBatch is 64: 8 x 2 rows in each of 4 processes, as the official code is run; set globalBatch=16 for one process alone',
    );
    expect(failure((official + ours).replace('globalBatch: 64', 'globalBatch: 40'))).toContain(
      '8 x 2 rows do not divide globalBatch 40',
    );
    expect(failure((official + ours).replace('steps: 8', 'steps: many'))).toMatch(
      /^r\.yaml:15:1: gradient_accumulation/,
    );
  });

  it('make the global batch that of the processes there are, where they are several', () => {
    const notes: string[] = [];
    const text = (official + ours).replace('globalBatch: 64\n', '');
    const load = (processes: number, globalBatchOf: (out: string) => number | null = () => null) =>
      parseRecipe(text, 'r.yaml', [], (line) => notes.push(line), { processes, globalBatchOf }).globalBatch;
    expect(load(3)).toBe(48);
    expect(notes.at(-1)).toBe('r.yaml: globalBatch is 48: 8 x 2 rows in each of 3 processes');
    expect(load(1)).toBe(64);
    // A written globalBatch stays what it is.
    const written = parseRecipe(official + ours, 'r.yaml', [], () => {}, { processes: 2 });
    expect(written.globalBatch).toBe(64);
  });

  it('keep the global batch of a run that goes on with another number of processes', () => {
    const notes: string[] = [];
    const text = (official + ours).replace('globalBatch: 64\n', '');
    const asked: string[] = [];
    const globalBatchOf = (out: string) => {
      asked.push(out);
      return 64;
    };
    const load = (processes: number) =>
      parseRecipe(text, 'r.yaml', [], (line) => notes.push(line), { processes, globalBatchOf }).globalBatch;
    expect(load(2)).toBe(64);
    expect(notes.at(-1)).toBe(
      'r.yaml: globalBatch stays 64, as the run began; 8 x 2 rows in each of 2 processes would be 32',
    );
    expect(asked).toEqual(['/data/runs/m3cot_IVTLR']);
    expect(load(4)).toBe(64);
    expect(notes.at(-1)).toMatch(/globalBatch is 64/);
  });

  it('bring the official prompts and LoRA along, and say so; what is set stays', () => {
    const notes: string[] = [];
    const recipe = parseRecipe(official + ours, 'r.yaml', [], (note) => notes.push(note));
    expect(recipe).toMatchObject({
      profile: 'official',
      lora: {
        rank: 64,
        alpha: 16,
        dropout: 0.05,
        targets: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
      },
      optimizer: { clip: 0.7 },
      latent: { onExhausted: 'reuse' },
    });
    expect(notes).toHaveLength(1);
    expect(notes[0]).toMatch(/^r\.yaml: the recipe has the official code's keys.*: profile official; LoRA of rank 64/);
    const set = ['lora=null', 'profile=consistent', 'optimizer.clip=null', 'latent.onExhausted=fewer'];
    const quiet: string[] = [];
    const own = parseRecipe(official + ours, 'r.yaml', set, (note) => quiet.push(note));
    expect(own).toMatchObject({ lora: null, profile: 'consistent', optimizer: { clip: null } });
    expect(quiet).toEqual([]);
  });

  it('are a whole recipe with task, model and data, in the file or by --set', () => {
    const set = ['task=m3cot', 'model=models/base', 'data.folder=data/m3cot'];
    const recipe = parseRecipe(official, 'qwen.yaml', set);
    expect(recipe).toMatchObject({
      globalBatch: 64,
      data: { source: 'folder', folder: 'data/m3cot' },
      dtype: 'bfloat16',
    });
    const byPath = parseRecipe(official, 'qwen.yaml', ['task=m3cot', 'load_model_path=a/b', 'data.folder=d']);
    expect(byPath.model.folder).toBe('a/b');
  });

  it('may all be set on the command line, before and after what they depend on', () => {
    const set = (...more: string[]) => parseRecipe(official + ours, 'r.yaml', more);
    expect(set('save_path=/tmp/1').out).toBe('/tmp/1/m3cot_IVTLR');
    expect(set('name=007').out).toBe('/data/runs/007');
    expect(set('save_path=a', 'name=b').out).toBe('a/b');
    expect(set('save_path=a', 'out=c').out).toBe('c');
    expect(set('project=x').out).toBe('/data/runs/m3cot_IVTLR');
    expect(set('load_model_path=w').model.folder).toBe('w');
    expect(set('load_model_path=None').model.folder).toBe('models/base');
    expect(set('bf16=false').dtype).toBe('float32');
    expect(set('debug=true').data.samplesPerEpoch).toBe(5000);
    expect(set('debug=true', 'debug=false').data.samplesPerEpoch).toBeNull();
    expect(set('resume=0').seed).toBe(7);
    expect(set('globalBatch=32').globalBatch).toBe(32);
    expect(set('gradient_accumulation_steps=4', 'batch_size_training=4', 'globalBatch=48').globalBatch).toBe(48);
    expect(failure(official + ours, ['gradient_accumulation_steps=5'])).toBe(
      '--set gradient_accumulation_steps=5: 5 x 2 rows do not divide globalBatch 64',
    );
    expect(failure(official + ours, ['resume=3'])).toMatch(/^--set resume=3: the official code skips 3 epochs/);
    expect(failure(official + ours, ['bf16=maybe'])).toBe('--set bf16=maybe: expected true or false');
    expect(failure(official + ours, ['lr=-1'])).toMatch(/^--set lr=-1: optimizer\.lr: /);
  });

  it('leave a recipe of this project what it is when only --set has them', () => {
    const plain =
      ours +
      'latent: { maxLatentStage: 3, epochsPerStage: 1 }\nmicroBatch: 2\nnumEpochs: 1\noptimizer: { lr: 1 }\nout: x\n';
    const recipe = parseRecipe(plain.replace('latent: { patches: 32 }\n', ''), 'r.yaml', ['lr=1e-3', 'name=y']);
    expect(recipe).toMatchObject({ lora: null, profile: 'consistent', optimizer: { lr: 1e-3, clip: null }, out: 'y' });
  });
});
