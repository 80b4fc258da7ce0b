/** How the model of a run reasons: what its loss, its validation and the folder it is saved in are told. */
import type { Recipe } from '../config/schema.ts';
import type { LoadedModel, ReasoningSettings } from '../engine/loaded-model.ts';
import { replacesAllSteps } from '../latent/curriculum.ts';
import type { Task } from '../tasks/task.ts';
import type { Phase } from '../train/schedule.ts';

/** The latent stage that a model has been through after `phase`. */
export function stageAfter(phase: Phase): number {
  return phase.kind === 'pretrain' ? 0 : phase.index;
}

/** The settings of a model of this recipe in a latent stage. */
export function settingsFor(recipe: Recipe, task: Task, opened: LoadedModel, stage: number): ReasoningSettings {
  const { latent } = recipe;
  return {
    task: task.name,
    profile: recipe.profile,
    imageSize: opened.settings.imageSize,
    resize: opened.inputs.resize,
    latents: Math.min(stage, latent.maxLatentStage),
    patches: latent.patches ?? opened.family.patches,
    positions: latent.positions,
    pickOrder: latent.pickOrder,
    onExhausted: latent.onExhausted,
    allowRepeats: latent.allowRepeats,
    latentText: latent.latentText,
    latentVision: recipe.mode === 'coconut' ? 'off' : latent.latentVision,
    latentDeepstack: latent.latentDeepstack,
    hideImageFromLatents: latent.hideImageFromLatents,
    latentMemory: latent.latentMemory,
    hideImageFromText: latent.hideImageFromAnswer && replacesAllSteps(stage, latent, recipe.maxSteps),
  };
}
