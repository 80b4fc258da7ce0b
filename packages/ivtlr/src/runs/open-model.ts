/** The model that a run trains: opened from a folder or made with fresh weights, and what of it is trained. */
import { join } from 'node:path';
import type { Recipe } from '../config/schema.ts';
import { modelFolder } from '../engine/find-folder.ts';
import { type LoadedModel, openModelFolder, withModel } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import type { HubReport } from '../hub/resolve.ts';
import { injectLora, loraLayers, mergeLora, removeLora } from '../lora/inject.ts';
import { createModel, saveModel } from '../models/registry.ts';
import type { Ranks } from '../parallel/ranks.ts';
import { writeFreshFolder } from '../tasks/fresh-folder.ts';
import type { Task } from '../tasks/task.ts';
import type { Checkpoint } from '../train/checkpoint.ts';
import { inTurn } from './processes.ts';

/** Opens the checkpoint's model, or that of the recipe. */
export async function openForTraining(
  recipe: Recipe,
  task: Task,
  { device, resume, hub, ranks }: { device: string; resume: Checkpoint | null; hub: HubReport; ranks: Ranks },
): Promise<LoadedModel> {
  const { dtype } = recipe;
  const { profile, imageSize, resize } = recipe;
  // Without `imageSize` or `resize` in the recipe, a stored model keeps the one it knows.
  const settings = { profile, ...(imageSize && { imageSize }), ...(resize && { resize }) };
  const folder = resume?.folder ?? recipe.model.folder;
  if (folder !== undefined)
    return openModelFolder(await inTurn(ranks, () => modelFolder(folder, hub)), {
      ...{ dtype, device, settings, mergeAdapters: false },
    });
  const vocabulary = task.generator?.vocabulary;
  if (!vocabulary) {
    throw new UserError(
      `fresh weights need a vocabulary, which task ${task.name} does not bring along; give model.folder, or take a task that draws its own samples, such as dominoes`,
    );
  }
  const fresh = join(recipe.out, 'init');
  const config = await inTurn(ranks, () => writeFreshFolder(fresh, vocabulary, recipe.model.config!));
  const model = createModel(config, recipe.model.initSeed ?? 0, { dtype, device });
  // Adapters alone are stored later on, so what they adapt must be on disk.
  if (recipe.lora && ranks.rank === 0) saveModel(model, config, fresh);
  return withModel(fresh, config, model, settings);
}

/** Leaves `requiresGrad` on exactly what the recipe trains: adapters of the decoder, or every weight. */
export function chooseTrained(lora: Recipe['lora'], { model: { module }, adapter, folder }: LoadedModel): void {
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
