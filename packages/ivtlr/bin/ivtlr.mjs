#!/usr/bin/env node
import { existsSync } from 'node:fs';

const main = new URL('../dist/cli/main.js', import.meta.url);
if (existsSync(main)) {
  const { run } = await import(main.href);
  process.exitCode = await run(process.argv.slice(2));
} else {
  console.error('ivtlr is not built yet: run `npm ci && npm run prepare-all` in the repository, then try again');
  process.exitCode = 1;
}
