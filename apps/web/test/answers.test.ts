/** What is said of answers that stand beside each other, in a real browser. */
import { describe, expect, it } from 'vitest';
import { browserAndServer, CHROMIUM, openPage } from './browser.ts';

describe.skipIf(CHROMIUM === null)('answers beside each other', () => {
  const on = browserAndServer();

  it.each([
    ['another picture', 'seed=8&q=Which%3F&c=red&c=blue'],
    ['other choices', 'seed=7&q=Which%3F&c=red&c=green'],
  ])('are not compared after %s', async (_, changed) => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/compare?seed=7&q=Which%3F&c=red&c=blue`);
    const costs = page.locator('.costs');
    const note = page.getByText('The question has changed since it was asked: ask again.');
    const written = page.getByRole('article', { name: 'without: all of it written' });
    const badge = written.getByText(/(same|other) answer/);
    await page.locator('.picture-box img').waitFor();
    await page.locator('button.main').click();
    await costs.waitFor();
    expect([await note.count(), await badge.count()]).toEqual([0, 1]);
    // One of the two is asked anew, on another page, about something else.
    await page.goto(`${on.server.url}/#/ask?${changed}`);
    await page.getByAltText(changed.startsWith('seed=8') ? 'puzzle 8' : 'puzzle 7').waitFor();
    await page.locator('button.main').click();
    await page.getByRole('button', { name: 'Stop' }).waitFor({ state: 'detached' });
    await page.locator('.downloads').waitFor();
    await page.getByRole('link', { name: 'Compare' }).click();
    await note.waitFor();
    expect([await costs.count(), await badge.count()]).toEqual([0, 0]);
    await page.locator('button.main').click();
    await costs.waitFor();
    expect([await note.count(), await badge.count()]).toEqual([0, 1]);
    await close();
  });

  it('say where they were stopped or cut, and are not judged then', async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/what-if?seed=7&vary=random-patches&max=3`);
    const cards = ['as trained', 'random patches'].map((name) => page.getByRole('article', { name }));
    await page.locator('.picture-box img').waitFor();
    await page.locator('button.main').click();
    for (const card of cards) {
      await card.getByText('Cut at the longest answer that was asked for.').waitFor();
      expect(await card.getByText(/right|wrong/).count()).toBe(0);
    }
    await page.goto(`${on.server.url}/#/what-if?seed=7`);
    const release = on.server.hold(2);
    await page.locator('button.main').click();
    await page.getByRole('button', { name: 'Stop' }).click();
    await cards[0]!.getByText('Stopped.').waitFor();
    release();
    // The written answer is cut, the one after latent steps is not.
    await page.goto(`${on.server.url}/#/compare?seed=7&max=8`);
    await page.locator('button.main').click();
    const row = page.getByRole('table', { name: /Steps and time/ }).getByRole('row', { name: /^answer/ });
    expect(await row.innerText()).toMatch(/right\s+cut/);
    await close();
  });
});
