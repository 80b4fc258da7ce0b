export { AdamW, type AdamWOptions } from './adamw.ts';
export { clipGradNorm } from './clip.ts';
export type { Optimizer, OptimizerState } from './optimizer.ts';
