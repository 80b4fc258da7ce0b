/** A recipe: one YAML file describes one complete run. Parts are declared beside the component that reads them and composed here. */
import { z } from 'zod';
import { DEVICE_NAME } from '../engine/device.ts';
import { loraSchema } from '../lora/options.ts';
import { dataSchema, latentTrainingSchema, loopSchema, rowCount } from '../train/options.ts';
import { IMAGE_SIZE, RESIZE_RULES } from '../vision/resize.ts';

/**
 * Which model to train: a Hugging Face folder (an earlier run's model folder too), or `config` (the contents of a config.json) for fresh
 * weights drawn from `initSeed`. A plain string means the folder.
 */
export const modelSourceSchema = z.preprocess(
  (value) => (typeof value === 'string' ? { folder: value } : value),
  z
    .strictObject({
      folder: z.string().optional(),
      config: z.record(z.string(), z.unknown()).optional(),
      initSeed: z.int().min(0).optional(),
    })
    .superRefine((value, context) => {
      if ((value.folder === undefined) === (value.config === undefined)) {
        context.addIssue({
          code: 'custom',
          message: 'give exactly one of folder (existing weights) and config (fresh weights)',
        });
      }
      if (value.folder !== undefined && value.initSeed !== undefined) {
        context.addIssue({
          code: 'custom',
          path: ['initSeed'],
          message: 'initSeed is for fresh weights; folder already has weights',
        });
      }
    }),
);

/**
 * `ivt-lr`: the latent curriculum. `coconut`: the same with latent text only, no picked patches. `cot`: stage 0 for ever (written
 * reasoning). `no-cot`: the answer alone, no reasoning steps and no latent steps.
 */
export const trainModes = ['ivt-lr', 'coconut', 'cot', 'no-cot'] as const;

export const recipeSchema = z
  .strictObject({
    task: z.string(),
    mode: z.enum(trainModes).default('ivt-lr'),
    model: modelSourceSchema,
    profile: z.enum(['official', 'consistent']).default('consistent'),
    /** What every image is brought to, such as 512x512, or native; null: as stored with the model, else as the profile has it. */
    imageSize: z.string().regex(IMAGE_SIZE, 'should be native or WIDTHxHEIGHT').nullable().default(null),
    /** How images are resized (vision/resize.ts); null: as stored with the model, else as the profile has it. */
    resize: z.enum(RESIZE_RULES).nullable().default(null),
    /** Most pieces a rationale is cut into (official 3). */
    maxSteps: z.int().positive().max(1000).default(3),
    seed: z.int().min(0).default(0),
    threads: z.int().positive().max(1024).nullable().default(null),
    device: z.string().regex(DEVICE_NAME, 'must be auto, cpu, cuda or cuda:N').default('auto'),
    dtype: z.enum(['float32', 'bfloat16', 'float16']).default('float32'),
    /** Use only kernels that give the same bits every time: a GPU has faster ones that do not. A run that goes on then equals the unbroken one there, too. */
    deterministic: z.boolean().default(false),
    latent: latentTrainingSchema,
    /** Train low-rank adapters on frozen weights; null trains every weight. */
    lora: loraSchema.nullable().default(null),
    /** Run each decoder layer again in the backward pass instead of keeping its activations. */
    activationCheckpointing: z.boolean().default(false),
    globalBatch: rowCount,
    /** Rows that go through the model at once; gradients add up until `globalBatch` rows are seen. */
    microBatch: rowCount,
    numEpochs: z.int().min(0).max(100_000),
    data: dataSchema,
    ...loopSchema.shape,
  })
  .superRefine((recipe, context) => {
    const issue = (path: (string | number)[], message: string) => context.addIssue({ code: 'custom', path, message });
    if (recipe.globalBatch % recipe.microBatch !== 0) {
      issue(
        ['microBatch'],
        `must divide globalBatch (${recipe.globalBatch}), so that the accumulation is a whole number`,
      );
    }
    if (recipe.data.source === 'fresh' && recipe.data.samplesPerEpoch === null) {
      issue(['data'], 'source fresh needs samplesPerEpoch, the number of samples drawn for one epoch');
    }
    if (recipe.data.source === 'fresh' && recipe.data.folder !== null) {
      issue(['data', 'folder'], 'is read only with source folder');
    }
    if (recipe.data.source === 'folder' && recipe.data.folder === null) {
      issue(['data'], 'source folder needs folder, the place of the Parquet files');
    }
    const { latentGradient, pickSupervision, carrySupervision } = recipe.latent;
    if (
      recipe.activationCheckpointing &&
      (latentGradient === 'through' || pickSupervision > 0 || carrySupervision > 0)
    ) {
      issue(
        ['activationCheckpointing'],
        'needs latent.latentGradient detached, latent.pickSupervision 0 and latent.carrySupervision 0',
      );
    }
    const perStage = recipe.latent.epochsPerStage;
    if (Array.isArray(perStage) && perStage.length > recipe.latent.maxLatentStage + 2) {
      issue(
        ['latent', 'epochsPerStage'],
        `lists more stages than maxLatentStage ${recipe.latent.maxLatentStage} allows`,
      );
    }
    for (const key of ['pickSupervision', 'carrySupervision'] as const)
      if (recipe.mode !== 'ivt-lr' && recipe.mode !== 'coconut' && recipe.latent[key] > 0)
        issue(['latent', key], `mode ${recipe.mode} has no latent steps to supervise; leave it 0`);
  });

export type Recipe = z.output<typeof recipeSchema>;
