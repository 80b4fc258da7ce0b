/** A model folder opened by a process that will answer with it. */
import { setBlockPool } from '@ivtlr/torch';
import { type LoadedModel, type OpenModelOptions, openModelFolder } from './loaded-model.ts';

/** Memory of freed tensors that is kept for the next ones: some of the largest that the layers of a picture or a long prompt make. */
const WAITING_BYTES = 256 * 2 ** 20;

/**
 * Opens a model folder in evaluation mode. Where the model is on the CPU, memory of tensors is used again from now on instead of going back to the
 * system and coming from it cleared, which took a quarter of a picture's time.
 * @throws UserError naming the file that is missing or wrong
 */
export function openToAnswer(path: string, options: OpenModelOptions = {}): LoadedModel {
  const opened = openModelFolder(path, options);
  opened.model.module.eval();
  if (opened.model.device === 'cpu') setBlockPool(true, WAITING_BYTES);
  return opened;
}
