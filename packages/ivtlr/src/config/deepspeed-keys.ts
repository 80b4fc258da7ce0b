/** What becomes of each key of a DeepSpeed configuration file. Names and meanings are those of DeepSpeed's documentation, "Configuration JSON". */

export type Fail = (message: string) => never;

export type Rule =
  /** Becomes the setting at `path`. */
  | { kind: 'setting'; path: readonly string[]; read?: (value: unknown, fail: Fail) => unknown }
  | { kind: 'section'; keys: Readonly<Record<string, Rule>> }
  /** Accepted: it tunes or reports what happens inside DeepSpeed, and changes no result. */
  | { kind: 'no effect' }
  /** The type that gradients are added up or sent in. */
  | { kind: 'gradient type' }
  /** Accepted only where it is switched off, or one of `also`. */
  | { kind: 'off'; reason: string; also: readonly unknown[] };

const setting = (path: string, read?: (value: unknown, fail: Fail) => unknown): Rule => ({
  kind: 'setting',
  path: path.split('.'),
  ...(read && { read }),
});
const section = (keys: Readonly<Record<string, Rule>>): Rule => ({ kind: 'section', keys });
const off = (reason: string, ...also: unknown[]): Rule => ({ kind: 'off', reason, also });
const noEffect = (...names: string[]): Record<string, Rule> =>
  Object.fromEntries(names.map((name) => [name, { kind: 'no effect' }]));
const offForAll = (reason: string, ...names: string[]): Record<string, Rule> =>
  Object.fromEntries(names.map((name) => [name, off(reason)]));

const flag = (value: unknown, fail: Fail): boolean =>
  typeof value === 'boolean' ? value : fail('expected true or false');

const bf16 = section({
  enabled: setting('dtype', (value, fail) => (flag(value, fail) ? 'bfloat16' : 'float32')),
  ...noEffect('auto_cast', 'immediate_grad_update', 'check_grad_overflow'),
  ...offForAll(
    'the optimiser always keeps its states and a copy of the weights in float32 here; remove it',
    'bf16_master_weights_and_grads',
    'bf16_optimizer_states',
  ),
});

const optimizer = section({
  type: off(
    'only AdamW is there; write AdamW, or Adam, which in DeepSpeed decays weights as AdamW does',
    ...['Adam', 'adam', 'AdamW', 'adamw', 'Adamw'],
  ),
  params: section({
    lr: setting('optimizer.lr'),
    betas: setting('optimizer.betas'),
    eps: setting('optimizer.eps'),
    weight_decay: setting('optimizer.weightDecay'),
    adam_w_mode: off('weights decay as in AdamW only; write true', true),
    bias_correction: off('AdamW always corrects its bias here; write true', true),
    amsgrad: off('AMSGrad is not there; write false'),
    maximize: off('the loss is made smaller; write false'),
    ...noEffect(
      'torch_adam',
      'fused',
      'foreach',
      'set_grad_none',
      'capturable',
      'differentiable',
      'fp32_optimizer_states',
    ),
  }),
  // Where some files have it by mistake; DeepSpeed reads it inside params.
  ...noEffect('legacy_fusion'),
  adam_w_mode: off('weights decay as in AdamW only; write true', true),
});

const OFFLOAD = 'weights and optimiser states stay on the device; write "device": "none" or remove it';
const QUANTIZED = 'what processes send each other is never rounded further; write false';

const zeroOptimization = section({
  stage: setting('parallel.zero'),
  ...offForAll(OFFLOAD, 'offload_optimizer', 'offload_param', 'cpu_offload', 'cpu_offload_params', 'cpu_offload_param'),
  ...offForAll(
    QUANTIZED,
    ...[
      'zero_quantized_weights',
      'zero_quantized_gradients',
      'zero_quantized_nontrainable_weights',
      'zeropp_loco_param',
    ],
  ),
  zero_hpz_partition_size: off('weights are sharded over all processes alike; write 1', 1),
  mics_shard_size: off('states are sharded over all processes alike; remove it', -1),
  zenflow: off('gradients of a step are used in that step; remove it'),
  ...noEffect(
    ...['overlap_comm', 'contiguous_gradients', 'reduce_scatter', 'reduce_bucket_size', 'allgather_partitions'],
    ...['allgather_bucket_size', 'round_robin_gradients', 'use_multi_rank_bucket_allreduce', 'sub_group_size'],
    ...['stage3_prefetch_bucket_size', 'stage3_param_persistence_threshold', 'stage3_model_persistence_threshold'],
    ...['stage3_max_live_parameters', 'stage3_max_reuse_distance', 'stage3_gather_16bit_weights_on_model_save'],
    ...[
      'stage3_gather_fp16_weights_on_model_save',
      'stage3_module_granularity_threshold',
      'stage3_allgather_sequential',
    ],
    ...['stage3_use_all_reduce_for_fetch_params', 'stage3_partition_stream_chunk_size', 'memory_efficient_linear'],
    ...['load_from_fp32_weights', 'elastic_checkpoint', 'legacy_stage1', 'ignore_unused_parameters', 'leaf_module'],
    ...['cpu_offload_use_pin_memory', 'mics_hierarchical_params_gather', 'override_module_apply'],
    ...['pipeline_loading_checkpoint', 'log_trace_cache_warnings', 'enable_sanity_checks'],
    ...['save_muon_momentum_buffer_in_memory'],
  ),
});

const ON_DEVICE = 'what the backward pass needs stays whole and on the device; write false';

/** The whole file. */
export const DEEPSPEED_KEYS: Readonly<Record<string, Rule>> = {
  train_batch_size: setting('globalBatch'),
  train_micro_batch_size_per_gpu: setting('microBatch'),
  gradient_accumulation_steps: setting('gradient_accumulation_steps'),
  gradient_clipping: setting('optimizer.clip', (value) => (value === 0 ? null : value)),
  bf16,
  bfloat16: bf16,
  optimizer,
  zero_optimization: zeroOptimization,
  // No key of DeepSpeed's own, but in the official file, whose code runs layers again in the backward pass.
  gradient_checkpointing: section({
    enable: setting('activationCheckpointing', flag),
    enabled: setting('activationCheckpointing', flag),
    ...offForAll(ON_DEVICE, 'cpu_checkpointing'),
  }),
  activation_checkpointing: section({
    ...offForAll(ON_DEVICE, 'cpu_checkpointing', 'partition_activations'),
    ...noEffect('contiguous_memory_optimization', 'number_checkpoints', 'synchronize_checkpoint_boundary', 'profile'),
  }),
  data_types: section({ grad_accum_dtype: { kind: 'gradient type' } }),
  communication_data_type: { kind: 'gradient type' },
  scheduler: off(
    'the learning rate is the recipe\'s: constant, or as "schedule" there says (warmupSteps, decayFrom, decayTo); remove it',
  ),
  ...offForAll(
    'float16 needs its loss scaled, which is not there; write false and use bf16',
    ...['fp16', 'amp', 'torch_autocast'],
  ),
  ...offForAll(
    'weights and activations are never quantised or pruned; remove it',
    'compression_training',
    'quantize_training',
  ),
  sparse_attention: off('attention is computed whole; remove it'),
  progressive_layer_drop: off('every layer runs at every step; remove it'),
  ...offForAll(
    'the latent curriculum decides what is trained when; remove it',
    ...['curriculum_learning', 'data_efficiency'],
  ),
  ...offForAll('batch sizes are those written down; remove it', 'elasticity', 'autotuning'),
  tensorboard: off('event files are written with "tensorboard: true" in the recipe; remove it'),
  ...offForAll(
    'measurements go to metrics.jsonl in the folder of the run, and nothing is sent anywhere; remove it',
    ...['wandb', 'comet', 'csv_monitor'],
  ),
  ...offForAll(
    'processes share the rows of a batch and the ZeRO shards, not the layers or a row; remove it',
    ...['pipeline', 'tensor_parallel', 'hybrid_engine'],
  ),
  sequence_parallel_size: off('a row is computed in one process; write 1', 1),
  dataloader_drop_last: off('the last batch of an epoch is used, too; write false'),
  ...noEffect(
    ...['steps_per_print', 'wall_clock_breakdown', 'memory_breakdown', 'dump_state', 'flops_profiler', 'comms_logger'],
    ...['timers', 'disable_allgather', 'prescale_gradients', 'gradient_predivide_factor', 'sparse_gradients'],
    ...['zero_allow_untested_optimizer', 'zero_force_ds_cpu_optimizer', 'checkpoint', 'aio', 'compile', 'nebula'],
    ...['seq_parallel_communication_data_type', 'graph_harvesting', 'managed_gradient_accumulation', 'eigenvalue'],
  ),
};
