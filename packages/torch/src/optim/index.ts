export { AdamW, type AdamWOptions, type AdamWState } from './adamw.ts';
export { clipGradNorm } from './clip.ts';
