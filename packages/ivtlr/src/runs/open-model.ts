/** The model that a run trains: opened from a folder or made with fresh weights, and what of it is trained. */
import { join } from 'node:path';
import type { Recipe } from '../config/schema.ts';
import { modelFolder } from '../engine/find-folder.ts';
import { type LoadedModel, openModelFolder, withModel } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import type { HubReport } from '../hub/resolve.ts';
import { injectLora, loraLayers, mergeLora, removeLora } from '../lora/inject.ts';
import { createHollowModel, createModel, saveModel } from '../models/registry.ts';
import type { Ranks } from '../parallel/ranks.ts';
import { writeFreshFolder } from '../tasks/fresh-folder.ts';
import type { Task } from '../tasks/task.ts';
import type { Checkpoint } from '../train/checkpoint.ts';
import { inTurn } from './processes.ts';

/**
 * Opens the checkpoint's model, or that of the recipe. With several processes its parameters are without values until each process takes what it
 * keeps of them (`fill`).
 */
export async function openForTraining(
  recipe: Recipe,
  task: Task,
  { device, resume, hub, ranks }: { device: string; resume: Checkpoint | null; hub: HubReport; ranks: Ranks },
): Promise<LoadedModel> {
  const { dtype } = recipe;
  const { profile, imageSize, resize } = recipe;
  // Without `imageSize` or `resize` in the recipe, a stored model keeps the one it knows.
  const settings = { profile, ...(imageSize && { imageSize }), ...(resize && { resize }) };
  const hollow = ranks.size > 1;
  const options = { dtype, device, settings, hollow, mergeAdapters: false };
  const folder = resume?.folder ?? recipe.model.folder;
  if (folder !== undefined) return openModelFolder(await inTurn(ranks, () => modelFolder(folder, hub)), options);
  const vocabulary = task.generator?.vocabulary;
  if (!vocabulary) {
    throw new UserError(
      `fresh weights need a vocabulary, which task ${task.name} does not bring along; give model.folder, or take a task that draws its own samples, such as dominoes`,
    );
  }
  const fresh = join(recipe.out, 'init');
  const config = await inTurn(ranks, () => writeFreshFolder(fresh, vocabulary, recipe.model.config!));
  const seed = recipe.model.initSeed ?? 0;
  if (recipe.lora) {
    // Adapters alone are stored later on, so what they adapt must be on disk. For that the first process has all of it for a moment.
    await inTurn(ranks, () => {
      if (ranks.rank > 0) return;
      const model = createModel(config, seed, { dtype, device });
      saveModel(model, config, fresh);
      model.module.dispose();
    });
    return openModelFolder(fresh, options);
  }
  const { model, fill } = hollow
    ? createHollowModel(config, seed, { dtype, device })
    : { model: createModel(config, seed, { dtype, device }), fill: null };
  return { ...withModel(fresh, config, model, settings), fill };
}

/** Leaves `requiresGrad` on exactly what the recipe trains: adapters of the decoder, or every weight. */
export function chooseTrained(lora: Recipe['lora'], opened: LoadedModel): void {
  const { adapter, folder } = opened;
  const { module } = opened.model;
  if (!lora) {
    // Whoever trains all weights of an adapted model wants the adapter's work in them, for which all of them must be there.
    if (adapter) {
      opened.fill?.(() => false);
      opened.fill = null;
    }
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
