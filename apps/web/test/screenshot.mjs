// Makes the pictures of docs/app.md from the bundled model, in a real browser:
//   node apps/web/test/screenshot.mjs
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { parse } from 'yaml';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const program = path.join(root, 'packages/ivtlr/bin/ivtlr.mjs');
const bundled = path.join(root, 'packages/ivtlr/models/dominoes');

/** File, address, width and height of the window, theme, and what is done before the picture is taken. */
const PICTURES = [
  ['app.png', '#/ask?seed=7', [1240, 960], 'light', (page) => ask(page, '.downloads')],
  [
    'app-what-if.png',
    '#/what-if?seed=7&other=8&vary=zero-latents,patches-swapped&force=0:0&forbid=1:13',
    [1240, 1240],
    'dark',
    async (page) => {
      await ask(page, '.card:nth-child(4) .film');
      await page.evaluate(() => scrollTo(0, 0));
    },
  ],
  ['app-runs.png', '#/runs?smooth=0.5', [1240, 1280], 'light', (page) => page.locator('.ablation-table').waitFor()],
  ['app-phone.png', '#/ask?seed=7', [390, 844], 'dark', askOnPhone],
];

async function ask(page, last) {
  await page.locator('.picture-box img').waitFor();
  await page.locator('button.main').click();
  await page.locator(last).waitFor();
  await page.getByRole('button', { name: 'Stop' }).waitFor({ state: 'detached' });
}

async function askOnPhone(page) {
  await ask(page, '.downloads');
  await page.locator('#results').evaluate((results) => results.scrollIntoView());
}

const runs = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-screenshot-'));
fs.mkdirSync(path.join(runs, 'dominoes'));
const run = path.join(runs, 'dominoes');
fs.copyFileSync(path.join(bundled, 'metrics.jsonl'), path.join(run, 'metrics.jsonl'));
const recipe = parse(fs.readFileSync(path.join(root, 'packages/ivtlr/recipes/dominoes.yaml'), 'utf8'));
fs.writeFileSync(path.join(run, 'run.json'), JSON.stringify({ totalSteps: 1600, recipe }));
const asked = [
  '--model',
  path.relative('', bundled),
  '--limit',
  '200',
  '--max-new-tokens',
  '40',
  '--max-latents',
  '2',
  '--json',
];
fs.writeFileSync(path.join(run, 'ablations.json'), execFileSync(process.execPath, [program, 'ablate', ...asked]));
const args = ['serve', '--port', '0', '--threads', '1', '--runs', runs, '--log-level', 'silent'];
const server = spawn(process.execPath, [program, ...args], {
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
  for (const [name, hash, [width, height], colorScheme, act] of PICTURES) {
    const page = await browser.newPage({ viewport: { width, height }, colorScheme });
    await page.goto(`${url}/${hash}`);
    await act(page);
    // Charts and what fades in.
    await page.waitForTimeout(700);
    await page.screenshot({ path: path.join(root, 'docs', name) });
    await page.close();
  }
  await browser.close();
} finally {
  server.kill('SIGTERM');
  if (server.exitCode === null) await once(server, 'exit');
  fs.rmSync(runs, { recursive: true });
}
