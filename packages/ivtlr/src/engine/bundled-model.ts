/** The small models that come with the package. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { UserError } from '../errors.ts';

/**
 * The folder of a model that comes with the package: `dominoes` and `relay`, which reason in latent steps, or `dominoes-cot`, which writes its reasoning.
 * @throws UserError when there is none of that name
 */
export function bundledModel(name: string): string {
  const folder = fileURLToPath(new URL(`../../models/${name}`, import.meta.url));
  if (!existsSync(folder))
    throw new UserError(`the bundled model ${folder} is missing; train it with: ivtlr train ${name}`);
  return folder;
}
