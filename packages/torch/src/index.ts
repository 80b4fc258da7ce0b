export * from './core/index.ts';
export * from './cuda/index.ts';
export * from './dist/index.ts';
export * from './io/index.ts';
export * from './nn/index.ts';
export * from './optim/index.ts';
