export { type DistributedEnvironment, distributedEnvironment } from './environment.ts';
export { DistributedError } from './errors.ts';
export { initProcessGroup, type ProcessGroupOptions } from './init-process-group.ts';
export { bytesReadFromPeers } from './memory-peers.ts';
export type { Piece } from './pieces.ts';
export {
  type CollectiveOptions,
  ProcessGroup,
  type ReduceOp,
  type ReduceOptions,
  type Work,
} from './process-group.ts';
export type { SharedBuffer } from './shared-memory.ts';
export { dieWithParent, hasInput, setBlockPool, setStorageBytes, withoutGaps } from './storage.ts';
export { Store, type StoreOptions, type WaitOptions } from './store.ts';
