/** Nothing of many requests stays behind: the short form of test/soak/engine.mjs. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const program = fileURLToPath(new URL('../../../../test/soak/engine.mjs', import.meta.url));

test('the engine holds no more after 600 requests than after 120', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', program, '--requests', '600']);
  expect(stdout).toContain('nothing grew');
  const { answered, cancelled, refused } = JSON.parse(/\{.*\}/.exec(stdout)![0]);
  expect(answered + cancelled + refused).toBe(600);
  for (const count of [answered, cancelled, refused]) expect(count).toBeGreaterThan(20);
});
