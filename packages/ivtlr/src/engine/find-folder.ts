/** Where a model's files are. */
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
    if (baseModel !== null) await resolveFolder(baseModel, 'models', modelFile, report);
  }
  return folder;
}
