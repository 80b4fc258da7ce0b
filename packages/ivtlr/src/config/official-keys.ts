/**
 * The settings of the official Python code's YAML files, under their own names: read beside this project's, each becomes the setting that means
 * the same. A setting given twice, under both names, is an error.
 */
import { type Document, isNode, isScalar, type Pair, type YAMLMap } from 'yaml';

/** The same value under another name. */
const RENAMED: Readonly<Record<string, readonly string[]>> = {
  epochs_per_stage: ['latent', 'epochsPerStage'],
  max_latent_stage: ['latent', 'maxLatentStage'],
  pad_latent_to_max: ['latent', 'padLatentToMax'],
  batch_size_training: ['microBatch'],
  num_epochs: ['numEpochs'],
  lr: ['optimizer', 'lr'],
};

/** All of them; `seed` is called so here too. */
export const OFFICIAL_KEYS: readonly string[] = [
  ...['project', 'save_path', 'name', 'load_model_path', 'resume', 'bf16', 'debug', 'gradient_accumulation_steps'],
  ...Object.keys(RENAMED),
];

/** Rows of the data set that the official code keeps with `debug: True`. */
const DEBUG_ROWS = 5000;

/** The path that an official name stands for, where it is only another name. */
export function renamedPath(key: string): readonly string[] | undefined {
  return Object.hasOwn(RENAMED, key) ? RENAMED[key] : undefined;
}

/**
 * Rewrites the official names of a recipe in place.
 * @param fail raises an error at an offset of the text
 */
export function translateOfficialKeys(
  document: Document,
  fail: (offset: number | undefined, message: string) => never,
): void {
  const top = document.contents as YAMLMap;
  const pairs = new Map<string, Pair>();
  for (const pair of top.items) {
    if (isScalar(pair.key) && OFFICIAL_KEYS.includes(String(pair.key.value))) pairs.set(String(pair.key.value), pair);
  }
  if (pairs.size === 0) return;
  const offsetOf = (key: string) => {
    const node = pairs.get(key)?.key;
    return isNode(node) ? node.range?.[0] : undefined;
  };
  const plain = (key: string): unknown => {
    const value = pairs.get(key)?.value;
    return isScalar(value) ? value.value : isNode(value) ? value.toJS(document) : value;
  };
  const put = (key: string, path: readonly string[], value: unknown) => {
    if (document.hasIn(path))
      fail(offsetOf(key), `${key}: is called ${path.join('.')} here, which the recipe sets too`);
    document.setIn(path, isNode(value) ? value : document.createNode(value));
  };
  const truth = (key: string): boolean => {
    const value = plain(key);
    return typeof value === 'boolean' ? value : fail(offsetOf(key), `${key}: expected true or false`);
  };
  for (const key of pairs.keys()) top.delete(key);

  for (const [key, path] of Object.entries(RENAMED)) if (pairs.has(key)) put(key, path, pairs.get(key)!.value);
  // `project` names a board of an online logging service; nothing here is sent anywhere.
  const folders = ['save_path', 'name'].filter((key) => pairs.has(key));
  if (folders.length > 0) put(folders[0]!, ['out'], folders.map((key) => String(plain(key))).join('/'));
  const weights = plain('load_model_path') ?? null;
  if (weights !== null && weights !== 'None') put('load_model_path', ['model'], pairs.get('load_model_path')!.value);
  const resume = plain('resume') ?? 0;
  if (resume !== 0) {
    fail(
      offsetOf('resume'),
      `resume: the official code skips ${resume} epochs and loads nothing; to go on with a run use the flag --resume`,
    );
  }
  if (pairs.has('bf16')) put('bf16', ['dtype'], truth('bf16') ? 'bfloat16' : 'float32');
  if (pairs.has('debug') && truth('debug')) put('debug', ['data', 'samplesPerEpoch'], DEBUG_ROWS);
  if (pairs.has('gradient_accumulation_steps'))
    checkAccumulation(document, plain, (message) => fail(offsetOf('gradient_accumulation_steps'), message));
}

/** The official global batch follows from the number of processes; here it is written down and the accumulation follows from it. */
function checkAccumulation(
  document: Document,
  plain: (key: string) => unknown,
  fail: (message: string) => never,
): void {
  const name = 'gradient_accumulation_steps';
  const accumulation = plain(name);
  if (typeof accumulation !== 'number') fail(`${name}: expected a number`);
  const microBatch = document.getIn(['microBatch']);
  const globalBatch = document.getIn(['globalBatch']);
  if (typeof microBatch !== 'number') return;
  const own = microBatch * (accumulation as number);
  if (typeof globalBatch !== 'number') {
    fail(
      `${name}: write globalBatch too; ${accumulation} x ${microBatch} rows are ${own} in one process and ${4 * own} on the official four`,
    );
  }
  if ((globalBatch as number) % own !== 0) {
    fail(`${name}: ${accumulation} x ${microBatch} rows do not divide globalBatch ${globalBatch}`);
  }
}
