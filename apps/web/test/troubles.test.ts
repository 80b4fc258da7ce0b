/** What the app says when things go wrong, how it looks after keys, and whether everybody can use it. */
import { describe, expect, it } from 'vitest';
import { accessibilityProblems, browserAndServer, CHROMIUM, openPage } from './browser.ts';
import { startFakeServer } from './fake-server.mjs';

const FAILURES = [
  [{ status: 429, message: 'the queue is full', retryAfter: 3 }, /queue is full\. Try again in 3 seconds/is],
  [
    { status: 400, message: 'the picture is broken', param: 'messages.0.content.0.image_url' },
    /picture was refused.*is broken/is,
  ],
  [{ status: 503, message: 'the engine is being started again' }, /engine is starting or restarting/i],
  [{ midway: 'the engine died' }, /engine is starting or restarting.*The engine died/is],
  [{ cut: true }, /connection broke off/i],
] as const;

describe.skipIf(CHROMIUM === null)('the app in trouble', () => {
  const on = browserAndServer();

  it('says each failure in words, and tries again', async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/ask?seed=7`, {
      allowed: /Failed to load resource/,
    });
    await page.locator('.picture-box img').waitFor();
    const alert = page.getByRole('alert');
    for (const [failure, words] of FAILURES) {
      on.server.fail.next = failure;
      await page.locator('button.main').click();
      await alert.waitFor();
      expect(await alert.innerText()).toMatch(words);
      await page.getByRole('button', { name: 'Try again' }).click();
      await page.getByText('✓ right').waitFor();
      expect(await alert.count()).toBe(0);
    }
    await close();
  });

  it('says that there is no such run', async () => {
    const allowed = /Failed to load resource/;
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/runs?run=gone&run=dominoes`, { allowed });
    await page.getByText('There is no run “gone” on this server.').waitFor({ timeout: 10_000 });
    await page.getByRole('img', { name: /^Loss .*Latest: dominoes / }).waitFor();
    expect(await page.getByText(/There is no run/).count()).toBe(1);
    await close();
  });

  it('says that the strip is too large to be downloaded', async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/ask?seed=7`);
    await page.locator('.picture-box img').waitFor();
    await page.locator('button.main').click();
    // What browsers give for a canvas beyond their limits.
    await page.evaluate(() => {
      HTMLCanvasElement.prototype.toBlob = (take) => take(null);
    });
    await page.getByRole('button', { name: /PNG/ }).click();
    await page.getByRole('alert').getByText('The strip is too large').waitFor({ timeout: 10_000 });
    await page.locator('button.main').click();
    await page.locator('.downloads').waitFor();
    expect(await page.getByRole('alert').count()).toBe(0);
    await close();
  });

  it('asks for a key, keeps it for the tab only, and goes on with it', async () => {
    const locked = await startFakeServer({ key: 'open sesame' });
    const { page, close } = await openPage(on.browser, `${locked.url}/#/ask?seed=7`, {
      allowed: /Failed to load resource/,
    });
    await page.getByText('The server wants an API key').first().waitFor();
    expect(await page.locator('.served').innerText()).toMatch(/key needed/);
    await page.getByText('Key', { exact: true }).click();
    await page.getByLabel(/API key/).fill('open sesame');
    await page.getByLabel(/API key/).press('Enter');
    await page.locator('.served.good').waitFor();
    await page.locator('.picture-box img').waitFor();
    expect(await page.getByRole('alert').count()).toBe(0);
    expect(await page.evaluate(() => [sessionStorage.getItem('ivtlr-key'), JSON.stringify(localStorage)])).toEqual([
      'open sesame',
      '{}',
    ]);
    await page.reload();
    await page.locator('.served.good').waitFor();
    await close();
    await locked.close();
  });

  it('says that the server or this device is out of reach, and goes on afterwards', async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/ask?seed=7`, {
      allowed: /Failed to load resource/,
    });
    await page.locator('.picture-box img').waitFor();
    const alert = page.getByRole('alert');
    await page.route('**/v1/chat/completions', (route) => route.abort('connectionrefused'));
    await page.locator('button.main').click();
    expect(await alert.innerText()).toMatch(/cannot be reached.*ivtlr serve/s);
    await page.unroute('**/v1/chat/completions');
    await page.context().setOffline(true);
    await page.getByRole('button', { name: 'Try again' }).click();
    await alert.getByText('This device is offline').waitFor();
    await page.context().setOffline(false);
    await page.getByRole('button', { name: 'Try again' }).click();
    await page.locator('.downloads').waitFor();
    await close();
  });

  it('sees that the server has gone, and loads by itself what is missing once it is back', async () => {
    let other = await startFakeServer();
    const { page, close } = await openPage(on.browser, `${other.url}/#/ask`, { allowed: /Failed to load resource/ });
    await page.locator('.served.good').waitFor();
    await other.close();
    await page.getByRole('button', { name: 'Draw a puzzle' }).click();
    await page.getByRole('alert').getByText('The server cannot be reached').waitFor();
    await page.locator('.served.bad').getByText('not reachable', { exact: true }).waitFor({ timeout: 10_000 });
    other = await startFakeServer({ port: Number(new URL(other.url).port) });
    await page.locator('.served.good').waitFor();
    await page.locator('.picture-box img').waitFor({ timeout: 10_000 });
    await expect.poll(() => page.getByRole('alert').count()).toBe(0);
    // An answer that breaks off tells as much.
    const release = other.hold(1);
    await page.locator('button.main').click();
    await page.locator('.frame').first().waitFor();
    await other.close();
    release();
    await page.locator('.served.bad').waitFor({ timeout: 10_000 });
    await close();
  });

  it.each(['light', 'dark'] as const)('can be used by everybody in %s, at both widths', async (colorScheme) => {
    for (const width of [1240, 360]) {
      const { page, close } = await openPage(on.browser, `${on.server.url}/#/ask`, {
        colorScheme,
        viewport: { width, height: 800 },
      });
      const check = async (name: string) => {
        // Things that fade in have no settled colours before.
        await page.evaluate(() =>
          Promise.all(
            // One whose element goes away is cancelled.
            document
              .getAnimations()
              .map((one) => (one.effect?.getTiming().iterations === 1 ? one.finished.catch(() => null) : null)),
          ),
        );
        // What has no colour is the same in both themes.
        const rules = colorScheme === 'dark' ? ['color-contrast'] : undefined;
        expect.soft(await accessibilityProblems(page, rules), `${name} ${colorScheme} ${width}`).toEqual([]);
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        expect.soft(overflow, `${name}: wider than its window of ${width}`).toBeLessThanOrEqual(0);
      };
      await page.locator('.served.good').waitFor();
      await check('welcome');
      await page.goto(`${on.server.url}/#/ask?seed=7`);
      await page.locator('.picture-box img').waitFor();
      await page.getByText('Settings').click();
      await page.locator('button.main').click();
      await page.locator('.downloads').waitFor();
      await check('ask');
      await page.goto(
        `${on.server.url}/#/what-if?seed=7&vary=zero-latents,patches-swapped&other=8&force=0:3&forbid=1:2`,
      );
      await page.locator('button.main').click();
      await page.getByText('Other patches picked').first().waitFor();
      await page.getByRole('button', { name: 'Stop' }).waitFor({ state: 'detached' });
      await check('what if');
      await page.goto(`${on.server.url}/#/compare?seed=7`);
      await page.locator('button.main').click();
      await page.locator('.costs').waitFor();
      await check('compare');
      await page.goto(`${on.server.url}/#/runs?run=dominoes&run=seed+2`);
      await page.locator('.chart canvas').first().waitFor();
      await check('runs');
      await close();
    }
  });

  it('brings the answer into sight on a phone, where a picture can be photographed, too', async () => {
    const phone = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true };
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/ask?seed=7`, phone);
    await page.locator('.picture-box img').waitFor();
    expect(await page.getByText('Photograph').isVisible()).toBe(true);
    expect(await page.getByLabel('Photograph').getAttribute('capture')).toBe('environment');
    await page.locator('button.main').tap();
    await page.locator('.downloads').waitFor();
    const top = async () => (await page.locator('.stage-picture canvas').boundingBox())?.y;
    await expect.poll(top).toBeLessThan(370);
    await close();
  });

  it('follows the system theme until another is chosen, and remembers that', async () => {
    const { page, close } = await openPage(on.browser, on.server.url, { colorScheme: 'dark' });
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await ground();
    await page.getByRole('button', { name: 'Use the light theme' }).click();
    await expect.poll(ground).not.toBe(dark);
    const light = await ground();
    await page.reload();
    await expect.poll(ground).toBe(light);
    await page.getByRole('button', { name: 'Use the dark theme' }).click();
    await expect.poll(ground).toBe(dark);
    expect(await page.evaluate(() => localStorage.length)).toBe(0);
    await close();
  });

  it('can be used from the keyboard alone', async () => {
    const { page, close } = await openPage(on.browser, on.server.url);
    await page.locator('.served.good').waitFor();
    await page.keyboard.press('Tab');
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe('Skip to the content');
    await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe('Draw a puzzle');
    await page.keyboard.press('Enter');
    await page.locator('.picture-box img').waitFor();
    await page.getByLabel('Question', { exact: true }).focus();
    await page.keyboard.press('Control+Enter');
    await page.getByText('✓ right').waitFor();
    await close();
  });

  it('follows an address that changes as soon as the app has been drawn', async () => {
    const context = await on.browser.newContext();
    const page = await context.newPage();
    // The app's script has run before this event, and nothing has been painted yet.
    await page.addInitScript(`addEventListener('DOMContentLoaded', () => (location.hash = '#/what-if?seed=7'))`);
    await page.goto(on.server.url);
    await page.getByText('Force or forbid patches').waitFor({ timeout: 10_000 });
    await page.locator('.picture-box img').waitFor({ timeout: 10_000 });
    await context.close();
  });
});
