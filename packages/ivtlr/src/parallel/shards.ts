/** What a process holds of the parameters, by the stages of ZeRO, and how it comes to it. */
import {
  keep,
  type Module,
  noGrad,
  type ProcessGroup,
  type SharedBuffer,
  setStorageBytes,
  type Tensor,
  zeros,
} from '@ivtlr/torch';
import type { FillParameters, ModelParts } from '../models/types.ts';
import { Flat } from './flat.ts';

/** See ShardedParameters. */
export type ZeroStage = 0 | 1 | 2 | 3;

/** A flat buffer with what this process holds of it. */
export interface Shard {
  flat: Flat;
  /** (shardSize) this process's part of the parameters; null with stage 0, which has no buffer of parameters. */
  parameters: Tensor | null;
  /**
   * (shardSize) summed over all processes; null before the first reduction of a step. With stage 0 the sums are the parameters' `.grad`, and this
   * is the memory that they are in (size), or null where each has its own.
   */
  gradients: Tensor | null;
}

export interface Held extends Shard {
  /** (size) the parameters of all processes; its memory is there only while the part is gathered. Null with stage 0 and for frozen ones below 3. */
  whole: Tensor | null;
  /** Where all processes of the machine read each other's shards in place. */
  shared: SharedBuffer | null;
}

export function namedParts({ vision, embedding, layers, head }: ModelParts): [string, Module[]][] {
  return [
    ['embedding', embedding],
    ['vision', vision],
    ...layers.map((modules, i): [string, Module[]] => [`layers.${i}`, modules]),
    ['head', head],
  ];
}

export function flatsOf(part: string, parameters: readonly [string, Tensor][], processes: number): Flat[] {
  const groups = new Map<string, [string, Tensor][]>();
  for (const entry of parameters) {
    const { dtype, device, requiresGrad } = entry[1];
    const key = `${dtype} ${device} ${requiresGrad}`;
    groups.set(key, [...(groups.get(key) ?? []), entry]);
  }
  return [...groups.values()].map((group) => new Flat(part, group[0]![1].requiresGrad, group, processes));
}

/** Memory for what this process holds of a flat buffer, without values yet. */
export function hold(flat: Flat, shared: SharedBuffer | null, stage: ZeroStage, rank: number): Held {
  const held: Held = { flat, parameters: null, gradients: null, whole: null, shared };
  if (stage === 0) return held;
  const whole = keep(stage === 3 || shared ? flat.hollowBuffer() : noGrad(() => flat.newBuffer().zero_()));
  if (stage < 3) {
    shared?.attach(whole);
    const parameters = keep(noGrad(() => whole.narrow(0, rank * flat.shardSize, flat.shardSize)));
    return { ...held, whole, parameters };
  }
  const { dtype, device, shardSize } = flat;
  const parameters = shared ? shared.part(dtype, shardSize) : keep(zeros([shardSize], { dtype, device }));
  return { ...held, whole, parameters };
}

/**
 * Takes this process's part of the parameters, which then become views of what `hold` has made.
 * @param fill null where the parameters have their values
 * @throws what `fill` throws, in that process alone
 */
export function takeOver(
  all: readonly Held[],
  group: ProcessGroup,
  stage: ZeroStage,
  fill: FillParameters | null,
): void {
  const places = new Map(all.flatMap((held) => held.flat.parameters.map((own) => [own.tensor, { held, own }])));
  const taken = (tensor: Tensor) => {
    const place = places.get(tensor);
    if (!place?.held.whole) return false;
    places.delete(tensor);
    const { flat, shared, parameters, whole } = place.held;
    // What is of others comes from them, except where this process has a whole buffer of its own.
    if (shared || stage === 3) flat.copyInto(parameters!, group.rank * flat.shardSize, place.own);
    else flat.copyInto(whole, 0, place.own);
    return true;
  };
  let failure: { error: unknown } | null = null;
  try {
    fill?.(taken);
    // Adapters come with their values.
    for (const tensor of [...places.keys()]) taken(tensor);
  } catch (error) {
    failure = { error };
  }
  if (all.some(({ shared }) => shared)) group.barrier({ purpose: 'the parameters are shared' });
  if (failure) throw failure.error;
  for (const held of all) if (held.whole) makeViews(held, held.whole, stage);
}

function makeViews({ flat, shared }: Held, whole: Tensor, stage: ZeroStage): void {
  // Views can only be made of memory.
  if (stage === 3 && shared) shared.attach(whole);
  else if (stage === 3) setStorageBytes(whole, whole.nbytes);
  flat.makeViews(whole);
  if (stage === 3) setStorageBytes(whole, 0);
}
