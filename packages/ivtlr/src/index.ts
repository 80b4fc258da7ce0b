/** The library behind the `ivtlr` program. */
export { type Batch, collate } from './data/collate.ts';
export { renderInference, renderTraining, tokenizeSample } from './data/render.ts';
export type { RawImage, Sample } from './data/sample.ts';
export { type Answer, type AskEvent, type AskOptions, answer, ask, type Question } from './engine/ask.ts';
export { bundledModel } from './engine/bundled-model.ts';
export { type LoadedModel, latentOptions, openModelFolder, saveModelFolder } from './engine/loaded-model.ts';
export { UserError } from './errors.ts';
export {
  type GenerateEvent,
  type GenerateOptions,
  type GenerateResult,
  generate,
  generateAll,
} from './latent/generate.ts';
export { ABLATIONS, LATENT_DEFAULTS, type LatentOptions } from './latent/options.ts';
export type { StepTrace } from './latent/trace.ts';
export { type AdapterConfig, loadAdapter, saveAdapter } from './lora/adapter-folder.ts';
export { injectLora, loraParameters, mergeLora, removeLora, unmergeLora } from './lora/inject.ts';
export { type LoraOptions, loraSchema } from './lora/options.ts';
export { createModel, loadModel, saveModel } from './models/registry.ts';
export type { ProcessedImage, VisionLanguageModel } from './models/types.ts';
export { findTask } from './tasks/registry.ts';
export type { SampleGenerator, Score, Split, Task } from './tasks/task.ts';
export { type LossOptions, type TrainingLoss, trainingLoss } from './train/loss.ts';
