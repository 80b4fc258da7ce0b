/** From a recipe to a run that the loop can walk: ties model, samples, loss and validation together. */
import {
  manualSeed,
  type ProcessGroup,
  setDeterministic,
  setFlushDenormal,
  setNumThreads,
  withoutGaps,
} from '@ivtlr/torch';
import type { Recipe } from '../config/schema.ts';
import {
  adapterFolderFiles,
  type LoadedModel,
  latentOptions,
  modelFolderFiles,
  readAuxiliaryFiles,
} from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import { dataFolder, type HubReport } from '../hub/resolve.ts';
import { stageOf } from '../latent/curriculum.ts';
import { ALONE, type Ranks } from '../parallel/ranks.ts';
import { ShardedParameters } from '../parallel/sharded-parameters.ts';
import { ShardedUpdate } from '../parallel/sharded-update.ts';
import { streamSamples } from '../tasks/read-samples.ts';
import type { Task } from '../tasks/task.ts';
import { loadTask } from '../tasks/task-file.ts';
import { BatchMaker, disposeBatches } from '../train/batches.ts';
import type { Checkpoint, RunInputs } from '../train/checkpoint.ts';
import { adamWOptions, type TrainReporter, type TrainRun } from '../train/loop.ts';
import { trainingLoss } from '../train/loss.ts';
import { describeMemory, estimateMemory } from '../train/memory.ts';
import { type Plan, planRun, positionOf } from '../train/schedule.ts';
import type { Trainee } from '../train/step.ts';
import { chooseTrained, openForTraining } from './open-model.ts';
import { inTurn, StorePeers, together } from './processes.ts';
import { requireSameInputs, runInputs } from './run-inputs.ts';
import { settingsFor, stageAfter } from './settings.ts';
import { trainable } from './trainable.ts';
import { badRowNotes, openSource, pretrainingTexts } from './training-data.ts';
import { heldOutValidation, requireHeldOut } from './validation.ts';

export interface AssembledRun extends TrainRun, Disposable {
  /** One line on what the run needs in memory, before it starts. */
  describeMemory(): Promise<string>;
}

/** What a run is told besides its recipe. */
export interface RunContext {
  /** `cpu`, `cuda` or `cuda:N`: what the recipe's device has turned out to be. */
  device: string;
  resume: Checkpoint | null;
  reporter: TrainReporter;
  /** Hears of what is fetched from the hub. */
  hub: HubReport;
  stopRequested(): string | null;
  /** The processes of the run; default: this one alone. */
  ranks?: Ranks;
  group?: ProcessGroup | null;
}

/** Builds the run; `dispose` frees the model. @throws UserError for anything the recipe asks for that cannot be had */
export async function assembleRun(recipe: Recipe, context: RunContext): Promise<AssembledRun> {
  const task = await loadTask(recipe.task);
  if (recipe.threads !== null) setNumThreads(recipe.threads);
  if (recipe.deterministic) setDeterministic(true);
  setFlushDenormal(true);
  const texts = pretrainingTexts(recipe, task);
  if (recipe.data.source === 'fresh' && !task.generator) {
    throw new UserError(`task ${task.name} has no generator, so data.source cannot be fresh`);
  }
  return withoutGaps(async () => {
    const opened = await openForTraining(recipe, task, { ranks: ALONE, ...context });
    try {
      return await assembleWith(opened, recipe, task, texts, context);
    } catch (error) {
      opened.model.module.dispose();
      throw error;
    }
  });
}

async function assembleWith(
  opened: LoadedModel,
  recipe: Recipe,
  task: Task,
  texts: ReturnType<typeof pretrainingTexts>,
  context: RunContext,
): Promise<AssembledRun> {
  // A hub name is looked up once.
  const { ranks = ALONE, group = null } = context;
  const named = recipe.data.folder;
  const folder = named === null ? null : await inTurn(ranks, () => dataFolder(named, context.hub));
  const inputs = await together(ranks, () => (ranks.rank === 0 ? inputsOf(recipe, folder, context.resume) : {}));
  const onBad = badRowNotes(recipe, context.reporter);
  await together(ranks, () => requireHeldOut(recipe, folder));
  const { patches, latentVision } = settingsFor(recipe, task, opened, recipe.latent.maxLatentStage);
  const rendering = {
    answerOnly: recipe.mode === 'no-cot',
    latent: recipe.latent,
    render: { ...opened.renderOptions(task.name), maxSteps: recipe.maxSteps },
    maxPositions: opened.model.maxPositions,
    patches: latentVision === 'off' ? 0 : patches,
  };
  const usable = trainable(recipe, opened.inputs, rendering);
  const source = await openSource(recipe, task, folder, opened, ranks, { onBad, usable });
  await noteSupervision(recipe, task, folder, context.reporter);
  const plan = planOf(recipe, source.samplesPerEpoch);
  manualSeed(recipe.seed);
  chooseTrained(recipe.lora, opened);
  opened.model.module.train();
  const maker = new BatchMaker(source, texts, source.processImage, {
    seed: recipe.seed,
    globalBatch: recipe.globalBatch,
    microBatch: recipe.microBatch,
    ...rendering,
    pretrain: recipe.pretrain,
    padId: opened.tokenizer.eosId,
    rank: ranks.rank,
    processes: ranks.size,
  });
  const trainee = traineeOf(recipe, task, opened);
  const { model } = opened;
  const sharding = { byDepth: recipe.latent.latentGradient === 'detached', fill: opened.fill };
  const sharded = group && new ShardedParameters(group, model.module, model.parts(), recipe.parallel.zero, sharding);
  return {
    ...context,
    recipe,
    plan,
    inputs,
    trainee,
    peers: group ? new StorePeers(group) : undefined,
    ...(sharded && { update: new ShardedUpdate(sharded, adamWOptions(recipe.optimizer)) }),
    batches: (position) => maker.at(position),
    validation: heldOutValidation(recipe, task, opened, folder, ranks, onBad),
    async describeMemory() {
      const micros = await maker.at(positionOf(plan, context.resume?.state.step ?? 0));
      const { inputIds } = micros[0]!.batch;
      const { latents, patches } = settingsFor(recipe, task, opened, Math.max(...plan.phases.map(stageAfter)));
      const needs = {
        rows: recipe.microBatch,
        columns: inputIds[0]!.length + latents * (patches + 1),
        vocabularySize: opened.model.vocabularySize,
        activationCheckpointing: recipe.activationCheckpointing,
        processes: ranks.size,
        zero: recipe.parallel.zero,
      };
      disposeBatches(micros);
      return describeMemory(estimateMemory(opened.model.module, trainee.parameters, needs), needs);
    },
    [Symbol.dispose]() {
      void source.close(); // idle threads do not keep the program alive
      opened.model.module.dispose();
    },
  };
}

/** Says when the first sample lacks what the recipe wants latent steps to be taught, so that nothing is taught by it. */
async function noteSupervision(
  { latent, data, seed }: Recipe,
  task: Task,
  folder: string | null,
  reporter: TrainReporter,
): Promise<void> {
  const wanted = [
    { key: 'pickSupervision', field: 'pickTargets' },
    { key: 'carrySupervision', field: 'carried' },
  ] as const;
  if (wanted.every(({ key }) => latent[key] === 0)) return;
  const options = { split: 'train', limit: 1, columnNames: data.columns, onBad: () => {} };
  const samples = folder === null ? [task.generator!.sample(seed, 'train', 0)] : streamSamples(folder, task, options);
  for await (const sample of samples)
    for (const { key, field } of wanted)
      if (latent[key] > 0 && sample[field] === undefined)
        reporter.note(
          `latent.${key} is ${latent[key]}, but samples of task ${task.name} have no ${field}, so nothing is taught by it`,
        );
}

/** What the run reads and is stored with it. @throws UserError when a resumed run was started with something else */
async function inputsOf(recipe: Recipe, folder: string | null, resume: Checkpoint | null): Promise<RunInputs> {
  const inputs = await runInputs(recipe, folder);
  if (resume) requireSameInputs(resume, inputs);
  return { ...resume?.state.inputs, ...inputs };
}

function planOf(recipe: Recipe, samplesPerEpoch: number): Plan {
  const { mode, latent, pretrain, numEpochs, globalBatch } = recipe;
  const hasLatentSteps = mode === 'ivt-lr' || mode === 'coconut';
  const plan = planRun(pretrain, numEpochs, Math.ceil(samplesPerEpoch / globalBatch), (epoch) =>
    hasLatentSteps ? stageOf(epoch, latent.epochsPerStage) : 0,
  );
  if (plan.totalSteps === 0) throw new UserError('the recipe has no steps: numEpochs is 0 and pretrain is empty');
  return plan;
}

function traineeOf(recipe: Recipe, task: Task, opened: LoadedModel): Trainee {
  const { latentGradient, pickSupervision, carrySupervision } = recipe.latent;
  const auxiliaryFiles = readAuxiliaryFiles(opened.folder);
  const parameters = [...opened.model.module.namedParameters()].filter(([, parameter]) => parameter.requiresGrad);
  return {
    parameters: new Map(parameters),
    savesTrainedOnly: recipe.lora !== null,
    loss: ({ batch, stage }, observer = null) =>
      trainingLoss(opened.model, batch, {
        observer,
        ...latentOptions(settingsFor(recipe, task, opened, stage)),
        latentGradient,
        pickSupervision,
        carrySupervision,
        activationCheckpointing: recipe.activationCheckpointing,
      }),
    files: (phase, weights) => {
      const { model, config, folder } = opened;
      const settings = settingsFor(recipe, task, opened, stageAfter(phase));
      if (recipe.lora) return adapterFolderFiles({ model, settings, folder }, recipe.lora, weights);
      return modelFolderFiles({ model, config, settings }, auxiliaryFiles, weights);
    },
  };
}
