export { AdamW, type AdamWOptions } from './adamw.ts';
export { clipGradNorm, gradNorm } from './clip.ts';
export type { Optimizer, OptimizerState } from './optimizer.ts';
