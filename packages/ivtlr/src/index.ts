/** The library behind the `ivtlr` program; docs/library.md shows how its parts go together. */

// Training and converting.
export { checkRecipe, loadRecipe } from './config/load.ts';
export type { Recipe } from './config/schema.ts';
export { type ConvertOptions, type ConvertResult, convertOfficial } from './convert/convert-official.ts';
// The parts that these are made of.
export { type Batch, collate } from './data/collate.ts';
// Tasks and data.
export { writeParquet } from './data/parquet.ts';
export { renderInference, renderTraining, tokenizeSample } from './data/render.ts';
export type { RawImage, Sample } from './data/sample.ts';
// Asking.
export {
  type Answer,
  type AskEvent,
  type AskOptions,
  answer,
  ask,
  type Question,
  type QuestionAskOptions,
} from './engine/ask.ts';
export { bundledModel } from './engine/bundled-model.ts';
export { modelFolder } from './engine/find-folder.ts';
export {
  type LoadedModel,
  latentOptions,
  type OpenModelOptions,
  openModelFolder,
  type ReasoningSettings,
  saveModelFolder,
} from './engine/loaded-model.ts';
export { UserError } from './errors.ts';
// Measuring.
export { type AblationOptions, type AblationRow, ablate, ablationTable } from './eval/ablate.ts';
export { type Analysis, analyze } from './eval/analyze.ts';
export { type EvalReport, type EvalResult, resultTable, toReport } from './eval/report.ts';
export { type AnsweredSample, type EvaluateOptions, evaluate, generatedSamples } from './eval/runner.ts';
export { dataFolder, type HubReport } from './hub/resolve.ts';
export {
  type GenerateEvent,
  type GenerateOptions,
  type GenerateResult,
  generate,
  generateAll,
} from './latent/generate.ts';
export type { TokenLogprobs } from './latent/next-token.ts';
export { ABLATIONS, type Ablation, LATENT_DEFAULTS, type LatentOptions } from './latent/options.ts';
export type { Sampling } from './latent/sampling.ts';
// What latent steps looked at.
export type { StepTrace } from './latent/trace.ts';
export { type AdapterConfig, loadAdapter, saveAdapter } from './lora/adapter-folder.ts';
export { injectLora, loraParameters, mergeLora, removeLora, unmergeLora } from './lora/inject.ts';
export { type LoraOptions, loraSchema } from './lora/options.ts';
export { createModel, loadModel, saveModel } from './models/registry.ts';
export type { ProcessedImage, VisionLanguageModel } from './models/types.ts';
export { type RunRecipeOptions, type RunResult, runRecipe } from './runs/run-recipe.ts';
export { type MakeDominoesOptions, makeDominoes } from './tasks/dominoes/make.ts';
export { encodePng, type MakeFileOptions } from './tasks/make-file.ts';
export {
  type IndexedSample,
  type ReadSamplesOptions,
  readSamples,
  type StreamSamplesOptions,
  streamSamples,
} from './tasks/read-samples.ts';
export { findTask, taskNames } from './tasks/registry.ts';
export { type MakeRelayOptions, makeRelay } from './tasks/relay/make.ts';
export type { Answered, SampleGenerator, Score, Split, Task } from './tasks/task.ts';
export { loadTask } from './tasks/task-file.ts';
export { answerToJson, type TraceFiles, writeTrace } from './trace/trace-files.ts';
export { drawTrace } from './trace/trace-image.ts';
export type { TrainReporter } from './train/loop.ts';
export { type LossOptions, type TrainingLoss, trainingLoss } from './train/loss.ts';
export type { StepMetrics } from './train/metrics.ts';
export { decodeImage } from './vision/decode.ts';
