/** How processes find each other: by options, or by the variables that launchers set. */
import { type DistributedEnvironment, distributedEnvironment } from './environment.ts';
import { DistributedError } from './errors.ts';
import { ProcessGroup } from './process-group.ts';
import { Store, type StoreOptions } from './store.ts';

export interface ProcessGroupOptions extends Partial<DistributedEnvironment> {
  /** Seconds after which a wait for another process is an error; default 600. */
  timeout?: number;
  /** Of tensors on GPUs; those on the CPU always go through Gloo. Default gloo. */
  backend?: 'gloo' | 'nccl';
}

let groupsMade = 0;
/** Stores that this process serves, by port: open as long as it lives, so that whoever is early for the next group of all finds it there. */
const served = new Map<number, Store>();

/**
 * Joins the group of all processes; blocks until they are there. What is not given comes from the environment (distributedEnvironment), and
 * without that the process is alone in its group.
 * @throws RangeError for environment variables that are wrong
 * @throws DistributedError when the others do not come within the timeout
 */
export function initProcessGroup(options: ProcessGroupOptions = {}): ProcessGroup {
  const alone = { rank: 0, worldSize: 1, localRank: 0, localWorldSize: 1, masterAddress: '127.0.0.1', masterPort: 0 };
  const environment = options.worldSize === undefined ? distributedEnvironment() : null;
  const { timeout = 600, backend = 'gloo', ...given } = options;
  const { rank, worldSize, masterAddress, masterPort } = { ...alone, ...environment, ...given };
  if (!(Number.isInteger(worldSize) && worldSize >= 1 && Number.isInteger(rank) && rank >= 0 && rank < worldSize))
    throw new RangeError(`rank ${rank} of worldSize ${worldSize}: the rank should be a whole number below the size`);
  if (!(timeout > 0)) throw new RangeError(`timeout is ${timeout}, but should be a number of seconds above 0`);
  // torchrun serves the store itself, for all attempts.
  const { TORCHELASTIC_USE_AGENT_STORE, TORCHELASTIC_RESTART_COUNT = '0' } = process.env;
  const ofLauncher = environment !== null && TORCHELASTIC_USE_AGENT_STORE === 'True';
  const servesStore = rank === 0 && !ofLauncher;
  const prefix = ofLauncher ? `/worker/attempt_${TORCHELASTIC_RESTART_COUNT}` : '';
  const place = { host: masterAddress, port: masterPort, timeout };
  if (servesStore && masterPort !== 0 && !served.has(masterPort))
    served.set(masterPort, openStore({ ...place, isServer: true }, rank));
  const store = openStore({ ...place, isServer: servesStore, prefix }, rank);
  const ranks = Array.from({ length: worldSize }, (_, member) => member);
  const severalMachines = worldSize > (given.localWorldSize ?? environment?.localWorldSize ?? worldSize);
  const setup = { timeout, backend, masterAddress, severalMachines, servesStore, owned: [store] };
  return new ProcessGroup(`world-${groupsMade++}`, ranks, rank, store, setup);
}

function openStore(options: StoreOptions, rank: number): Store {
  try {
    return new Store(options);
  } catch (error) {
    const place = `${options.host}:${options.port}`;
    const what = options.isServer
      ? `cannot serve the store at ${place}; is the port (MASTER_PORT) taken?`
      : `the store at ${place} (MASTER_ADDR, MASTER_PORT) was not reached within ${options.timeout} s; is rank 0 running?`;
    throw new DistributedError('initProcessGroup', `rank ${rank}: ${what} (${(error as Error).message})`);
  }
}
