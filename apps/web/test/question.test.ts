/** What the reader puts into the form: pictures, words and settings, in a real browser. */
import type { Page } from 'playwright-core';
import { describe, expect, it } from 'vitest';
import { browserAndServer, CHROMIUM, openPage } from './browser.ts';

/** A picture whose left half is red and whose right half is transparent, or white if it is opaque. */
async function halfRed(page: Page, name: string, width: number, opaque = false) {
  const type = `image/${name.split('.')[1]}`;
  const url = await page.evaluate(
    ([type, width, opaque]) => {
      const canvas = document.createElement('canvas');
      canvas.width = width;
      canvas.height = 56;
      const context = canvas.getContext('2d')!;
      context.fillStyle = '#fff';
      if (opaque) context.fillRect(0, 0, width, 56);
      context.fillStyle = '#f00';
      context.fillRect(0, 0, width / 2, 56);
      return canvas.toDataURL(type, 1);
    },
    [type, width, opaque] as const,
  );
  return { name, mimeType: type, buffer: Buffer.from(url.split(',')[1]!, 'base64'), url };
}

/** Red, green, blue and alpha in the middle of the left and of the right half. */
function coloursOf(page: Page, url: string): Promise<number[][]> {
  return page.evaluate(async (url) => {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext('2d')!;
    context.drawImage(image, 0, 0);
    return [0.25, 0.75].map((x) => [...context.getImageData(x * canvas.width, canvas.height / 2, 1, 1).data]);
  }, url);
}

describe.skipIf(CHROMIUM === null)('the form', () => {
  const on = browserAndServer();

  it('shows and sends transparent pictures on white, and opaque ones as they are', async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/ask?q=What%3F`);
    const send = async (file: Awaited<ReturnType<typeof halfRed>>) => {
      const before = on.server.requests.length;
      await page.getByLabel('Pick a picture').setInputFiles(file);
      await page.getByAltText(file.name).waitFor();
      await page.locator('button.main').click();
      await expect.poll(() => on.server.requests.length).toBe(before + 1);
      const { url } = on.server.requests.at(-1).messages[0].content[0].image_url;
      expect(await page.locator('.picture-box img').getAttribute('src')).toBe(url);
      return url as string;
    };
    // The last one is made smaller.
    for (const [name, width] of [
      ['a.png', 112],
      ['b.webp', 112],
      ['c.png', 3000],
    ] as const) {
      const [left, right] = await coloursOf(page, await send(await halfRed(page, name, width)));
      expect(left![0]).toBeGreaterThan(240);
      expect(left![1]).toBeLessThan(15);
      for (const part of right!) expect(part).toBeGreaterThan(250);
    }
    for (const name of ['d.png', 'e.webp', 'f.jpeg']) {
      const file = await halfRed(page, name, 112, true);
      expect(await send(file)).toBe(file.url);
    }
    await close();
  });

  it.each(['the button', 'Ctrl+Enter'])('opens the settings on one that is out of range: %s', async (how) => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/ask?seed=7&latents=99`);
    await page.locator('.picture-box img').waitFor();
    const before = on.server.requests.length;
    const ask = () =>
      how === 'the button'
        ? page.locator('button.main').click()
        : page.getByLabel('Question', { exact: true }).press('Control+Enter');
    await ask();
    const latents = page.getByLabel('Latent steps');
    expect(await page.locator('details.settings').getAttribute('open')).not.toBeNull();
    // The browser's message stands beside the field that has the focus.
    expect(await latents.evaluate((field: HTMLInputElement) => field === document.activeElement)).toBe(true);
    expect(await latents.evaluate((field: HTMLInputElement) => field.validationMessage)).not.toBe('');
    await latents.fill('2');
    await ask();
    await page.locator('.downloads').waitFor();
    expect(on.server.requests.slice(before).map(({ ivtlr }) => ivtlr.latents)).toEqual([2]);
    await close();
  });

  it("keeps the reader's own picture apart from a puzzle's on the way back", async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/ask`);
    const picture = page.locator('.picture-box img');
    await page.getByLabel('Pick a picture').setInputFiles(await halfRed(page, 'mine.png', 112, true));
    await page.getByLabel('Question', { exact: true }).fill('What is red?');
    await page.getByRole('link', { name: 'Compare' }).click();
    await page.getByRole('button', { name: 'Draw a puzzle' }).click();
    await page.getByAltText(/puzzle \d+$/).waitFor();
    await page.goBack();
    await expect.poll(() => page.title()).toBe('Ask · IVT-LR');
    expect(await page.getByLabel('Question', { exact: true }).inputValue()).toBe('What is red?');
    expect(await picture.getAttribute('alt')).toContain('mine.png');
    await page.goForward();
    await page.getByAltText(/puzzle \d+$/).waitFor();
    // After a reload the reader's picture is gone: no puzzle's takes its place.
    await page.reload();
    await page.getByAltText(/puzzle \d+$/).waitFor();
    await page.goBack();
    await page.getByText('Drop or paste a picture').waitFor({ timeout: 5000 });
    expect(await page.locator('button.main').isDisabled()).toBe(true);
    await close();
  });

  it('is never taller than the window where it stands beside the answers', async () => {
    const viewport = { width: 1000, height: 500 };
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/what-if?seed=7&vary=zero-latents`, {
      viewport,
    });
    await page.locator('.picture-box img').waitFor();
    const form = page.locator('form.question');
    const heights = await form.evaluate((element) => [element.scrollHeight, element.clientHeight] as const);
    expect(heights[0]).toBeGreaterThan(viewport.height);
    expect(heights[1]).toBeLessThanOrEqual(viewport.height - 32);
    // The button can be brought into sight without going to the end of the page.
    await form.evaluate((element) => (element.scrollTop = element.scrollHeight));
    const box = (await page.locator('button.main').boundingBox())!;
    const formBox = (await form.boundingBox())!;
    expect(box.y + box.height).toBeLessThanOrEqual(formBox.y + formBox.height);
    await page.setViewportSize({ width: 700, height: 500 });
    expect(await form.evaluate((element) => element.scrollHeight - element.clientHeight)).toBeLessThanOrEqual(0);
    await close();
  });

  it('leaves text that is pasted or dragged to the fields', async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/ask?seed=7`);
    await page.locator('.picture-box img').waitFor();
    /** Whether the page takes it, so that the browser does nothing with it. */
    const isTaken = (type: 'paste' | 'dragover' | 'drop', onto: string, what: string) =>
      page.evaluate(
        ([type, onto, what]) => {
          const data = new DataTransfer();
          if (what.includes('text')) data.setData('text/plain', 'cell');
          if (what.includes('picture')) data.items.add(new File(['no picture'], 'cell.png', { type: 'image/png' }));
          const options = { bubbles: true, cancelable: true };
          const event =
            type === 'paste'
              ? new ClipboardEvent(type, { clipboardData: data, ...options })
              : new DragEvent(type, { dataTransfer: data, ...options });
          return !document.querySelector(onto)!.dispatchEvent(event);
        },
        [type, onto, what] as const,
      );
    for (const field of ['textarea', '.choices input']) {
      expect(await isTaken('paste', field, 'text and picture')).toBe(false);
      expect(await isTaken('paste', field, 'text')).toBe(false);
      for (const type of ['dragover', 'drop'] as const) expect(await isTaken(type, field, 'text')).toBe(false);
    }
    expect(await page.locator('.picture-box.over').count()).toBe(0);
    expect(await isTaken('paste', 'textarea', 'picture')).toBe(true);
    expect(await isTaken('paste', 'body', 'text and picture')).toBe(true);
    expect(await isTaken('dragover', 'textarea', 'picture')).toBe(true);
    await page.locator('.picture-box.over').waitFor();
    expect(await isTaken('drop', 'textarea', 'picture')).toBe(true);
    await page.getByText('cell.png is no picture').waitFor();
    await close();
  });

  it('keeps the other picture while the reader is on another page', async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/what-if?q=What%3F&vary=patches-swapped`);
    await page.getByLabel('Pick the other picture').setInputFiles(await halfRed(page, 'other.png', 112, true));
    const picture = page.getByAltText('Whose latent steps are taken: other.png');
    await picture.waitFor();
    await page.getByRole('link', { name: 'Ask' }).click();
    await picture.waitFor({ state: 'detached' });
    await page.getByRole('link', { name: 'What if' }).click();
    await page.getByText('The other picture', { exact: true }).waitFor();
    expect(await picture.count()).toBe(1);
    await close();
  });
});
