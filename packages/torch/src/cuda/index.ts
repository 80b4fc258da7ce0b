export * from './delayed-read.ts';
export * from './device.ts';
export * from './event.ts';
export * from './graph.ts';
export * from './pinned.ts';
export * from './staged-copies.ts';
export * from './stream.ts';
export * from './upload.ts';
