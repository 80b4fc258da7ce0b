export { openCheckpoint } from './checkpoint.ts';
export { CheckpointError } from './errors.ts';
export { openPth, type PthFile } from './pth.ts';
export { openSafetensors, type ReadOptions, type TensorFile, type TensorInfo } from './safetensors.ts';
export { saveSafetensors } from './safetensors-write.ts';
