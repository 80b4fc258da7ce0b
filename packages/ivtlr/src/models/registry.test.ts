import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { FAMILIES, familyOf } from './registry.ts';

test('every model folder exports one family, which is listed and found by its model_type', async () => {
  const folders = readdirSync(import.meta.dirname, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && entry.name !== 'common')
    .map(({ name }) => name);
  const families = await Promise.all(
    folders.map(async (name) => {
      const exported = Object.values(await import(`./${name}/family.ts`));
      expect(exported, name).toHaveLength(1);
      return exported[0] as (typeof FAMILIES)[number];
    }),
  );
  expect(new Set(families)).toEqual(new Set(FAMILIES));
  for (const family of families) expect(familyOf({ model_type: family.modelType }, 'test')).toBe(family);
});
