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
  setStorageBytes,
  skipInit,
  type Tensor,
  type TensorFile,
  withoutMemory,
} from '@ivtlr/torch';
import { UserError } from '../../errors.ts';
import type { FileContent } from '../../file-contents.ts';
import type { LoadModelOptions } from '../family.ts';
import type { FillParameters } from '../types.ts';

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
  return explained(folder, () => {
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
  });
}

/** As loadWeights, with a model whose parameters have no memory before `fill`, which reads them one by one. `fill` may throw a UserError, too. */
export function loadWeightsLater<M extends { readonly module: Module }>(
  folder: string,
  options: LoadModelOptions,
  make: (options: LoadModelOptions) => M,
  storedName: (name: string) => string | null,
): { model: M; fill: FillParameters } {
  return explained(folder, () => {
    using file = openCheckpoint(folder);
    const stored = checkWeights(folder, file, make, storedName);
    const model = skipInit(() => withoutMemory(() => make({ ...options, dtype: options.dtype ?? stored })));
    // Taken down now, since adapters may come between the modules before it is read. A tied parameter is here under each of its names.
    const parameters = model.module.stateDict();
    const fill: FillParameters = (taken) =>
      explained(folder, () => readParameters(folder, parameters, storedName, taken));
    return { model, fill };
  });
}

function readParameters(
  folder: string,
  parameters: ReadonlyMap<string, Tensor>,
  storedName: (name: string) => string | null,
  taken: (parameter: Tensor) => boolean,
): void {
  using file = openCheckpoint(folder);
  const read = new Set<Tensor>();
  for (const name of file.names()) {
    const own = storedName(name);
    const parameter = own === null ? undefined : parameters.get(own);
    if (!parameter || read.has(parameter)) continue;
    read.add(parameter);
    setStorageBytes(parameter, parameter.nbytes);
    file.readInto(name, parameter);
    if (taken(parameter)) setStorageBytes(parameter, 0);
  }
}

function explained<T>(folder: string, load: () => T): T {
  try {
    return load();
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
