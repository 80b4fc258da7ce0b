/**
 * Processes that compute together: c10d's process groups with Gloo (CPU) and NCCL (GPUs). The collectives are the dispatcher's own operators
 * (`_c10d_functional::..`), which take a group's name; gathering into a tensor and reduce-scatter on the CPU are messages between each two
 * processes (native/exchange.h). Every process of a group calls the same collectives in the same order.
 */
import { noGrad } from '../core/autograd.ts';
import { cat, empty, fromBytes, zeros } from '../core/creation.ts';
import { TorchError } from '../core/errors.ts';
import { native } from '../core/native.ts';
import { op } from '../core/op.ts';
import { scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import { DistributedError } from './errors.ts';
import { FAILED, failureKey, firstSentence, LOOK_AROUND, whoIsMissing } from './failure.ts';
import { findMemoryPeers } from './memory-peers.ts';
import { type Piece, startSumOfPieces } from './pieces.ts';
import { type SharedBuffer, shareMemory } from './shared-memory.ts';
import type { Store } from './store.ts';

export type ReduceOp = 'sum' | 'avg' | 'min' | 'max' | 'product';

export interface CollectiveOptions {
  /** What it is for, such as `gradients of layers.3`: error messages say it. */
  purpose?: string;
}

export interface ReduceOptions extends CollectiveOptions {
  /** Default sum. `avg` is for GPUs. */
  op?: ReduceOp;
}

interface GroupSetup {
  timeout: number;
  backend: 'gloo' | 'nccl';
  masterAddress: string;
  severalMachines: boolean;
  /** Whether the store's server is this process. */
  servesStore: boolean;
  /** Disposed of with the group. */
  owned?: Disposable[];
}

/** A collective under way. */
export interface Work<T = Tensor> {
  /** Waits for the end; its tensor. @throws DistributedError when it failed or took longer than the group's timeout */
  wait(): T;
}

/** dtypes of which Gloo's sum is divided for an average. */
const FLOATS: ReadonlySet<string> = new Set(['float32', 'float64', 'float16', 'bfloat16']);

/** Bytes a process from which on reading beats sending; as in native/exchange.cpp. */
const LARGE = 1 << 16;

export class ProcessGroup implements Disposable {
  readonly name: string;
  /** Place of this process in the group. */
  readonly rank: number;
  readonly size: number;
  /** The members' ranks in the world. */
  readonly ranks: readonly number[];
  readonly store: Store;
  /** Seconds. */
  readonly timeout: number;
  readonly #backend: 'gloo' | 'nccl';
  readonly #setup: GroupSetup;
  readonly #servesStore: boolean;
  readonly #owned: Disposable[];
  #subgroups = 0;
  /** Exchanges so far, the same number in every process. */
  #exchangesMade = 0;
  /** Null until the first exchange. */
  #readEachOther: boolean | null = null;

  /** For initProcessGroup and `subgroup`. */
  constructor(name: string, ranks: readonly number[], rank: number, store: Store, options: GroupSetup) {
    this.name = name;
    this.ranks = ranks;
    this.rank = rank;
    this.size = ranks.length;
    this.store = store;
    this.timeout = options.timeout;
    this.#backend = options.backend;
    this.#setup = options;
    this.#servesStore = options.servesStore;
    this.#owned = options.owned ?? [];
    const { timeout, backend, masterAddress, severalMachines } = options;
    this.#explained('initProcessGroup', '', () =>
      native.openGroup(
        store.id,
        name,
        rank,
        this.size,
        backend,
        Math.ceil(timeout * 1000),
        masterAddress,
        severalMachines,
      ),
    );
  }

  /** Element by element over all processes; the same result in each. */
  allReduce(tensor: Tensor, options: ReduceOptions = {}): Tensor {
    return this.allReduceAsync(tensor, options).wait();
  }
  allReduceAsync(tensor: Tensor, { op = 'sum', purpose }: ReduceOptions = {}): Work {
    return this.#start('all_reduce', purpose, [tensor, op, this.name]);
  }

  /** As allReduce, in the tensor's own memory. Autograd must not need the old values. */
  allReduceInPlace(tensor: Tensor, options: ReduceOptions = {}): Tensor {
    return this.allReduceInPlaceAsync(tensor, options).wait();
  }
  allReduceInPlaceAsync(tensor: Tensor, { op = 'sum', purpose }: ReduceOptions = {}): Work {
    if (this.#exchanges(tensor, op) && this.#readsAll(tensor)) return this.#allReduceByReading(tensor, op, purpose);
    return this.#start('all_reduce_', purpose, [tensor, op, this.name], tensor);
  }

  /** Tensors of one shape, one behind the other: (n, ..) -> (size * n, ..). */
  allGather(tensor: Tensor, options: CollectiveOptions = {}): Tensor {
    return this.allGatherAsync(tensor, options).wait();
  }
  allGatherAsync(tensor: Tensor, { purpose }: CollectiveOptions = {}): Work {
    return this.#start('all_gather_into_tensor', purpose, [tensor, this.size, this.name]);
  }

  /** As allGather, into an existing contiguous tensor. Autograd does not notice the change. */
  allGatherInto(out: Tensor, tensor: Tensor, options: CollectiveOptions = {}): Tensor {
    return this.allGatherIntoAsync(out, tensor, options).wait();
  }
  allGatherIntoAsync(out: Tensor, tensor: Tensor, { purpose }: CollectiveOptions = {}): Work {
    if (tensor.device === 'cpu' && this.size > 1) return this.#exchange('all_gather', purpose, out, tensor, 'sum');
    return this.#start('all_gather_into_tensor_out', purpose, [tensor, this.size, this.name, out], out);
  }

  /** Tensors whose first sizes differ; one a process, in the order of ranks. */
  allGatherUneven(tensor: Tensor, options: CollectiveOptions = {}): Tensor[] {
    return scope(() => {
      const rows = tensor.shape[0]!;
      const counts = this.allGather(
        fromBytes(new Uint8Array(BigInt64Array.of(BigInt(rows)).buffer), 'int64', [1]),
        options,
      ).toNumbers();
      const most = Math.max(...counts);
      const rest = tensor.shape.slice(1);
      const { dtype, device } = tensor;
      const padded = rows === most ? tensor : cat([tensor, zeros([most - rows, ...rest], { dtype, device })], 0);
      const all = this.allGather(padded.contiguous(), options);
      return counts.map((count, i) => all.narrow(0, i * most, count).clone());
    });
  }

  /** Element by element over all processes, of which each gets its part: (size * n, ..) -> (n, ..). */
  reduceScatter(tensor: Tensor, options: ReduceOptions = {}): Tensor {
    return this.reduceScatterAsync(tensor, options).wait();
  }
  reduceScatterAsync(tensor: Tensor, { op = 'sum', purpose }: ReduceOptions = {}): Work {
    const [rows = 0, ...rest] = tensor.shape;
    if (!this.#exchanges(tensor, op) || rows % this.size !== 0)
      return this.#start('reduce_scatter_tensor', purpose, [tensor, op, this.size, this.name]);
    const { dtype, device } = tensor;
    const out = empty([rows / this.size, ...rest], { dtype, device });
    const contiguous = tensor.contiguous();
    return this.#exchange('reduce_scatter', purpose, out, contiguous, op);
  }

  /** As reduceScatter, into an existing contiguous tensor. */
  reduceScatterInto(out: Tensor, tensor: Tensor, options: ReduceOptions = {}): Tensor {
    return this.reduceScatterIntoAsync(out, tensor, options).wait();
  }
  reduceScatterIntoAsync(out: Tensor, tensor: Tensor, { op = 'sum', purpose }: ReduceOptions = {}): Work {
    if (this.#exchanges(tensor, op)) return this.#exchange('reduce_scatter', purpose, out, tensor, op);
    return this.#start('reduce_scatter_tensor_out', purpose, [tensor, op, this.size, this.name, out], out);
  }

  /** Whether all read each other's memory. The first call is a collective. */
  get readsEachOther(): boolean {
    return this.size > 1 && this.#findPeers();
  }

  /**
   * The sum over all processes of a buffer of size * part elements, of which only pieces exist: with `out` (part) each process gets its part of the
   * sum (with `add` on top of what is there), else the pieces, none of them null, get their sums.
   * Only where all read each other's memory. The pieces stay as they are until the end.
   */
  sumPiecesAsync(
    pieces: readonly Piece[],
    part: number,
    out: Tensor | null,
    { add = false, purpose }: CollectiveOptions & { add?: boolean } = {},
  ): Work<void> {
    const name = out ? 'reduce_scatter' : 'all_reduce';
    const number = this.#exchangesMade + 1;
    this.#exchangesMade += 2;
    const id = this.#explained(name, purpose, () =>
      startSumOfPieces(this.name, pieces, part, out, add, number, Math.ceil(this.timeout * 1000)),
    );
    return { wait: () => this.#explained(name, purpose, () => native.finishSumOfPieces(id)) };
  }

  /**
   * Buffers of which each process has a part of so many bytes, the same everywhere, multiples of the system's pages. All processes call it.
   * @returns null where they do not read each other's memory or the system does not let them share it
   */
  shareMemory(partBytes: readonly number[]): SharedBuffer[] | null {
    if (!this.readsEachOther) return null;
    return shareMemory(this.name, this.rank, partBytes, (text) =>
      this.allGatherText(text, { purpose: 'sharing memory' }),
    );
  }

  /** The tensor of one process, by its rank in the group. */
  broadcast(tensor: Tensor, source: number, options: CollectiveOptions = {}): Tensor {
    return this.broadcastAsync(tensor, source, options).wait();
  }
  broadcastAsync(tensor: Tensor, source: number, { purpose }: CollectiveOptions = {}): Work {
    return this.#start('broadcast', purpose, [tensor, source, this.name]);
  }

  /**
   * Every process sends each of the others a part of the first dimension.
   * @param parts rows to send to, and to expect from, each process; default: equal ones
   */
  allToAll(
    tensor: Tensor,
    parts: { send?: readonly number[]; expect?: readonly number[] } & CollectiveOptions = {},
  ): Tensor {
    return this.allToAllAsync(tensor, parts).wait();
  }
  allToAllAsync(
    tensor: Tensor,
    { send, expect, purpose }: { send?: readonly number[]; expect?: readonly number[] } & CollectiveOptions = {},
  ): Work {
    const equal = () => new Array<number>(this.size).fill(tensor.shape[0]! / this.size);
    return this.#start('all_to_all_single', purpose, [tensor, expect ?? equal(), send ?? equal(), this.name]);
  }

  /** Returns when all processes have come here. */
  barrier({ purpose = 'barrier' }: CollectiveOptions = {}): void {
    scope(() => this.allReduce(zeros([1]), { purpose }));
  }

  /**
   * A group of some of the members, by their ranks in this group. All members call it, in the same order.
   * @returns null in processes that are not among them
   */
  subgroup(ranks: readonly number[]): ProcessGroup | null {
    const name = `${this.name}/${this.#subgroups++}`;
    const rank = ranks.indexOf(this.rank);
    if (rank < 0) return null;
    const members = ranks.map((member) => this.ranks[member]!);
    return new ProcessGroup(name, members, rank, this.store, { ...this.#setup, owned: [] });
  }

  /** Closes the connections, after the collectives under way. Those of others that still wait for this process fail soon. */
  destroy(): void {
    native.closeGroup(this.name, Math.ceil(this.timeout * 1000));
    for (const owned of this.#owned.splice(0)) owned[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  /**
   * Tells the others, as far as the store can be reached, that this process cannot go on, and closes the connections, so that collectives which
   * wait for it end soon and say the reason. The process should end after it.
   */
  abort(reason: string): void {
    try {
      this.store.set(failureKey(this.name, this.rank), `${FAILED}${reason}`, { timeout: LOOK_AROUND });
    } catch {} // the others see the connections close
    native.closeGroup(this.name, 1000);
    for (const owned of this.#owned.splice(0)) owned[Symbol.dispose]();
  }

  /** Whether the sums of this tensor over processes go by direct messages (native/exchange.h). */
  #exchanges({ device, dtype, numel }: Tensor, op: string): boolean {
    return (
      device === 'cpu' &&
      this.size > 1 &&
      numel > 0 &&
      dtype !== 'bool' &&
      (op === 'sum' || (op === 'avg' && FLOATS.has(dtype)))
    );
  }

  /** Whether all processes read each other's memory, and the tensor is large and even enough for it. */
  #readsAll({ numel, nbytes, shape }: Tensor): boolean {
    return shape.length === 1 && numel % this.size === 0 && nbytes >= LARGE * this.size && this.#findPeers();
  }

  #findPeers(): boolean {
    this.#readEachOther ??= findMemoryPeers(this.name, this.rank, (text) =>
      this.allGatherText(text, { purpose: 'who shares a machine' }),
    );
    return this.#readEachOther;
  }

  /** Each process sums its part and reads the sums of the others. */
  #allReduceByReading(tensor: Tensor, op: ReduceOp, purpose: string | undefined): Work {
    const { numel } = tensor;
    const what = purpose === undefined ? {} : { purpose };
    const work = this.sumPiecesAsync([{ tensor, offset: 0, numel }], numel / this.size, null, what);
    let over = false;
    const wait = (): Tensor => {
      if (over) return tensor;
      over = true;
      work.wait();
      if (op === 'avg') scope(() => noGrad(() => tensor.detach().mul_(1 / this.size)));
      return tensor;
    };
    return { wait };
  }

  #exchange(
    name: 'all_gather' | 'reduce_scatter',
    purpose: string | undefined,
    out: Tensor,
    tensor: Tensor,
    op: string,
  ): Work {
    const start = name === 'all_gather' ? native.startGather : native.startReduceScatter;
    this.#findPeers();
    const number = ++this.#exchangesMade;
    const id = this.#explained(name, purpose, () =>
      start(this.name, out, tensor, number, Math.ceil(this.timeout * 1000)),
    );
    let over = false;
    const wait = (): Tensor => {
      if (over) return out;
      over = true;
      this.#explained(name, purpose, () => native.finishExchange(id));
      if (op === 'avg') scope(() => noGrad(() => out.detach().mul_(1 / this.size)));
      return out;
    };
    return { wait };
  }

  /** Every process's text, in the order of ranks. */
  allGatherText(text: string, { purpose }: CollectiveOptions = {}): string[] {
    return scope(() => {
      // One byte more, since a tensor without elements cannot be gathered.
      const bytes = Uint8Array.from([0, ...new TextEncoder().encode(text)]);
      const all = this.allGatherUneven(fromBytes(bytes, 'uint8', [bytes.length]), {
        ...(purpose !== undefined && { purpose }),
      });
      return all.map((part) => new TextDecoder().decode(part.bytes().subarray(1)));
    });
  }

  #start(name: string, purpose: string | undefined, args: unknown[], into?: Tensor): Work {
    const tensor = args[0] as Tensor;
    const { dtype } = tensor;
    const onGpu = tensor.device !== 'cpu';
    const refuse = (reason: string) =>
      new TorchError(`_c10d_functional::${name}`, `${purpose ? `${purpose}: ` : ''}${reason}`);
    if (dtype === 'int16' || (dtype === 'bool' && !onGpu))
      throw refuse(`tensors of ${dtype} cannot be sent between processes; convert it, for example to int32 or uint8`);
    if (onGpu && this.#backend !== 'nccl')
      throw refuse(`a tensor on ${tensor.device} needs a group with the backend nccl`);
    const [rows = 0] = tensor.shape;
    if (name.startsWith('reduce_scatter') && rows % this.size !== 0)
      throw refuse(`${rows} rows cannot be shared equally among ${this.size} ranks`);
    // Gloo has no average.
    const average = !onGpu && args[1] === 'avg';
    if (average && !FLOATS.has(dtype)) throw refuse(`an average of ${dtype} is not defined; use sum`);
    const run = () => op(`_c10d_functional::${name}`)(...(average ? args.with(1, 'sum') : args)) as Tensor;
    // On the CPU starting only checks arguments: what it throws is this process's own mistake.
    const made = onGpu ? this.#explained(name, purpose, run) : run();
    const result = into ?? made;
    let over = false;
    const wait = (): Tensor => {
      if (over) return result;
      over = true;
      const waited = this.#explained(name, purpose, () => op('_c10d_functional::wait_tensor')(result) as Tensor);
      if (waited !== result) waited.dispose();
      if (average) scope(() => noGrad(() => result.detach().mul_(1 / this.size)));
      return result;
    };
    return { wait };
  }

  #explained<T>(collective: string, purpose: string | undefined, run: () => T): T {
    const started = performance.now();
    try {
      return run();
    } catch (error) {
      const seconds = (performance.now() - started) / 1000;
      const what = purpose ? `${collective} (${purpose})` : collective;
      const start = `rank ${this.ranks[this.rank]}: ${what} failed after ${seconds.toFixed(1)} s`;
      const reason = whoIsMissing(this, this.#servesStore);
      throw new DistributedError(
        `_c10d_functional::${collective}`,
        `${start}: ${reason} (${firstSentence((error as Error).message)})`,
      );
    }
  }
}
