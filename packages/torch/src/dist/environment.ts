/** Which process of a group this is, as launchers say it: torchrun, SLURM through its srun, Kubernetes' PyTorchJob, or `--processes`. */

export interface DistributedEnvironment {
  /** 0 to worldSize - 1. */
  rank: number;
  worldSize: number;
  /** The same among the processes of this machine. */
  localRank: number;
  localWorldSize: number;
  /** Where rank 0, or the launcher, serves the store. */
  masterAddress: string;
  masterPort: number;
}

type Variables = Readonly<Record<string, string | undefined>>;

/**
 * From RANK, WORLD_SIZE, LOCAL_RANK (default: RANK), LOCAL_WORLD_SIZE (default: WORLD_SIZE), MASTER_ADDR and MASTER_PORT.
 * @returns null where neither RANK nor WORLD_SIZE is set: this process is alone
 * @throws RangeError naming the variable that is missing or wrong
 */
export function distributedEnvironment(env: Variables = process.env): DistributedEnvironment | null {
  const isSet = (name: string) => env[name] !== undefined && env[name] !== '';
  if (!isSet('RANK') && !isSet('WORLD_SIZE')) return null;
  const whole = (name: string, from: number, to: number, otherwise?: number): number => {
    if (!isSet(name) && otherwise !== undefined) return otherwise;
    if (!isSet(name))
      throw new RangeError(`the environment variable ${name} is missing: the launcher of several processes sets it`);
    const value = /^\d+$/.test(env[name]!) ? Number(env[name]) : Number.NaN;
    if (Number.isNaN(value) || value < from || value > to)
      throw new RangeError(
        `the environment variable ${name} is "${env[name]}", but should be a whole number from ${from} to ${to}`,
      );
    return value;
  };
  const worldSize = whole('WORLD_SIZE', 1, 1e6);
  const rank = whole('RANK', 0, worldSize - 1);
  const localWorldSize = whole('LOCAL_WORLD_SIZE', 1, worldSize, worldSize);
  const localRank = whole('LOCAL_RANK', 0, localWorldSize - 1, rank % localWorldSize);
  const alone = worldSize === 1;
  const masterAddress = env.MASTER_ADDR || (alone ? '127.0.0.1' : '');
  if (masterAddress === '')
    throw new RangeError(
      'the environment variable MASTER_ADDR is missing: the address of the machine that rank 0 runs on',
    );
  return {
    rank,
    worldSize,
    localRank,
    localWorldSize,
    masterAddress,
    masterPort: whole('MASTER_PORT', alone ? 0 : 1, 65_535, alone ? 0 : undefined),
  };
}
