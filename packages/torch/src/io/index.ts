export { openCheckpoint } from './checkpoint.ts';
export { CheckpointError } from './errors.ts';
export { HostMemory, type HostTensor, isHostTensor } from './host-tensor.ts';
export { openPth, type PthFile } from './pth.ts';
export {
  openSafetensors,
  type ReadOptions,
  type SafetensorsFile,
  type TensorFile,
  type TensorInfo,
} from './safetensors.ts';
export { type StoredTensor, safetensorsParts, saveSafetensors } from './safetensors-write.ts';
