export { type DistributedEnvironment, distributedEnvironment } from './environment.ts';
export { DistributedError } from './errors.ts';
export { bytesReadFromPeers } from './memory-peers.ts';
export {
  type CollectiveOptions,
  dieWithParent,
  initProcessGroup,
  ProcessGroup,
  type ProcessGroupOptions,
  type ReduceOp,
  type ReduceOptions,
  setStorageBytes,
  type Work,
} from './process-group.ts';
export { Store, type StoreOptions, type WaitOptions } from './store.ts';
