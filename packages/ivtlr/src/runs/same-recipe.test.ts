import { expect, test } from 'vitest';
import { loadRecipe } from '../config/load.ts';
import type { Checkpoint } from '../train/checkpoint.ts';
import { requireSameRecipe } from './same-recipe.ts';

const recipe = loadRecipe('relay');
const stored = (change: (recipe: Record<string, unknown>) => void) => {
  const copy = JSON.parse(JSON.stringify(recipe));
  change(copy);
  return { recipe: copy, folder: 'runs/old/checkpoints/step-00000001' } as unknown as Checkpoint;
};

test('settings that an older version did not have are taken as their defaults', () => {
  const older = stored((copy) => {
    delete copy.deterministic;
    delete (copy.latent as Record<string, unknown>).carrySupervision;
  });
  expect(() => requireSameRecipe(recipe, older)).not.toThrow();
  const changed = { ...recipe, deterministic: true, latent: { ...recipe.latent, carrySupervision: 0.2 } };
  expect(() => requireSameRecipe(changed, older)).toThrow(
    /latent\.carrySupervision \(was 0, now 0\.2\)|deterministic \(was false, now true\)/,
  );
});

test('another setting is named with both values, one that says where a run runs is free', () => {
  const other = stored((copy) => {
    Object.assign(copy, { seed: 7, threads: 3, out: 'elsewhere' });
    Object.assign((copy.data as { validation: object }).validation, { samples: 1234 });
  });
  expect(() => requireSameRecipe(recipe, other)).toThrow(
    /^a resumed run must keep its recipe, .*another seed \(was 7, now 1\); /,
  );
});

test('a recipe that this version cannot read is compared as it is', () => {
  const odd = stored((copy) => Object.assign(copy, { unheardOf: 1 }));
  expect(() => requireSameRecipe(recipe, odd)).toThrow(/unheardOf \(was 1, now absent\)/);
});
