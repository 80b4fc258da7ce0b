import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const source = (path: string) => fileURLToPath(new URL(path, import.meta.url));

const onGpu = (process.env.IVTLR_TEST_DEVICE ?? 'cpu') !== 'cpu';

export default defineConfig({
  // Tests import the packages' sources; tsconfig.test.json says the same.
  resolve: {
    alias: [
      { find: /^@ivtlr\/torch$/, replacement: source('packages/torch/src/index.ts') },
      { find: /^@ivtlr\/torch\/ops$/, replacement: source('packages/torch/src/ops.gen.ts') },
      { find: /^ivtlr$/, replacement: source('packages/ivtlr/src/index.ts') },
    ],
  },
  test: {
    include: [
      'packages/*/src/**/*.test.ts',
      'apps/*/{src,test}/**/*.test.ts',
      'test/**/*.test.ts',
      'scripts/**/*.test.ts',
    ],
    reporters: ['default', './scripts/summary-reporter.ts'],
    pool: 'forks',
    globalSetup: ['./test/device-setup.ts'],
    // Several workers share the cores: OpenMP threads that spin while they wait would slow each other down manyfold.
    // Where tests run on the CPU, a GPU that there may be is out of sight, for commands that choose a device by themselves, too.
    env: { OMP_WAIT_POLICY: 'passive', ...(onGpu ? {} : { CUDA_VISIBLE_DEVICES: '' }) },
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
