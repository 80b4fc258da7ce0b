/** The app in a real browser, against `ivtlr serve` with the bundled model. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { accessibilityProblems, CHROMIUM, launch, openPage } from './browser.ts';

const packageFolder = fileURLToPath(new URL('../../../packages/ivtlr', import.meta.url));
const program = path.join(packageFolder, 'bin/ivtlr.mjs');

describe.skipIf(CHROMIUM === null)('the app and the real server', () => {
  const runs = mkdtempSync(path.join(tmpdir(), 'ivtlr-app-runs-'));
  let browser: Browser;
  let server: ChildProcess;
  let url: string;

  beforeAll(async () => {
    mkdirSync(path.join(runs, 'bundled'));
    cpSync(path.join(packageFolder, 'models/dominoes/metrics.jsonl'), path.join(runs, 'bundled/metrics.jsonl'));
    const models = ['--model', 'dominoes', '--model', 'dominoes-cot'];
    const args = ['serve', ...models, '--port', '0', '--threads', '1', '--runs', runs, '--log-level', 'silent'];
    server = spawn(process.execPath, [program, ...args]);
    url = await addressOf(server);
    const asked = ['--model', path.join(packageFolder, 'models/dominoes'), '--limit', '4', '--max-latents', '0'];
    const { stdout } = await promisify(execFile)(process.execPath, [program, 'ablate', ...asked, '--json']);
    writeFileSync(path.join(runs, 'bundled/ablations.json'), stdout);
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    if (server && server.exitCode === null) {
      const ended = new Promise((resolve) => server.once('exit', resolve));
      server.kill('SIGTERM');
      await ended;
    }
    rmSync(runs, { recursive: true, force: true });
  });

  it('watches the bundled model solve a puzzle in three latent steps', async () => {
    const { page, close } = await openPage(browser, `${url}/#/ask?seed=7`);
    await page.locator('.served.good').waitFor();
    await page.locator('.picture-box img').waitFor();
    await page.locator('button.main').click();
    await page.locator('.downloads').waitFor();
    expect(await page.locator('.frame').count()).toBe(3);
    expect(await page.locator('.answer').innerText()).toMatch(/✓ right/);
    // The text of every token stands with it; the last one ends the answer and has none.
    const tokens = await page.locator('.token').allInnerTexts();
    expect(tokens.slice(-5, -1)).toEqual(['the', 'answer', 'is', expect.stringMatching(/^[A-D]$/)]);
    expect(await accessibilityProblems(page)).toEqual([]);
    await close();
  });

  it('shows what becomes of the answer without latent steps and without patches', async () => {
    const { page, close } = await openPage(browser, `${url}/#/what-if?seed=7&vary=zero-latents,patches-zeroed`);
    await page.locator('.picture-box img').waitFor();
    await page.locator('button.main').click();
    const card = (name: string) => page.getByRole('article', { name });
    await card('zero latent steps').getByText('0 latent steps').waitFor();
    await card('patches zeroed').getByText('3 latent steps').waitFor();
    await card('zero latent steps').getByText('≠ other answer').waitFor();
    expect(await card('as trained').innerText()).toContain('✓ right');
    expect(await page.getByRole('alert').count()).toBe(0);
    await close();
  });

  it("shows what becomes of the answer with another picture's patches", async () => {
    const { page, close } = await openPage(browser, `${url}/#/what-if?seed=7&other=8&vary=patches-swapped`);
    await page.locator('.picture-box img').waitFor();
    await page.getByRole('img', { name: /^Whose latent steps are taken/ }).waitFor();
    await page.getByRole('button', { name: 'Ask 2 ways' }).click();
    const card = page.getByRole('article', { name: "another picture's patches" });
    await card.getByText('3 latent steps').waitFor();
    await card.getByText(/other answer|same answer/).waitFor();
    expect(await page.getByRole('alert').count()).toBe(0);
    await close();
  });

  it('compares with the model that writes its steps', async () => {
    const { page, close } = await openPage(browser, `${url}/#/compare?seed=7`);
    await page.locator('.picture-box img').waitFor();
    const written = page.getByLabel('Model that writes its steps');
    expect(await written.inputValue()).toBe('dominoes-cot');
    await page.getByRole('button', { name: 'Ask both ways' }).click();
    const table = page.getByRole('table', { name: /Steps and time/ });
    await table.waitFor();
    expect(await table.getByRole('row', { name: /^answer/ }).innerText()).toMatch(/right\s+right/);
    expect(await table.getByRole('row', { name: /^latent steps/ }).innerText()).toMatch(/3\s+0/);
    const tokens = /(\d+)\s+(\d+)$/.exec(await table.getByRole('row', { name: /^written tokens/ }).innerText())!;
    expect(Number(tokens[2])).toBeGreaterThan(Number(tokens[1]));
    await close();
  });

  it('picks patches that are forced by a click, and none that are forbidden', async () => {
    const { page, close } = await openPage(browser, `${url}/#/what-if?seed=7`);
    await page.locator('.picture-box img').waitFor();
    await page.locator('button.main').click();
    const answered = () => page.getByRole('article', { name: 'as trained' }).getByText('3 latent steps').waitFor();
    await answered();
    await page.getByText('Force or forbid patches').click();
    const picks = (card: string) => page.getByRole('article', { name: card }).locator('.frame .hidden').allInnerTexts();
    const usual = await picks('as trained');
    const [first] = usual.map((words) => words.slice(words.indexOf(': ') + 2));
    const patch = (place: string) => page.getByRole('gridcell', { name: `${place}, free` });
    // What the first step looked at is forbidden there, and forced into the second, which never takes it of itself.
    await page.getByRole('radio', { name: 'Forbid' }).check();
    await patch(first!).click();
    await page.getByRole('radio', { name: 'Step 2' }).check();
    await page.getByRole('radio', { name: 'Force' }).check();
    await patch(first!).click();
    await page.getByRole('button', { name: 'Ask 2 ways' }).click();
    const card = page.getByRole('article', { name: 'patches of your choice' });
    await card.getByText(/Other patches picked in steps 1, 2/).waitFor();
    await answered();
    const changed = await picks('patches of your choice');
    expect(changed).toHaveLength(3);
    expect(changed[0]).not.toContain(first);
    expect(changed[1]).toBe(`Latent step 2: ${first}`);
    expect(await picks('as trained')).toEqual(usual);
    await close();
  });

  it('refuses what is no picture in words, and shows a run with its ablations', async () => {
    const { page, close } = await openPage(browser, `${url}/#/ask`, { allowed: /Failed to load resource/ });
    const tiny = await page.evaluate(() => {
      const canvas = document.createElement('canvas');
      canvas.width = 2000;
      canvas.height = 2;
      return canvas.toDataURL('image/png').split(',')[1]!;
    });
    const line = { name: 'line.png', mimeType: 'image/png', buffer: Buffer.from(tiny, 'base64') };
    await page.getByLabel('Pick a picture').setInputFiles(line);
    await page.getByRole('textbox', { name: 'Question' }).fill('Which colour?');
    await page.locator('button.main').click();
    await page.getByRole('alert').waitFor();
    expect(await page.getByRole('alert').innerText()).toMatch(/picture was refused/i);
    await page.getByRole('link', { name: 'Runs' }).click();
    await page.getByRole('img', { name: /^Held-out accuracy .*Latest: bundled 1\./ }).waitFor();
    const ablations = page.getByRole('region', { name: 'Ablations of bundled, ablations.json' });
    const accuracy = ablations.getByRole('row', { name: /^full, T = 3/ });
    expect(await accuracy.innerText()).toContain('1.000');
    expect(await ablations.getByRole('row', { name: /^zero latent steps, T = 0/ }).count()).toBe(1);
    await close();
  });
});

/** Where the server says it listens. */
async function addressOf(server: ChildProcess): Promise<string> {
  const said: string[] = [];
  for (const stream of [server.stdout!, server.stderr!]) stream.setEncoding('utf8');
  return new Promise((resolve, reject) => {
    for (const input of [server.stdout!, server.stderr!])
      createInterface({ input }).on('line', (line) => {
        said.push(line);
        const found = /http:\/\/127\.0\.0\.1:\d+/.exec(line);
        if (found) resolve(found[0]);
      });
    server.once('exit', (code) => reject(new Error(`ivtlr serve ended with ${code}: ${said.join('\n')}`)));
  });
}
