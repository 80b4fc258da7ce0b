export { type CheckpointedCall, type CheckpointOptions, checkpoint } from './checkpoint.ts';
export { Conv2d, Conv3d, type ConvOptions, type Size2, type Size3 } from './conv.ts';
export * from './functional.ts';
export { type FactoryOptions, skipInit, withoutMemory } from './init.ts';
export { Embedding, Linear, LinearLayer } from './linear.ts';
export { isFloating, Module } from './module.ts';
export { GroupNorm, LayerNorm, RMSNorm } from './norm.ts';
export { SegmentedPass, type SegmentObserver, type SegmentOptions } from './segmented-pass.ts';
export { type LoadOptions, type LoadReport, StateDictError, type TensorSlot, type TensorSource } from './state-dict.ts';
