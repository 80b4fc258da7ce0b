/** What a run will need in memory, worked out before its first step. An estimate: kernels' work space and the allocator's slack come on top. */
import {
  AdamW,
  availableMemory,
  elementSize,
  Linear,
  LinearLayer,
  liveTensorBytes,
  type Module,
  type Tensor,
} from '@ivtlr/torch';

export interface MemoryNeeds {
  /** Rows of a micro-batch, and its columns with latent rows. */
  rows: number;
  columns: number;
  vocabularySize: number;
  activationCheckpointing: boolean;
  /** Among which the ZeRO stage shards optimiser state (1), gradients too (2), parameters too (3). Default 1, alone. */
  processes?: number;
  zero?: number;
}

/** Bytes. */
export interface MemoryEstimate {
  weights: number;
  gradients: number;
  optimizer: number;
  activations: number;
  /** At the peak: with the activations, or with what the optimizer's step needs for a moment if that is more. */
  total: number;
  /** What this process may use, what it holds already included; null where that is not known (GPUs). */
  available: number;
}

/** @param trained the parameters that are trained, by name in `module` */
export function estimateMemory(
  module: Module,
  trained: ReadonlyMap<string, Tensor>,
  needs: MemoryNeeds,
): MemoryEstimate {
  const { processes = 1, zero = 0 } = needs;
  const share = (stage: number) => (zero >= stage ? processes : 1);
  const weights = sum([...new Set(module.parameters())].map(bytesOf)) / share(3);
  const gradients = sum([...trained.values()].map(bytesOf)) / share(2);
  // Two float32 means, and a float32 copy of 16-bit weights.
  const states = [...trained.values()].map(
    (p) => p.numel * (elementSize(p.dtype) === 2 ? 12 : 2 * elementSize(p.dtype)),
  );
  const optimizer = sum(states) / share(1);
  const activations = activationBytes(module, needs);
  // The optimizer's step makes float32 copies of gradients, but only after the activations are freed.
  const narrow = [...trained.values()].filter((p) => elementSize(p.dtype) === 2).map(({ numel }) => numel);
  const widened = 4 * Math.max(0, ...narrow, Math.min(sum(narrow), AdamW.widenedElements));
  const device = module.parameters()[0]?.device ?? 'cpu';
  const own = device === 'cpu' ? process.memoryUsage.rss() : liveTensorBytes();
  return {
    weights,
    gradients,
    optimizer,
    activations,
    total: weights + gradients + optimizer + Math.max(activations, widened),
    available: availableMemory(device) + own,
  };
}

/** What the decoder's layers keep for the backward pass: the inputs and outputs of their linear layers are nearly all of it. */
function activationBytes(
  module: Module,
  { rows, columns, vocabularySize, activationCheckpointing }: MemoryNeeds,
): number {
  const tokens = rows * columns;
  const perLayer = new Map<string, number>();
  let width = 0;
  for (const [path, layer] of module.namedModules()) {
    const at = /^(.*\.layers\.\d+)\./.exec(path)?.[1];
    if (at === undefined || !(layer instanceof LinearLayer)) continue;
    const { inputs, outputs } = layer;
    const size = elementSize(layer.dtype);
    let bytes = (inputs + outputs) * size;
    // An adapter keeps a float32 copy of its input, that copy after dropout, and the dropout mask.
    if (!(layer instanceof Linear)) bytes += inputs * (4 + 4 + 1);
    perLayer.set(at, (perLayer.get(at) ?? 0) + bytes * tokens);
    width = Math.max(width, Math.min(inputs, outputs) * size);
  }
  const layers = [...perLayer.values()];
  const kept = activationCheckpointing ? Math.max(0, ...layers) + layers.length * width * tokens : sum(layers);
  // Logits of the written part (about a third), in float32, with their softmax and gradient.
  const logits = Math.ceil(tokens / 3) * vocabularySize * 4 * 3;
  return kept + logits;
}

function bytesOf({ numel, dtype }: Tensor): number {
  return numel * elementSize(dtype);
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

/** One line for people, and a warning where it will not fit. */
export function describeMemory(estimate: MemoryEstimate, { rows, columns }: MemoryNeeds): string {
  const { weights, gradients, optimizer, activations, total, available } = estimate;
  const parts = `weights ${gigabytes(weights)}, gradients ${gigabytes(gradients)}, optimiser ${gigabytes(optimizer)}, activations ${gigabytes(activations)}`;
  const have = `; ${gigabytes(available)} can be had`;
  const line = `memory: about ${gigabytes(total)} (${parts}, for ${rows} rows of ${columns} columns)${have}`;
  if (total <= available) return line;
  return `${line}\nThis will not fit: a smaller microBatch, activationCheckpointing or lora need less.`;
}

function gigabytes(bytes: number): string {
  const value = bytes / 2 ** 30;
  return value < 0.1 ? `${(bytes / 2 ** 20).toFixed(1)} MB` : `${value.toFixed(1)} GB`;
}
