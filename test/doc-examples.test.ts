/** Every TypeScript example of the documents that users read runs, and leaves no tensor behind. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { liveTensorCount } from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { docExamples } from '../scripts/doc-examples.mjs';

let folder: string;
const before = process.cwd();

beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'doc-example-'));
  process.chdir(folder); // examples write files beside them
});
afterEach(() => {
  process.chdir(before);
  fs.rmSync(folder, { recursive: true });
  vi.restoreAllMocks();
});

describe.each(docExamples())('$document, example $number', ({ code }) => {
  it('runs and prints', async () => {
    const print = vi.spyOn(console, 'log').mockImplementation(() => {});
    const live = liveTensorCount();
    fs.writeFileSync('example.ts', code);
    await import(pathToFileURL(path.join(folder, 'example.ts')).href);
    expect(print.mock.calls.length).toBeGreaterThan(0);
    expect(liveTensorCount()).toBe(live);
  });
});
