/** Where a model's files are. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type HubReport, modelFile, resolveFolder } from '../hub/resolve.ts';
import { isAdapterFolder, readAdapterConfig } from '../lora/adapter-folder.ts';

/**
 * The folder of a model, given by its path or hub name; what is missing is fetched, of an adapter the base as well.
 * @throws UserError for a hub name that neither cache nor hub has
 */
export async function modelFolder(name: string, report: HubReport = {}): Promise<string> {
  const folder = await resolveFolder(name, 'models', modelFile, report);
  if (isAdapterFolder(folder)) {
    const { baseModel } = readAdapterConfig(folder);
    // A base that lies beside its adapter is found when the model is opened.
    const isBeside = (name: string) =>
      [folder, join(folder, '..')].some((at) => existsSync(join(at, name, 'config.json')));
    if (baseModel !== null && !isBeside(baseModel)) await resolveFolder(baseModel, 'models', modelFile, report);
  }
  return folder;
}
