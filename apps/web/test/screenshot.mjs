// Makes docs/app.png: the bundled model, asked about a puzzle in a real browser.
//   node apps/web/test/screenshot.mjs
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const at = (name) => fileURLToPath(new URL(`../../../${name}`, import.meta.url));
const args = ['serve', '--port', '0', '--threads', '1', '--log-level', 'silent'];
const server = spawn(process.execPath, [at('packages/ivtlr/bin/ivtlr.mjs'), ...args], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
try {
  let url;
  for await (const line of createInterface({ input: server.stdout })) {
    url = /http:\/\/\S+?:\d+/.exec(line)?.[0];
    if (url) break;
  }
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: process.getuid() === 0 ? ['--no-sandbox'] : [],
  });
  const page = await browser.newPage({ viewport: { width: 1240, height: 960 }, colorScheme: 'light' });
  await page.goto(`${url}/#/ask?seed=7`);
  await page.locator('.picture-box img').waitFor();
  await page.locator('button.main').click();
  await page.locator('.downloads').waitFor();
  await page.waitForTimeout(500);
  await page.screenshot({ path: at('docs/app.png') });
  await browser.close();
} finally {
  server.kill('SIGTERM');
  if (server.exitCode === null) await once(server, 'exit');
}
