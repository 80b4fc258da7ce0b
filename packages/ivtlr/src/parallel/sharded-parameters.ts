/**
 * A model's parameters over the processes of a group, by the stages of ZeRO: 0 keeps everything everywhere, 1 shards the optimiser's state, 2
 * gradients too, 3 parameters too. It follows the passes of a step (see SegmentedPass), gathers parameters before they are read, and sends
 * gradients as soon as they are complete, while the pass goes on.
 */
import {
  keep,
  type Module,
  noGrad,
  type ProcessGroup,
  type SegmentObserver,
  scope,
  setBlockPool,
  setStorageBytes,
  type Tensor,
  type Work,
} from '@ivtlr/torch';
import type { FillParameters, ModelParts } from '../models/types.ts';
import { type Collective, type PassShape, type Round, reductionOrder, roundOrder } from './collective-order.ts';
import { type Flat, giveBack } from './flat.ts';
import { flatsOf, type Held, hold, namedParts, type Shard, takeOver, type ZeroStage } from './shards.ts';

interface Pending {
  work: Work<unknown>;
  /** What is left to do when the work is done. */
  settle(): void;
}

/** There is nothing to wait for. */
const DONE: Work<unknown> = { wait: () => {} };

/** Reductions under way at one time with stages 2 and 3, which are there to save the memory of gradients. */
const REDUCTIONS_AT_ONCE = 2;

/** With stage 3, bytes of whole gradients after which all that are on their way are waited for. */
const SETTLED_BYTES = 2 ** 25;

export interface ShardingOptions {
  /** Whether passes go back depth by depth; see SegmentedPass. */
  byDepth: boolean;
  /** Gives the parameters their values, each process all of them in turn, of which it keeps its part; null where they are in place. */
  fill?: FillParameters | null;
}

export class ShardedParameters implements SegmentObserver, Disposable {
  readonly stage: ZeroStage;
  readonly #group: ProcessGroup;
  readonly #parts = new Map<string, Held[]>();
  readonly #shape: PassShape;
  /** Names of the parameters that had a gradient since `startStep`. */
  readonly touched = new Set<string>();
  #order: Collective[] = [];
  readonly #complete = new Set<string>();
  readonly #resident = new Set<string>();
  #ahead: { part: string; works: Work<unknown>[] } | null = null;
  #pending: Pending[] = [];
  /** Bytes of whole gradients since all were last waited for. */
  #unsettled = 0;
  /** Whether gradients are summed where they are, in each other's memory. */
  readonly #reads: boolean;
  /** Gradients that stay where they are and wait for being summed, all of them at once. */
  readonly #unsummed: Flat[] = [];

  /**
   * Takes the parameters over; with stages 1 to 3 they move into flat buffers. `requiresGrad` says which are trained.
   * @throws what `fill` throws, in that process alone
   */
  constructor(
    group: ProcessGroup,
    module: Module,
    parts: ModelParts,
    stage: ZeroStage,
    { byDepth, fill = null }: ShardingOptions,
  ) {
    this.#group = group;
    this.stage = stage;
    const owner = new Map<Tensor, string>();
    const names = new Map([...module.namedParameters()].map(([name, tensor]) => [tensor, name]));
    const aliases = new Map<string, Set<string>>();
    const flatsByPart = new Map<string, Flat[]>();
    for (const [part, modules] of namedParts(parts)) {
      const own: [string, Tensor][] = [];
      for (const tensor of new Set(modules.flatMap((m) => m.parameters()))) {
        const first = owner.get(tensor) ?? part;
        aliases.set(part, (aliases.get(part) ?? new Set()).add(first));
        if (first !== part || owner.has(tensor)) continue;
        owner.set(tensor, part);
        own.push([names.get(tensor)!, tensor]);
      }
      flatsByPart.set(
        part,
        flatsOf(part, own, group.size).filter(({ trained }) => trained || stage === 3),
      );
    }
    const all = [...flatsByPart.values()].flat();
    const onCpu = all.every(({ device }) => device === 'cpu');
    this.#reads = onCpu && group.readsEachOther;
    if (stage === 3 && onCpu) setBlockPool(true);
    const shared = (stage > 0 && onCpu && group.shareMemory(all.map(({ shardBytes }) => shardBytes))) || [];
    for (const [part, flats] of flatsByPart)
      this.#parts.set(
        part,
        flats.map((flat) => hold(flat, shared[all.indexOf(flat)] ?? null, stage, group.rank)),
      );
    try {
      takeOver([...this.#parts.values()].flat(), group, stage, fill);
    } catch (error) {
      this.dispose();
      throw error;
    }
    const trained = new Set(
      [...this.#parts].filter(([, held]) => held.some(({ flat }) => flat.trained)).map(([part]) => part),
    );
    this.#shape = {
      layers: parts.layers.length,
      trained,
      owners: (part) => [...(aliases.get(part) ?? [])].filter((name) => this.#parts.get(name)!.length > 0),
      byDepth,
    };
  }

  /** What this process holds of the trained parameters, in the same order everywhere. */
  get trained(): readonly Shard[] {
    return [...this.#parts.values()].flat().filter(({ flat }) => flat.trained);
  }

  get rank(): number {
    return this.#group.rank;
  }

  /**
   * Whether a pass has to tell where it is: for parameters to be there in time, for the memory of gradients, or for sending beside the pass.
   * Gradients that are kept whole and summed in each other's memory are summed at the end; a pass that is not cut into segments is faster.
   */
  get followsPasses(): boolean {
    return this.stage > 1 || !this.#reads;
  }

  /** Before the first round of a step. */
  startStep(): void {
    this.touched.clear();
    this.#free();
  }

  /** Before a round; `reduces` is false where gradients stay here until a later round. */
  startRound(round: Round, reduces: boolean): void {
    const order = this.stage === 3 ? roundOrder(round, this.#shape) : reductionOrder(this.#shape).map(reduction);
    this.#order = order.filter(({ kind }) => kind === 'gather' || reduces);
    this.#complete.clear();
  }

  /** Everything of the round that this process had no use for. After it the next round may start, or the step end. */
  finishRound(): void {
    this.require([]);
    while (this.#order.length > 0) this.#next();
    // The next round needs the memory of what is still on its way.
    if (this.stage > 1 && this.#reads) this.finishReductions();
  }

  /** Waits for all reductions of the step. */
  finishReductions(): void {
    this.#sumTogether();
    while (this.#pending.length > 0) this.#settle();
  }

  require(parts: readonly string[]): void {
    if (this.stage < 3) return;
    const wanted = [...new Set(parts.flatMap((part) => this.#shape.owners(part)))];
    for (const part of [...this.#resident]) if (!wanted.includes(part)) this.#putAway(part);
    for (const part of wanted) while (!this.#resident.has(part)) this.#next(part);
    this.#lookAhead();
  }

  gradientsComplete(part: string): void {
    this.#complete.add(part);
    this.#lookAhead();
  }

  /** Sends what is complete, and starts gathering the part that comes next. */
  #lookAhead(): void {
    for (let next = this.#order[0]; next; next = this.#order[0]) {
      if (next.kind === 'reduce') {
        if (!this.#complete.has(next.part)) return;
        this.#order.shift();
        this.#reduce(next.part);
      } else {
        if (this.#ahead || this.#resident.has(next.part)) return;
        this.#order.shift();
        this.#ahead = { part: next.part, works: this.#gather(next.part) };
      }
    }
  }

  /** The next collective of the round; a gathered part stays if it is the wanted one. */
  #next(wanted?: string): void {
    const ahead = this.#ahead;
    if (ahead) {
      this.#ahead = null;
      this.#arrive(ahead.part, ahead.works, wanted);
      return;
    }
    const next = this.#order.shift();
    if (!next) throw new Error(`the part ${wanted} is read more often than the round's plan says`);
    if (next.kind === 'reduce') this.#reduce(next.part);
    else this.#arrive(next.part, this.#gather(next.part), wanted);
  }

  #gather(part: string): Work<unknown>[] {
    return this.#parts.get(part)!.map((held) => this.#gatherFlat(held));
  }

  #gatherFlat({ flat, whole, parameters, shared }: Held): Work<unknown> {
    if (shared) {
      // Nobody changes parameters before all have come to the end of a step's passes, nor reads them before all have changed theirs.
      shared.attach(whole!);
      return DONE;
    }
    setStorageBytes(whole!, whole!.nbytes);
    return this.#group.allGatherIntoAsync(whole!, parameters!, { purpose: `parameters of ${flat.part}` });
  }

  #arrive(part: string, works: readonly Work<unknown>[], wanted: string | undefined): void {
    for (const work of works) work.wait();
    if (part === wanted) this.#resident.add(part);
    else if (!this.#resident.has(part)) this.#putAway(part);
  }

  #putAway(part: string): void {
    this.#resident.delete(part);
    for (const { whole } of this.#parts.get(part)!) setStorageBytes(whole!, 0);
  }

  #reduce(part: string): void {
    for (const held of this.#parts.get(part)!) {
      if (!held.flat.trained) continue;
      for (const { name, tensor } of held.flat.parameters) if (tensor.hasGrad) this.touched.add(name);
      if (this.stage === 0 && this.#reads) {
        this.#unsummed.push(held.flat);
        continue;
      }
      while (this.stage > 1 && this.#pending.length >= REDUCTIONS_AT_ONCE) this.#settle();
      const purpose = `gradients of ${part}`;
      this.#pending.push(scope(() => (this.#reads ? this.#sumInPlace(held, purpose) : this.#sumCopies(held, purpose))));
      this.#unsettled += held.flat.shardBytes * this.#group.size;
    }
    // All processes come here at the same point of the round's order. Sums in each other's memory are made while they are waited for, so that
    // nothing is lost by doing it now.
    if (this.stage < 3 || !this.#reads || this.#unsettled < SETTLED_BYTES) return;
    this.#unsettled = 0;
    this.finishReductions();
  }

  /** Processes wait for each other once, not for each part of the model. */
  #sumTogether(): void {
    const all = this.#unsummed.splice(0);
    for (const dtype of new Set(all.map((flat) => flat.dtype)))
      scope(() => {
        let size = 0;
        const pieces = all.flatMap((flat) => {
          if (flat.dtype !== dtype) return [];
          const start = size;
          size += flat.size;
          return flat.gradientsInPlace().map((piece) => ({ ...piece, offset: start + piece.offset }));
        });
        this.#group.sumPiecesAsync(pieces, size / this.#group.size, null, { purpose: 'gradients' }).wait();
      });
  }

  /** The others read the gradients where the backward pass has left them. */
  #sumInPlace(held: Held, purpose: string): Pending {
    const { flat } = held;
    const add = held.gradients !== null;
    held.gradients ??= keep(flat.borrow(flat.shardSize));
    const pieces = keep(flat.lendGradients());
    const work = this.#group.sumPiecesAsync(pieces, flat.shardSize, held.gradients, { add, purpose });
    const settle = () => {
      for (const { tensor } of pieces) tensor?.dispose();
    };
    return { work, settle };
  }

  #sumCopies(held: Held, purpose: string): Pending {
    const { flat } = held;
    const sent = keep(flat.takeGradients());
    if (this.stage === 0) {
      const work = this.#group.allReduceInPlaceAsync(sent, { purpose });
      const settle = () => {
        held.gradients = sent;
        flat.setGradients(sent);
      };
      return { work, settle };
    }
    const into = keep(flat.borrow(flat.shardSize));
    const work = this.#group.reduceScatterIntoAsync(into, sent, { purpose });
    const settle = () => {
      giveBack(sent);
      if (!held.gradients) held.gradients = into;
      else {
        noGrad(() => held.gradients!.add_(into));
        giveBack(into);
      }
    };
    return { work, settle };
  }

  /** Waits for the oldest reduction. */
  #settle(): void {
    const { work, settle } = this.#pending.shift()!;
    work.wait();
    settle();
  }

  /** After the shards have been changed: the whole parameters follow, where they are kept. */
  shareParameters(): void {
    if (this.stage === 0) return;
    const all = [...this.#parts.values()].flat();
    if (all.some(({ shared }) => shared)) this.#group.barrier({ purpose: 'the parameters are moved' });
    if (this.stage === 3) return;
    const works = all.filter(({ flat }) => flat.trained).map((held) => this.#gatherFlat(held));
    for (const work of works) work.wait();
  }

  /**
   * With stage 3: runs `body` in the first process with every parameter's values, of one flat buffer after the other. All processes call it.
   * `stay` says that the values, though not the tensor, are there until the shards change.
   */
  eachParameter(trainedOnly: boolean, body: (name: string, values: Tensor, stay: boolean) => void): void {
    for (const held of [...this.#parts.values()].flat()) {
      const { flat, whole, shared } = held;
      if (trainedOnly && !flat.trained) continue;
      if (!shared) this.#gatherFlat(held).wait();
      if (this.rank === 0)
        scope(() => {
          const buffer = shared ? flat.hollowBuffer() : whole!;
          shared?.attach(buffer);
          noGrad(() => {
            for (const own of flat.parameters) body(own.name, flat.viewOf(own, buffer), shared !== null);
          });
        });
      if (!shared) setStorageBytes(whole!, 0);
    }
  }

  /** Runs `body` with all parameters in place. All processes call it; each holds the whole model meanwhile. */
  async whole<T>(body: () => T | Promise<T>): Promise<T> {
    const parts = this.stage === 3 ? [...this.#parts.keys()] : [];
    for (const part of parts) this.#arrive(part, this.#gather(part), part);
    try {
      return await body();
    } finally {
      for (const part of parts) this.#putAway(part);
    }
  }

  /** Drops the step's gradients. */
  #free(): void {
    for (const held of [...this.#parts.values()].flat()) {
      if (held.gradients) giveBack(held.gradients);
      held.gradients = null;
      for (const { tensor } of held.flat.trained ? held.flat.parameters : []) tensor.grad = null;
    }
  }

  dispose(): void {
    this.#free();
    if (this.stage === 3) setBlockPool(false);
    for (const { whole, parameters, shared } of [...this.#parts.values()].flat()) {
      parameters?.dispose();
      whole?.dispose();
      shared?.[Symbol.dispose]();
    }
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function reduction(part: string): Collective {
  return { kind: 'reduce', part };
}
