/** The weights of a Hugging Face folder into a model's modules and back. */
import { join } from 'node:path';
import {
  CheckpointError,
  type DType,
  type Module,
  openCheckpoint,
  StateDictError,
  saveSafetensors,
  skipInit,
  type Tensor,
} from '@ivtlr/torch';
import { UserError } from '../../errors.ts';

/**
 * Makes a model and fills it from a folder, each tensor straight into its place. `make` gets the wanted dtype, or that of the stored weights;
 * `storedName` gives the model's name for a name of the file, null to leave that tensor out.
 * @throws UserError naming the folder and the tensor that is missing, unknown, misshapen or damaged
 */
export function loadWeights<M extends { readonly module: Module }>(
  folder: string,
  dtype: DType | undefined,
  make: (dtype: DType) => M,
  storedName: (name: string) => string | null,
): M {
  try {
    using file = openCheckpoint(folder);
    const model = skipInit(() => make(dtype ?? file.info(file.names()[0]!).dtype));
    try {
      model.module.loadStateDict(file, { rename: storedName });
    } catch (error) {
      model.module.dispose();
      throw error;
    }
    return model;
  } catch (error) {
    if (error instanceof StateDictError)
      throw new UserError(`${folder}: the weights do not fit config.json: ${error.message}`);
    if (error instanceof CheckpointError) throw new UserError(error.message);
    throw error;
  }
}

/** Writes model.safetensors under the module's names; a tied parameter once. */
export function saveWeights(module: Module, folder: string): void {
  const tensors = new Map<string, Tensor>(module.namedParameters());
  saveSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
}
