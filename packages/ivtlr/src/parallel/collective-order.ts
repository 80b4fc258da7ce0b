/**
 * The order of a step's collectives, worked out before the step begins and the same in every process, whatever rows each of them has: a process
 * that needs less than the others takes part all the same.
 */

/** Bring a part's parameters together from all processes, or add up its gradients over all of them. */
export type Collective = { kind: 'gather'; part: string } | { kind: 'reduce'; part: string };

/** One round: a micro-batch in every process, or in some of them none. What they differ in is the largest of all. */
export interface Round {
  /** Latent steps. */
  latentSteps: number;
  images: boolean;
}

export interface PassShape {
  layers: number;
  /** Parts that hold parameters to train. */
  trained: ReadonlySet<string>;
  /** Parts with parameters of their own; with tied weights the head has none. */
  owners(part: string): readonly string[];
  /** Whether the backward pass goes by depth (see SegmentedPass). */
  byDepth: boolean;
}

const PROMPT = ['embedding', 'vision'];

/** The reductions of one round: from the head down, in the order in which a backward pass completes them. */
export function reductionOrder({ layers, trained }: Pick<PassShape, 'layers' | 'trained'>): string[] {
  const down = Array.from({ length: layers }, (_, i) => `layers.${layers - 1 - i}`);
  return ['head', ...down, 'embedding', 'vision'].filter((part) => trained.has(part));
}

/** Gathers and reductions of one round with sharded parameters: each part is gathered one step ahead of its use. */
export function roundOrder(round: Round, shape: PassShape): Collective[] {
  const uses = [...forwardUses(round, shape), ...backwardUses(round, shape)];
  const gathers: Collective[] = [];
  let resident: readonly string[] = [];
  const lastUse = new Map<string, number>();
  for (const parts of uses) {
    const owners = [...new Set(parts.flatMap((part) => shape.owners(part)))];
    for (const part of owners) if (!resident.includes(part)) gathers.push({ kind: 'gather', part });
    // A part is complete when the pass has left it for the last time, which the next gather but one shows.
    for (const part of owners) lastUse.set(part, gathers.length);
    resident = owners;
  }
  const order = reductionOrder(shape);
  const result: Collective[] = [];
  let next = 0;
  gathers.forEach((gather, i) => {
    while (next < order.length && (lastUse.get(order[next]!) ?? 0) < i)
      result.push({ kind: 'reduce', part: order[next++]! });
    result.push(gather);
  });
  for (; next < order.length; next++) result.push({ kind: 'reduce', part: order[next]! });
  return result;
}

function forwardUses({ latentSteps, images }: Round, { layers }: PassShape): string[][] {
  const up = Array.from({ length: layers }, (_, i) => [`layers.${i}`]);
  const passes = Array.from({ length: latentSteps }, () => up).flat();
  return [images ? PROMPT : ['embedding'], ...passes, ['embedding'], ...up, ['head']];
}

function backwardUses({ latentSteps, images }: Round, { layers, trained, byDepth }: PassShape): string[][] {
  const down = Array.from({ length: layers }, (_, i) => [`layers.${layers - 1 - i}`]);
  const passes = byDepth ? [] : Array.from({ length: latentSteps }, () => down).flat();
  const prompt = images ? PROMPT : ['embedding'];
  // A pass that trains nothing before the layers does not go back there.
  const [text, start] = PROMPT.some((part) => trained.has(part)) ? [[['embedding']], [prompt]] : [[], []];
  if (byDepth) return [['head'], ...down, ...text, ...start];
  return [['head'], ...down, ...text, ...passes, ...start];
}
