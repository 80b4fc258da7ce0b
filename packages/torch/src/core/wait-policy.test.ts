/** OpenMP is told not to spin for long, unless the user says something himself. Runs the compiled package: the runtime is loaded once a process. */
import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';

/** What OpenMP says of its settings when a process loads libtorch. */
function spinCount(environment: Record<string, string>): string | undefined {
  const { OMP_WAIT_POLICY: _, GOMP_SPINCOUNT: __, KMP_BLOCKTIME: ___, ...env } = process.env;
  const code = `await import(${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)}).then((torch) => torch.torchVersion())`;
  const { stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
    env: { ...env, OMP_DISPLAY_ENV: 'verbose', ...environment },
    encoding: 'utf8',
  });
  return stderr.match(/GOMP_SPINCOUNT = '(\d+)'/)?.[1];
}

test.each([
  [{}, '3000'],
  [{ GOMP_SPINCOUNT: '77' }, '77'],
  [{ OMP_WAIT_POLICY: 'passive' }, '0'],
])('%o', (environment, spins) => expect(spinCount(environment)).toBe(spins));
