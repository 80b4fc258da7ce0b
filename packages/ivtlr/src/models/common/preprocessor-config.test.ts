import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Qwen2VlInputs } from '../qwen2-vl/inputs.ts';
import { readPreprocessorConfig } from './preprocessor-config.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-preprocessor-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));
const write = (name: string, content: unknown) => writeFileSync(join(folder, name), JSON.stringify(content));

test('nothing, the old file, and the nested one before it', () => {
  expect(readPreprocessorConfig(folder).config).toEqual({});
  write('processor_config.json', { processor_class: 'Qwen2VLProcessor' });
  write('preprocessor_config.json', { patch_size: 14 });
  expect(readPreprocessorConfig(folder)).toEqual({
    config: { patch_size: 14 },
    source: join(folder, 'preprocessor_config.json'),
  });
  write('processor_config.json', { image_processor: { patch_size: 7 }, processor_class: 'Qwen2VLProcessor' });
  expect(readPreprocessorConfig(folder).config).toEqual({ patch_size: 7 });
  expect(Qwen2VlInputs.fromFolder(folder).patchSize).toBe(7);
});

test('what is wrong names the file and the key in it', () => {
  write('processor_config.json', { image_processor: { patch_size: 'x' } });
  expect(() => Qwen2VlInputs.fromFolder(folder)).toThrow(
    /processor_config\.json: image_processor is not usable:[\s\S]*patch_size/,
  );
});
