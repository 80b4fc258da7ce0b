import { defineConfig } from 'vite';

const server = process.env.IVTLR_SERVER ?? 'http://127.0.0.1:8000';

export default defineConfig({
  // Addresses are relative, so that the app also works below a path of another server.
  base: './',
  build: {
    // Beside the program that serves it, so that it is in the package.
    outDir: '../../packages/ivtlr/app',
    emptyOutDir: true,
    target: 'es2022',
    // What has light-dark().
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: { proxy: { '/v1': server, '/api': server, '/ready': server } },
});
