/** From a recipe to a run that the loop can walk: opens or creates the model, finds the samples, and ties loss and validation to them. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { manualSeed, setFlushDenormal, setNumThreads } from '@ivtlr/torch';
import type { Recipe } from '../config/schema.ts';
import type { BadRows } from '../data/row.ts';
import {
  latentOptions,
  type LoadedModel,
  openModelFolder,
  type ReasoningSettings,
  readAuxiliaryFiles,
  saveAdapterFolder,
  saveModelFolder,
  withModel,
} from '../engine/loaded-model.ts';
import { modelFolder } from '../engine/find-folder.ts';
import { UserError } from '../errors.ts';
import { evaluate, generatedSamples } from '../eval/runner.ts';
import { writeFileAtomic } from '../files.ts';
import { dataFolder, type HubReport } from '../hub/resolve.ts';
import { injectLora, loraLayers, mergeLora, removeLora } from '../lora/inject.ts';
import { createModel, saveModel } from '../models/registry.ts';
import { SPECIAL_TOKENS, writeDominoesTokenizer } from '../tasks/dominoes/vocabulary.ts';
import { streamSamples } from '../tasks/read-samples.ts';
import type { Task } from '../tasks/task.ts';
import { loadTask } from '../tasks/task-file.ts';
import { Tokenizer } from '../text/tokenizer.ts';
import { BatchMaker, disposeBatches } from '../train/batches.ts';
import type { Checkpoint } from '../train/checkpoint.ts';
import type { TrainReporter, TrainRun } from '../train/loop.ts';
import { trainingLoss } from '../train/loss.ts';
import { describeMemory, estimateMemory } from '../train/memory.ts';
import { type Phase, planRun, positionOf } from '../train/schedule.ts';
import type { Trainee } from '../train/step.ts';
import { openTrainingData, type TrainingData } from './training-data.ts';

export interface AssembledRun extends TrainRun, Disposable {
  /** One line on what the run needs in memory, before it starts. */
  describeMemory(): Promise<string>;
}

/** Builds the run; `dispose` frees the model. `hub` hears of what is fetched. @throws UserError for anything the recipe asks for that cannot be had */
export async function assembleRun(
  recipe: Recipe,
  resume: Checkpoint | null,
  reporter: TrainReporter,
  stopRequested: () => string | null,
  hub: HubReport = {},
): Promise<AssembledRun> {
  const task = await loadTask(recipe.task);
  if (recipe.threads !== null) setNumThreads(recipe.threads);
  setFlushDenormal(true);
  const draws = pretrainingDraws(recipe, task);
  if (recipe.data.source === 'fresh' && !task.generator) {
    throw new UserError(`task ${task.name} has no generator, so data.source cannot be fresh`);
  }
  const opened = await openForTraining(recipe, task, resume, hub);
  try {
    return await assembleWith(opened, { recipe, task, draws, resume, reporter, stopRequested, hub });
  } catch (error) {
    opened.model.module.dispose();
    throw error;
  }
}

interface Parts {
  recipe: Recipe;
  task: Task;
  draws: ReturnType<typeof pretrainingDraws>;
  resume: Checkpoint | null;
  reporter: TrainReporter;
  stopRequested: () => string | null;
  hub: HubReport;
}

async function assembleWith(opened: LoadedModel, parts: Parts): Promise<AssembledRun> {
  const { recipe, task, draws, resume, reporter, stopRequested, hub } = parts;
  // A hub name is looked up once.
  const folder = recipe.data.folder === null ? null : await dataFolder(recipe.data.folder, hub);
  const source = await openSource(recipe, task, folder, opened, reporter);
  const stepsPerEpoch = Math.ceil(source.samplesPerEpoch / recipe.globalBatch);
  const plan = planRun(recipe.pretrain, recipe.numEpochs, stepsPerEpoch, (epoch) => stageOf(recipe, epoch));
  if (plan.totalSteps === 0) throw new UserError('the recipe has no steps: numEpochs is 0 and pretrain is empty');
  manualSeed(recipe.seed);
  chooseTrained(recipe, opened);
  opened.model.module.train();
  const maker = new BatchMaker(source, draws, source.processImage, {
    seed: recipe.seed,
    globalBatch: recipe.globalBatch,
    microBatch: recipe.microBatch,
    answerOnly: recipe.mode === 'no-cot',
    latent: recipe.latent,
    pretrain: recipe.pretrain,
    render: { ...opened.renderOptions(task.name), maxSteps: recipe.maxSteps },
    padId: opened.tokenizer.eosId,
  });
  const { samples, everyEpochs, batch, maxNewTokens } = recipe.data.validation;
  const trained = trainee(recipe, task, opened);
  const noteBadRow = badRowNotes(recipe, reporter);
  return {
    plan,
    trainee: trained,
    async describeMemory() {
      const micros = await maker.at(positionOf(plan, resume?.state.step ?? 0));
      const { inputIds } = micros[0]!.batch;
      const latentRows = Math.max(...plan.phases.map((phase) => latentsAfter(recipe, phase)));
      const needs = {
        rows: recipe.microBatch,
        columns: inputIds[0]!.length + latentRows * (patchesOf(recipe, opened) + 1),
        vocabularySize: opened.model.vocabularySize,
        activationCheckpointing: recipe.activationCheckpointing,
      };
      disposeBatches(micros);
      return describeMemory(estimateMemory(opened.model.module, trained.parameters, needs), needs);
    },
    batches: (position) => maker.at(position),
    validates: ({ epoch, epochEnd, phaseEnd }) =>
      samples > 0 && (phaseEnd || (epochEnd && everyEpochs !== null && (epoch + 1) % everyEpochs === 0)),
    validate: async ({ phase }) => {
      opened.model.module.eval();
      const held = heldOut(recipe, task, folder, samples, noteBadRow);
      const settings = settingsFor(recipe, task, opened, latentsAfter(recipe, phase));
      const result = await evaluate({ ...opened, settings }, task, held, {
        ...{ name: 'validation', batch, maxNewTokens },
        imageThreads: folder === null ? 0 : recipe.data.threads,
      });
      opened.model.module.train();
      return {
        accuracy: result.correctStrict / result.samples,
        samples: result.samples,
        autoregressiveSteps: result.autoregressiveSteps,
      };
    },
    optimizer: recipe.optimizer,
    schedule: recipe.schedule,
    pretrain: recipe.pretrain,
    resetOptimizerAtStage: recipe.resetOptimizerAtStage,
    checkpoint: recipe.checkpoint,
    guard: recipe.guard,
    tensorboard: recipe.tensorboard,
    device: recipe.device,
    out: recipe.out,
    recipe,
    resume,
    reporter,
    stopRequested,
    [Symbol.dispose]() {
      void source.close(); // idle threads do not keep the program alive
      opened.model.module.dispose();
    },
  };
}

/** Latent stage of an epoch. Without latent steps every epoch is stage 0. */
export function stageOf({ mode, latent }: Recipe, epoch: number): number {
  if (mode === 'cot' || mode === 'no-cot') return 0;
  const { epochsPerStage } = latent;
  if (typeof epochsPerStage === 'number') return Math.floor(epoch / epochsPerStage);
  let end = 0;
  for (const [stage, epochs] of epochsPerStage.entries()) {
    end += epochs;
    if (epoch < end) return stage;
  }
  return epochsPerStage.length - 1;
}

/** Leaves `requiresGrad` on exactly what the recipe trains: adapters, or every weight. */
function chooseTrained({ lora }: Recipe, { model: { module }, adapter, folder }: LoadedModel): void {
  if (!lora) {
    // Whoever trains all weights of an adapted model wants the adapter's work in them.
    mergeLora(module);
    removeLora(module);
    module.setRequiresGrad(true);
    return;
  }
  if (!adapter) {
    injectLora(module, lora);
    return;
  }
  const targets = (names: readonly string[]) => [...names].sort().join(', ');
  if (
    adapter.rank !== lora.rank ||
    adapter.alpha !== lora.alpha ||
    targets(adapter.targets) !== targets(lora.targets)
  ) {
    throw new UserError(
      `lora: the adapter to go on with has rank ${adapter.rank}, alpha ${adapter.alpha} and targets ${targets(adapter.targets)} ` +
        `(its base is ${folder}); the recipe asks for rank ${lora.rank}, alpha ${lora.alpha} and targets ${targets(lora.targets)}`,
    );
  }
  for (const layer of loraLayers(module).values()) layer.dropout = lora.dropout;
}

function trainee(recipe: Recipe, task: Task, opened: LoadedModel): Trainee {
  const { latent } = recipe;
  const settings = settingsFor(recipe, task, opened, 0);
  const auxiliaryFiles = readAuxiliaryFiles(opened.folder);
  const parameters = [...opened.model.module.namedParameters()].filter(([, parameter]) => parameter.requiresGrad);
  return {
    parameters: new Map(parameters),
    loss: ({ batch }) =>
      trainingLoss(opened.model, batch, {
        ...latentOptions(settings),
        latentGradient: latent.latentGradient,
        pickSupervision: latent.pickSupervision,
        activationCheckpointing: recipe.activationCheckpointing,
      }),
    save: (target, phase) => {
      const { model, config, folder } = opened;
      const settings = settingsFor(recipe, task, opened, latentsAfter(recipe, phase));
      if (recipe.lora) saveAdapterFolder({ model, settings, folder }, recipe.lora, target);
      else saveModelFolder({ model, config, settings }, auxiliaryFiles, target);
    },
  };
}

/** T of a model as it is after `phase`. */
function latentsAfter(recipe: Recipe, phase: Phase): number {
  return phase.kind === 'pretrain' ? 0 : Math.min(phase.index, recipe.latent.maxLatentStage);
}

/** K */
function patchesOf({ latent }: Recipe, { family }: LoadedModel): number {
  return latent.patches ?? family.patches;
}

/** How a model of this recipe reasons, with `latents` latent steps. */
function settingsFor(recipe: Recipe, task: Task, opened: LoadedModel, latents: number): ReasoningSettings {
  const { latent } = recipe;
  return {
    task: task.name,
    profile: recipe.profile,
    imageSize: opened.settings.imageSize,
    latents,
    patches: patchesOf(recipe, opened),
    positions: latent.positions,
    pickOrder: latent.pickOrder,
    onExhausted: latent.onExhausted,
    allowRepeats: latent.allowRepeats,
    latentText: latent.latentText,
    latentVision: recipe.mode === 'coconut' ? 'off' : latent.latentVision,
    hideImageFromLatents: latent.hideImageFromLatents,
  };
}

async function openForTraining(
  recipe: Recipe,
  task: Task,
  resume: Checkpoint | null,
  hub: HubReport,
): Promise<LoadedModel> {
  const { dtype, device } = recipe;
  const settings = { profile: recipe.profile };
  const folder = resume?.folder ?? recipe.model.folder;
  if (folder !== undefined) return openModelFolder(await modelFolder(folder, hub), { dtype, device, settings });
  const fresh = join(recipe.out, 'init');
  const config = writeFreshFolder(fresh, task, recipe.model.config!);
  const model = createModel(config, recipe.model.initSeed ?? 0, { dtype, device });
  // Adapters alone are stored later on, so what they adapt must be on disk.
  if (recipe.lora) saveModel(model, config, fresh);
  return withModel(fresh, config, model, settings);
}

/** Everything of a model folder but the weights, for a model that starts from nothing. Returns the completed config.json. */
function writeFreshFolder(folder: string, task: Task, given: Record<string, unknown>): Record<string, unknown> {
  if (task.name !== 'dominoes') {
    throw new UserError(
      `fresh weights need a vocabulary, which only task dominoes brings along; give model.folder for task ${task.name}`,
    );
  }
  mkdirSync(folder, { recursive: true });
  writeDominoesTokenizer(folder);
  const tokenizer = Tokenizer.fromFolder(folder);
  const [endOfText, visionStart, visionEnd, imagePad] = SPECIAL_TOKENS.map((token) => tokenizer.tokenToId(token)!);
  const config = {
    ...given,
    vocab_size: tokenizer.vocabSize,
    eos_token_id: endOfText,
    vision_start_token_id: visionStart,
    vision_end_token_id: visionEnd,
    image_token_id: imagePad,
  };
  const preprocessor = {
    min_pixels: 28 * 28,
    max_pixels: 28 * 28 * 64,
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.5, 0.5, 0.5],
  };
  writeFileAtomic(join(folder, 'preprocessor_config.json'), `${JSON.stringify(preprocessor, null, 2)}\n`);
  return config;
}

async function openSource(
  recipe: Recipe,
  task: Task,
  folder: string | null,
  opened: LoadedModel,
  reporter: TrainReporter,
): Promise<TrainingData> {
  const { source, samplesPerEpoch, threads } = recipe.data;
  if (source === 'fresh') {
    const generator = task.generator!;
    const total = samplesPerEpoch!;
    return {
      samplesPerEpoch: total,
      sample: async (epoch, place) => generator.sample(recipe.seed, 'train', epoch * total + place),
      processImage: opened.processImage,
      close: async () => {},
    };
  }
  return openTrainingData(folder!, task, opened.inputs, {
    seed: recipe.seed,
    columnNames: recipe.data.columns,
    samplesPerEpoch: samplesPerEpoch ?? undefined,
    epochs: recipe.numEpochs,
    threads,
    ahead: 2 * recipe.globalBatch,
    onBad: badRowNotes(recipe, reporter),
  });
}

/** Says which rows are left out, each once; undefined when they are errors. */
function badRowNotes({ data }: Recipe, reporter: TrainReporter): ((bad: BadRows) => void) | undefined {
  if (data.onBadRow === 'error') return undefined;
  const said = new Set<string>();
  return ({ place, message, rows }) => {
    if (said.has(place)) return;
    said.add(place);
    reporter.note(`${place}: left out ${rows} ${rows === 1 ? 'row' : 'rows'}: ${message}`);
  };
}

/** Held-out samples: never drawn from the training stream or split. */
function heldOut(recipe: Recipe, task: Task, folder: string | null, count: number, onBad?: (bad: BadRows) => void) {
  if (folder === null) return generatedSamples(task, recipe.seed, 'validation', count);
  return streamSamples(folder, task, { split: 'validation', limit: count, columnNames: recipe.data.columns, onBad });
}

function pretrainingDraws(recipe: Recipe, task: Task) {
  const known = task.generator?.pretraining ?? {};
  for (const [i, phase] of recipe.pretrain.entries()) {
    for (const [j, { task: name }] of phase.mix.entries()) {
      if (!Object.hasOwn(known, name)) {
        const names = Object.keys(known).join(', ') || 'none';
        throw new UserError(
          `pretrain.${i}.mix.${j}.task: task ${task.name} has no pretraining text "${name}"; it has ${names}`,
        );
      }
    }
  }
  return known;
}
