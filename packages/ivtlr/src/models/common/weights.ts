/** The weights of a Hugging Face folder into a model's modules and back. */
import {
  CheckpointError,
  type DType,
  empty,
  isFloating,
  type Module,
  openCheckpoint,
  StateDictError,
  type StoredTensor,
  skipInit,
  type TensorFile,
} from '@ivtlr/torch';
import { UserError } from '../../errors.ts';
import type { FileContent } from '../../file-contents.ts';
import type { LoadModelOptions } from '../family.ts';

/**
 * Makes a model and fills it from a folder, each tensor straight into its place. `make` gets the wanted dtype, or that of the stored weights;
 * `storedName` gives the model's name for a name of the file, null to leave that tensor out.
 * @throws UserError naming the folder and the tensor that is missing, unknown, misshapen, of whole numbers or damaged
 */
export function loadWeights<M extends { readonly module: Module }>(
  folder: string,
  options: LoadModelOptions,
  make: (options: LoadModelOptions) => M,
  storedName: (name: string) => string | null,
): M {
  try {
    using file = openCheckpoint(folder);
    const stored = checkWeights(folder, file, make, storedName);
    const model = skipInit(() => make({ ...options, dtype: options.dtype ?? stored }));
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

/**
 * Compares the names and shapes in a file with those that the model needs, before any memory is taken: a wrong config.json may ask for more than
 * the machine has. Returns the dtype of the stored weights.
 */
function checkWeights<M extends { readonly module: Module }>(
  folder: string,
  file: TensorFile,
  make: (options: LoadModelOptions) => M,
  storedName: (name: string) => string | null,
): DType {
  const [first] = file.names();
  if (first === undefined) throw new UserError(`${folder}: the file of the weights holds no tensors`);
  for (const name of file.names()) {
    const { dtype } = file.info(name);
    if (storedName(name) !== null && !isFloating(dtype))
      throw new UserError(
        `${folder}: the weight ${name} is of ${dtype}; weights should be float32, bfloat16, float16 or float64, not quantised`,
      );
  }
  // Tensors of the device `meta` have shapes and no memory.
  const sketch = skipInit(() => make({ device: 'meta' }));
  try {
    const headers = {
      names: () => file.names(),
      info: (name: string) => file.info(name),
      read: (name: string) => empty(file.info(name).shape, { device: 'meta' }),
    };
    sketch.module.loadStateDict(headers, { rename: storedName });
  } finally {
    sketch.module.dispose();
  }
  return file.info(first).dtype;
}

/**
 * model.safetensors under the module's names; a tied parameter once.
 * @param weights in place of the module's own: all of its parameters by name
 */
export function weightsFile(
  module: Module,
  weights: ReadonlyMap<string, StoredTensor> = module.namedParameters(),
): FileContent {
  return { name: 'model.safetensors', content: { tensors: weights, metadata: { format: 'pt' } } };
}
