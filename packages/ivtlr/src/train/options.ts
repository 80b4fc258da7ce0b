/**
 * The trainer's part of a recipe: each schema belongs to one component and is composed in config/schema.ts.
 * Defaults are the official code's values wherever it has one (docs/method.md), and "off" for what is ours alone.
 */
import { z } from 'zod';
import { latentOptionsSchema, latentStepsSchema } from '../latent/options.ts';

/** Upper bounds keep a slip of the keyboard from taking all memory or time; all are far beyond what a run has use for. */
const count = z.int().positive().max(1e9);
/** Rows that are held in memory at once. */
export const rowCount = z.int().positive().max(16_384);
const fraction = z.number().min(0).max(1);

/** AdamW and gradient clipping. `clip` is the largest allowed gradient norm; null leaves gradients alone. */
export const optimizerSchema = z.strictObject({
  lr: z.number().positive(),
  betas: z.tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)]).default([0.9, 0.999]),
  eps: z.number().positive().default(1e-8),
  weightDecay: z.number().min(0).default(0.01),
  clip: z.number().positive().nullable().default(null),
});

/**
 * Learning rate inside one phase (a latent stage or a pretrain phase) of `n` steps: a linear warm-up over `warmupSteps` whenever the
 * optimiser starts fresh, then constant until `decayFrom * n`, then linear down to `decayTo * lr` at the phase's end.
 */
export const scheduleSchema = z.strictObject({
  warmupSteps: z.int().min(0).max(1e9).default(0),
  decayFrom: fraction.default(0),
  decayTo: fraction.default(1),
});

const { patches, latentText, latentVision, hideImageFromText, ...latent } = latentOptionsSchema.shape;

/** The latent curriculum and what a latent step is during training. */
export const latentTrainingSchema = z.strictObject({
  ...latent,
  /** K: image tokens picked at each latent step; null: what the official code has for the model's family. */
  patches: patches.unwrap().min(1).nullable().default(null),
  /** Parts of the latent step to train without (ablations). Mode coconut sets latentVision off by itself. */
  latentText: latentText.unwrap().exclude(['swap']).default('on'),
  latentVision: latentVision.unwrap().exclude(['swap']).default('on'),
  /** From the stage on that leaves no step to be written, the answer may not attend to the image tokens (`hideImageFromText` of its model). */
  hideImageFromAnswer: z.boolean().default(false),
  maxLatentStage: latentStepsSchema,
  /** Epochs of every stage, or one number a stage (the last one lasts until the end; 0 skips a stage that the model has been through). */
  epochsPerStage: z.union([count, z.array(z.int().min(0).max(100_000)).min(1).max(1001)]),
  padLatentToMax: z.boolean().default(true),
  latentGradient: z.enum(['detached', 'through']).default('detached'),
  /** Weight of -log of the normalised score of the known target patches; 0 is off. */
  pickSupervision: z.number().min(0).default(0),
  /** Weight of the cross-entropy of the value that a step hands on, read off its last hidden state by the output layer among all values; 0 is off. */
  carrySupervision: z.number().min(0).default(0),
  /** Share of the micro-batches that train an earlier stage; stage 0 is never replayed. */
  replay: fraction.default(0),
});

/**
 * Held-out accuracy while training: at the end of every stage and, with `everyEpochs`, every so many epochs; answered greedily, after the
 * checkpoint of the same moment is written.
 */
export const validationSchema = z.strictObject({
  samples: z.int().min(0).max(1e6).default(0),
  everyEpochs: count.nullable().default(null),
  batch: rowCount.default(50),
  maxNewTokens: z.int().positive().max(100_000).default(512),
});

/** Where samples come from: `fresh` draws new ones from the task's generator, `folder` reads Parquet files. */
export const dataSchema = z.strictObject({
  source: z.enum(['fresh', 'folder']),
  folder: z.string().nullable().default(null),
  /** Columns that have another name in the files of the folder: the task's -> theirs. */
  columns: z.record(z.string(), z.string().min(1)).default({}),
  /** Default for folder: all rows. */
  samplesPerEpoch: count.nullable().default(null),
  /** Threads that decode and resize the images of a folder ahead of the trainer; 0 does it in between. Results do not depend on it. */
  threads: z.int().min(0).max(256).default(2),
  /** Rows of a folder that cannot be used: stop, or tell and leave them out. */
  onBadRow: z.enum(['error', 'skip']).default('error'),
  validation: validationSchema.prefault({}),
});

/** Difficulty of generated samples rises linearly from `from` to `to` over the first `steps` steps of a pretrain phase. */
export const rampSchema = z.strictObject({
  from: z.int().min(0).max(1e6),
  to: z.int().min(0).max(1e6),
  steps: count,
});

/** One phase before stage 0. Every step adds up the weighted losses of all tasks in `mix`, `batch` rows each. */
export const pretrainPhaseSchema = z.strictObject({
  /** Names the folder of the phase's model. */
  name: z
    .string()
    .regex(/^[A-Za-z0-9_-]{1,100}$/, 'a name has letters, digits, _ and - only')
    .refine((name) => !/^stage-\d+$/.test(name), 'stage-N is the name of a latent stage'),
  steps: count,
  mix: z
    .array(z.strictObject({ task: z.string(), weight: z.number().positive().default(1), batch: rowCount }))
    .min(1)
    .max(100),
  ramp: rampSchema.optional(),
  lr: z.number().positive(),
  schedule: scheduleSchema.prefault({}),
});

/** When to write a resumable checkpoint. It is always written at the end and when the run is interrupted. */
export const checkpointSchema = z.strictObject({
  everySteps: count.nullable().default(null),
  everyEpochs: count.nullable().default(null),
  /** How many of the newest resumable checkpoints stay on disk. */
  keep: count.default(1),
  /** Also keep the model with the best held-out accuracy, in the folder best. */
  best: z.boolean().default(false),
  /** Also keep the bare model at the end of the pretrain phases and of each stage (models/pretrain, models/stage-0, ..). */
  stageModels: z.boolean().default(false),
});

/** What happens when a step's loss exceeds `spikeFactor` times the median of the steps before; null is off. A loss that is no number always stops. */
export const guardSchema = z.strictObject({
  spikeFactor: z.number().gt(1).nullable().default(null),
  /** Tell which samples it was and go on; or leave these samples out; or stop. */
  onSpike: z.enum(['warn', 'skip', 'stop']).default('warn'),
});

/**
 * How several processes share a run. `zero` is the ZeRO stage: 0 every process holds everything, 1 the optimiser's states are sharded, 2 gradients
 * too, 3 parameters too. It has no effect on one process. `timeout`: seconds that a process waits for the others before the run ends with an error.
 */
export const parallelSchema = z.strictObject({
  zero: z.literal([0, 1, 2, 3], 'must be 0, 1, 2 or 3').default(2),
  timeout: z.number().positive().max(86_400).default(600),
});

/** What the loop reads of a recipe. */
export const loopSchema = z.strictObject({
  optimizer: optimizerSchema,
  schedule: scheduleSchema.prefault({}),
  resetOptimizerAtStage: z.boolean().default(false),
  pretrain: z
    .array(pretrainPhaseSchema)
    .max(100)
    .refine((phases) => new Set(phases.map(({ name }) => name)).size === phases.length, 'two phases have the same name')
    .default([]),
  checkpoint: checkpointSchema.prefault({}),
  guard: guardSchema.prefault({}),
  parallel: parallelSchema.prefault({}),
  /** Also write TensorBoard event files, into the folder tensorboard of the run. */
  tensorboard: z.boolean().default(false),
  /** Folder of the run. */
  out: z.string().min(1),
});

export type LoopOptions = z.output<typeof loopSchema>;
export type OptimizerOptions = z.output<typeof optimizerSchema>;
export type ScheduleOptions = z.output<typeof scheduleSchema>;
export type LatentTrainingOptions = z.output<typeof latentTrainingSchema>;
export type RampOptions = z.output<typeof rampSchema>;
export type PretrainPhaseOptions = z.output<typeof pretrainPhaseSchema>;
export type GuardOptions = z.output<typeof guardSchema>;
export type ParallelOptions = z.output<typeof parallelSchema>;
export type CheckpointOptions = z.output<typeof checkpointSchema>;
