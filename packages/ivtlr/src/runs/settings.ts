/** How the model of a run reasons: what its loss, its validation and the folder it is saved in are told. */
import type { Recipe } from '../config/schema.ts';
import type { LoadedModel, ReasoningSettings } from '../engine/loaded-model.ts';
import type { Task } from '../tasks/task.ts';
import type { Phase } from '../train/schedule.ts';

/** T of a model as it is after `phase`. */
export function latentStepsAfter(recipe: Recipe, phase: Phase): number {
  return phase.kind === 'pretrain' ? 0 : Math.min(phase.index, recipe.latent.maxLatentStage);
}

/** The settings of a model of this recipe that takes `latentSteps` latent steps. */
export function settingsFor(recipe: Recipe, task: Task, opened: LoadedModel, latentSteps: number): ReasoningSettings {
  const { latent } = recipe;
  return {
    task: task.name,
    profile: recipe.profile,
    imageSize: opened.settings.imageSize,
    resize: opened.inputs.resize,
    latents: latentSteps,
    patches: latent.patches ?? opened.family.patches,
    positions: latent.positions,
    pickOrder: latent.pickOrder,
    onExhausted: latent.onExhausted,
    allowRepeats: latent.allowRepeats,
    latentText: latent.latentText,
    latentVision: recipe.mode === 'coconut' ? 'off' : latent.latentVision,
    latentDeepstack: latent.latentDeepstack,
    hideImageFromLatents: latent.hideImageFromLatents,
  };
}
