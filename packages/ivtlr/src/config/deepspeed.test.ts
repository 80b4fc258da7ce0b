import { describe, expect, it } from 'vitest';
import { UserError } from '../errors.ts';
import { parseDeepSpeedConfig } from './deepspeed.ts';
import { parseRecipe, type RecipeContext } from './load.ts';

/** A recipe that sets nothing a DeepSpeed config can set, except that a run needs a learning rate and batch sizes. */
const bare = `task: m3cot
model: models/base
latent: { patches: 32, maxLatentStage: 5, epochsPerStage: 4 }
numEpochs: 16
data: { source: folder, folder: data/m3cot }
out: runs/x
`;
const official = `${bare}batch_size_training: 2
gradient_accumulation_steps: 8
bf16: True
lr: !!float "4e-5"
`;

/** As the official code's, in a shape of our own: the same keys and values. */
const dsConfig = {
  train_batch_size: 64,
  train_micro_batch_size_per_gpu: 2,
  gradient_accumulation_steps: 8,
  bf16: { enabled: true },
  zero_optimization: {
    stage: 2,
    offload_optimizer: { device: 'none' },
    allgather_partitions: true,
    allgather_bucket_size: 1e5,
    reduce_scatter: true,
    reduce_bucket_size: 1e6,
    overlap_comm: true,
    contiguous_gradients: true,
  },
  gradient_checkpointing: { enable: true, cpu_checkpointing: false },
  optimizer: { type: 'AdamW', params: { lr: 4e-5, weight_decay: 0.01 } },
  gradient_clipping: 0.7,
  steps_per_print: 50,
  wall_clock_breakdown: false,
};

const notes: string[] = [];
function load(text: string, config: unknown, overrides: string[] = [], context: RecipeContext = {}) {
  notes.length = 0;
  const source = typeof config === 'string' ? config : JSON.stringify(config);
  const deepspeed = parseDeepSpeedConfig(source, 'ds.json');
  return parseRecipe(text, 'r.yaml', overrides, (line) => notes.push(line), context, deepspeed);
}

function failure(...args: Parameters<typeof load>): string {
  try {
    load(...args);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).message;
  }
  throw new Error('expected a UserError');
}

describe('a DeepSpeed config', () => {
  const expected = {
    globalBatch: 64,
    microBatch: 2,
    dtype: 'bfloat16',
    parallel: { zero: 2 },
    activationCheckpointing: true,
    optimizer: { lr: 4e-5, weightDecay: 0.01, clip: 0.7 },
  };

  it('of the official code fits its YAML, on one process and on four', () => {
    expect(load(official, dsConfig)).toMatchObject(expected);
    expect(load(official, dsConfig, [], { processes: 4 })).toMatchObject(expected);
    expect(notes.at(-1)).toBe(
      'ds.json: these concern DeepSpeed itself and change nothing here: zero_optimization.allgather_partitions, ' +
        'zero_optimization.allgather_bucket_size, zero_optimization.reduce_scatter, zero_optimization.reduce_bucket_size, ' +
        'zero_optimization.overlap_comm, zero_optimization.contiguous_gradients, steps_per_print, wall_clock_breakdown',
    );
  });

  it('gives what the recipe leaves out', () => {
    const params = { lr: 3e-4, betas: [0.8, 0.99], eps: 1e-6, weight_decay: 0, adam_w_mode: true };
    const config = {
      ...dsConfig,
      zero_optimization: { stage: 3 },
      gradient_clipping: 0,
      bf16: { enabled: false },
      optimizer: { type: 'Adam', params },
    };
    const recipe = load(bare, config);
    expect(recipe.optimizer).toEqual({ lr: 3e-4, betas: [0.8, 0.99], eps: 1e-6, weightDecay: 0, clip: null });
    expect(recipe.dtype).toBe('float32');
    expect(recipe.parallel).toEqual({ zero: 3, timeout: 600 });
    // Only names of the official YAML bring the official defaults along.
    expect(recipe.lora).toBeNull();
  });

  it('leaves to the recipe what is "auto", null or absent', () => {
    const config = {
      ...{ train_batch_size: 'auto', train_micro_batch_size_per_gpu: 'auto', gradient_accumulation_steps: 'auto' },
      ...{ gradient_clipping: 'auto', fp16: { enabled: 'auto', loss_scale: 0 }, bf16: { enabled: 'auto' } },
      zero_optimization: { stage: 2, reduce_bucket_size: 'auto', offload_param: null },
      optimizer: { type: 'AdamW', params: { lr: 'auto', betas: 'auto', eps: 'auto', weight_decay: 'auto' } },
    };
    expect(load(official, config)).toEqual(parseRecipe(official, 'r.yaml'));
    expect(notes.at(-1)).toMatch(/^r\.yaml: globalBatch is 64/);
  });

  it('must agree with the recipe; --set decides', () => {
    const text = official.replace('batch_size_training: 2', 'batch_size_training: 4');
    expect(failure(text, dsConfig)).toBe(
      'r.yaml:7:22: microBatch: 4, but ds.json:1:57: train_micro_batch_size_per_gpu is 2; ' +
        'write the same in both, leave one out, or choose with --set microBatch=VALUE',
    );
    expect(load(text, dsConfig, ['microBatch=4', 'gradient_accumulation_steps=4']).microBatch).toBe(4);
    expect(load(text, dsConfig, ['batch_size_training=2']).microBatch).toBe(2);
    expect(failure(official.replace('steps: 8', 'steps: 4'), dsConfig)).toMatch(
      /^r\.yaml:8:1: gradient_accumulation_steps: 4, but ds\.json:1:\d+: gradient_accumulation_steps is 8; /,
    );
    expect(failure(`${bare}optimizer: { lr: 1e-3, clip: null }\n`, dsConfig)).toMatch(
      /^r\.yaml:7:18: optimizer\.lr: 0\.001, but ds\.json:1:\d+: optimizer\.params\.lr is 0\.00004; /,
    );
    const clip = load(`${bare}optimizer: { clip: null }\n`, dsConfig, ['optimizer.clip=1']).optimizer.clip;
    expect(clip).toBe(1);
    expect(load(official, dsConfig, ['lr=1e-3', 'parallel.zero=0'])).toMatchObject({
      optimizer: { lr: 1e-3 },
      parallel: { zero: 0 },
    });
  });

  it('has a train_batch_size that is its product, as far as the processes are known', () => {
    expect(failure(official, dsConfig, [], { processes: 2 })).toBe(
      'ds.json:1:21: train_batch_size: 64 is not 8 x 2 rows in each of 2 processes, which are 32; ' +
        'write 32, or keep it with --set globalBatch=64',
    );
    expect(load(official, dsConfig, ['globalBatch=64'], { processes: 2 }).globalBatch).toBe(64);
    expect(failure(official, { ...dsConfig, train_batch_size: 40 })).toBe(
      'ds.json:1:21: train_batch_size: 40 is not a multiple of 8 x 2 rows, which one process takes in one step',
    );
    const { train_batch_size: _, ...derived } = dsConfig;
    expect(load(bare, derived, [], { processes: 3 }).globalBatch).toBe(48);
    // A run that goes on keeps its batch on any number of processes.
    expect(load(official, dsConfig, [], { processes: 2, globalBatchOf: () => 64 }).globalBatch).toBe(64);
  });

  it.each([
    [
      { zero_optimization: { offload_optimizer: { device: 'cpu', pin_memory: true } } },
      'offload_optimizer.device: "cpu"',
    ],
    [{ zero_optimization: { offload_param: { device: 'nvme' } } }, 'zero_optimization.offload_param.device: "nvme"'],
    [{ zero_optimization: { cpu_offload: true } }, 'zero_optimization.cpu_offload: true'],
    [{ zero_optimization: { zero_quantized_gradients: true } }, 'zero_optimization.zero_quantized_gradients: true'],
    [{ zero_optimization: { zero_hpz_partition_size: 8 } }, 'zero_optimization.zero_hpz_partition_size: 8'],
    [{ fp16: { enabled: true } }, 'fp16.enabled: true'],
    [{ optimizer: { type: 'Lamb', params: {} } }, 'optimizer.type: "Lamb"'],
    [{ optimizer: { params: { adam_w_mode: false } } }, 'optimizer.params.adam_w_mode: false'],
    [{ scheduler: { type: 'WarmupLR', params: { warmup_num_steps: 10 } } }, 'scheduler: {"type":"WarmupLR"'],
    [{ gradient_checkpointing: { cpu_checkpointing: true } }, 'gradient_checkpointing.cpu_checkpointing: true'],
    [{ tensorboard: { enabled: true } }, 'tensorboard.enabled: true'],
    [{ tensor_parallel: { autotp_size: 2 } }, 'tensor_parallel: {"autotp_size":2}'],
    [{ data_types: { grad_accum_dtype: 'fp32' } }, 'data_types.grad_accum_dtype: "fp32"', ['lora=null']],
    [{ communication_data_type: 'fp16' }, 'communication_data_type: "fp16"'],
  ])('is refused by name for what cannot be honoured: %j', (config, name, overrides: string[] = []) => {
    const message = failure(official, config, overrides);
    expect(message).toMatch(/^ds\.json:1:\d+: /);
    expect(message).toContain(`${name}`);
    expect(message).toMatch(/ cannot be honoured: .*(write|remove)/);
  });

  it('may name the type that gradients have anyway', () => {
    const types = (type: string) => ({ data_types: { grad_accum_dtype: type }, communication_data_type: type });
    expect(load(official, types('fp32')).lora).not.toBeNull();
    expect(load(official, types('bf16'), ['lora=null']).dtype).toBe('bfloat16');
  });

  it('is refused for what is no such file, with the place', () => {
    expect(failure(official, '{\n"zero_optimization": {"stag": 2}\n}')).toBe(
      'ds.json:2:31: zero_optimization.stag: unknown key "stag"; did you mean "stage"?',
    );
    expect(failure(official, '{"zebra": 1}')).toContain('unknown key "zebra"; nothing here does what it may ask for');
    expect(failure(official, '[1]')).toBe('ds.json:1:1: a DeepSpeed config is a JSON object of settings');
    expect(failure(official, '{"a": ')).toMatch(/^ds\.json:1:\d+: /);
    expect(failure(official, '{"gradient_clipping": 1, "gradient_clipping": 2}')).toMatch(/unique/);
    expect(failure(official, { zero_optimization: true })).toContain('expected an object with keys such as stage');
    expect(failure(official, { bf16: { enabled: 'yes' } })).toContain('bf16.enabled: expected true or false');
    expect(failure(official, { zero_optimization: { stage: 4 } })).toBe(
      'ds.json:1:31: zero_optimization.stage: parallel.zero: must be 0, 1, 2 or 3',
    );
    expect(failure(bare, { ...dsConfig, gradient_accumulation_steps: 1.5 })).toMatch(
      /^ds\.json:1:\d+: gradient_accumulation_steps: expected a whole number of at least 1$/,
    );
    expect(failure(`${bare}optimizer: null\n`, dsConfig)).toContain('but optimizer holds a plain value in the recipe');
  });

  it('may hold comments and tabs', () => {
    expect(load(bare, `# ours\n${JSON.stringify(dsConfig, null, '\t')}`)).toMatchObject(expected);
  });
});
