export {
  type CheckpointedBackwardOptions,
  type CheckpointedCall,
  type CheckpointOptions,
  checkpoint,
  checkpointedBackward,
} from './checkpoint.ts';
export { Conv2d, Conv3d, type ConvOptions, type Size2, type Size3 } from './conv.ts';
export * from './functional.ts';
export { type FactoryOptions, skipInit } from './init.ts';
export { Embedding, Linear, LinearLayer } from './linear.ts';
export { Module } from './module.ts';
export { GroupNorm, LayerNorm, RMSNorm } from './norm.ts';
export { type LoadOptions, type LoadReport, StateDictError, type TensorSlot, type TensorSource } from './state-dict.ts';
