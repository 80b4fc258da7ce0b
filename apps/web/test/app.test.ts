/** The app in a real browser, against a server with made-up answers. */
import { readFile } from 'node:fs/promises';
import type { Page } from 'playwright-core';
import { describe, expect, it } from 'vitest';
import { browserAndServer, CHROMIUM, named, openPage, paramsOf } from './browser.ts';
import { makePuzzle } from './fake-puzzle.mjs';

const pngBytes = (seed: number) => Buffer.from(makePuzzle(seed).image.split(',')[1]!, 'base64');

async function ask(page: Page, url: string, hash = '#/ask?seed=7') {
  await page.goto(`${url}/${hash}`);
  await page.locator('.picture-box img').waitFor();
  await page.locator('button.main').click();
}

describe.skipIf(CHROMIUM === null)('the app', () => {
  const on = browserAndServer({ pause: 5 });
  const lastRequests = (number: number) => on.server.requests.slice(-number);

  it('draws a puzzle, shows latent steps one by one before the answer, and lets the reader go over them', async () => {
    const { page, close } = await openPage(on.browser, on.server.url);
    await named(page, 'Draw a puzzle').click();
    await page.locator('.picture-box img').waitFor();
    expect((await paramsOf(page)).get('seed')).toMatch(/^\d+$/);
    const release = on.server.hold(2);
    await named(page, 'Ask').click();
    await page.locator('.frame').nth(1).waitFor();
    // Two steps are there before the last one and before any word.
    expect(await page.locator('.frame').count()).toBe(2);
    expect((await page.locator('.answer .words').innerText()).trim()).toBe('');
    release();
    await page.getByText('✓ right').waitFor();
    expect(await page.locator('.frame').count()).toBe(3);
    expect(await page.locator('.answer .words').innerText()).toMatch(/^\w+ is [A-D]; Therefore, the answer is [A-D]$/);
    expect(await page.locator('.token').count()).toBe(8);

    const scrubber = page.getByRole('slider', { name: 'Step' });
    expect(await scrubber.getAttribute('aria-valuetext')).toBe('Latent step 3 of 3');
    await scrubber.focus();
    await page.keyboard.press('ArrowLeft');
    expect(await page.locator('.stage-facts h2').innerText()).toBe('Latent step 2 of 3');
    expect((await paramsOf(page)).get('step')).toBe('1');
    await page.keyboard.press('End');
    expect(await scrubber.getAttribute('aria-valuetext')).toMatch(/^Written token 8 “[A-D]”$/);

    await page.locator('.frame').first().click();
    const stage = page.locator('.stage-picture canvas');
    const box = (await stage.boundingBox())!;
    await page.mouse.move(box.x + box.width * 0.9, box.y + box.height * 0.1);
    expect(await page.locator('.scores .pointed th').innerText()).toContain('row 1, column 4');
    const chart = page.getByRole('img', { name: /Chart over 11 steps/ });
    await chart.locator('canvas').waitFor();
    const plot = (await chart.boundingBox())!;
    await page.mouse.click(plot.x + plot.width * 0.5, plot.y + 60);
    await expect.poll(() => scrubber.getAttribute('aria-valuetext')).toMatch(/^Written token/);
    await close();
  });

  it('paints attention over the picture, and the picked patch in its own colours', async () => {
    const { page, close } = await openPage(on.browser, on.server.url);
    await ask(page, on.server.url, '#/ask?seed=7&step=0');
    await page.locator('.downloads').waitFor();
    await page.locator('.frame').first().click();
    const puzzle = makePuzzle(7);
    const centres = () =>
      page.locator('.stage-picture canvas').evaluate((canvas: HTMLCanvasElement) =>
        Array.from({ length: 16 }, (_, token) => {
          const cell = canvas.width / 4;
          const x = ((token % 4) + 8 / 28) * cell;
          const y = (Math.floor(token / 4) + 0.5) * cell;
          return [...canvas.getContext('2d')!.getImageData(x, y, 1, 1).data.slice(0, 3)];
        }),
      );
    const withHeat = await centres();
    await page.getByLabel('attention over the picture').uncheck();
    const without = await centres();
    const [picked, other] = [puzzle.cells[0]!, puzzle.cells[4]!];
    expect(withHeat[picked]).toEqual(without[picked]);
    expect(withHeat[other]).not.toEqual(without[other]);
    await close();
  });

  it('takes pictures that are picked, pasted and dropped, and sends them with the choices', async () => {
    const { page, close } = await openPage(on.browser, on.server.url);
    const picture = page.locator('.picture-box img');
    await page
      .getByLabel('Pick a picture')
      .setInputFiles({ name: 'mine.png', mimeType: 'image/png', buffer: pngBytes(1) });
    await picture.waitFor();
    expect(await picture.getAttribute('alt')).toContain('mine.png');
    for (const [kind, seed] of [
      ['paste', 2],
      ['drop', 3],
    ] as const) {
      await page.evaluate(
        ([type, base64]) => {
          const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], `${type}.png`, { type: 'image/png' }));
          const event =
            type === 'paste'
              ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true })
              : new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
          document.body.dispatchEvent(event);
        },
        [kind, pngBytes(seed).toString('base64')] as const,
      );
      await page.getByAltText(`${kind}.png`).waitFor();
    }
    expect(await page.locator('button.main').isDisabled()).toBe(true);
    await page.getByLabel('Question', { exact: true }).fill('Which colour?');
    await page.getByText('Settings').click();
    await page.getByLabel('Patches a step').fill('5');
    await page.getByLabel('Choice A').fill('red');
    await page.getByLabel('Choice B').fill('blue');
    await page.getByLabel('Question', { exact: true }).press('Control+Enter');
    await page.locator('.downloads').waitFor();
    const sent = on.server.requests.at(-1);
    expect(sent.messages[0].content).toEqual([
      { type: 'image_url', image_url: { url: makePuzzle(3).image } },
      { type: 'text', text: 'Which colour?' },
    ]);
    expect(sent.ivtlr).toEqual({ patches: 5, choices: ['red', 'blue'], trace: 'full' });
    expect(await page.locator('.facts').innerText()).toContain('5 patches');

    const broken = { name: 'notes.png', mimeType: 'image/png', buffer: Buffer.from('no picture') };
    await page.getByLabel('Pick a picture').setInputFiles(broken);
    expect(await page.getByRole('alert').innerText()).toMatch(/cannot be read.*notes\.png is no picture/s);
    await close();
  });

  it('makes large photographs smaller before it sends them', async () => {
    const { page, close } = await openPage(on.browser, on.server.url);
    const large = await page.evaluate(() => {
      const canvas = document.createElement('canvas');
      canvas.width = 3000;
      canvas.height = 1500;
      canvas.getContext('2d')!.fillRect(0, 0, 1500, 1500);
      return canvas.toDataURL('image/jpeg').split(',')[1]!;
    });
    const photograph = { name: 'photo.jpg', mimeType: 'image/jpeg', buffer: Buffer.from(large, 'base64') };
    await page.getByLabel('Pick a picture').setInputFiles(photograph);
    await page.getByAltText('photo.jpg').waitFor();
    const size = await page
      .locator('.picture-box img')
      .evaluate((element: HTMLImageElement) => [element.naturalWidth, element.naturalHeight]);
    expect(size).toEqual([2048, 1024]);
    await close();
  });

  it('lets the strip and the steps be downloaded', async () => {
    const { page, close } = await openPage(on.browser, on.server.url);
    await ask(page, on.server.url);
    const download = async (name: RegExp) => {
      const [file] = await Promise.all([page.waitForEvent('download'), named(page, name).click()]);
      return { name: file.suggestedFilename(), bytes: await readFile(await file.path()) };
    };
    const json = await download(/JSON/);
    expect(json.name).toBe('ivtlr-answer.json');
    const content = JSON.parse(json.bytes.toString());
    expect(content).toMatchObject({
      model: 'dominoes',
      choices: makePuzzle(7).choices,
      gold: makePuzzle(7).answer,
      status: 'done',
    });
    expect(
      content.steps
        .filter(({ kind }: { kind: string }) => kind === 'latent')
        .map(({ picked }: { picked: number[] }) => picked),
    ).toEqual(
      makePuzzle(7)
        .cells.slice(0, 3)
        .map((cell: number) => [cell]),
    );
    const strip = await download(/PNG/);
    expect(strip.bytes.subarray(1, 4).toString()).toBe('PNG');
    // Four panels beside each other, at two pixels a unit.
    expect(strip.bytes.readUInt32BE(16)).toBe(2 * (4 * 300 + 3 * 20 + 2 * 24));
    await close();
  });

  it('stops an answer and frees its row', async () => {
    const { page, close } = await openPage(on.browser, on.server.url);
    const left = on.server.abandoned.length;
    const release = on.server.hold(4);
    await ask(page, on.server.url);
    await page.locator('.token').first().waitFor();
    await named(page, 'Stop').click();
    await page.getByText('Stopped.').waitFor();
    await expect.poll(() => on.server.abandoned.length).toBe(left + 1);
    release();
    expect(await page.locator('.frame').count()).toBe(3);
    expect(await page.locator('.token').count()).toBe(1);
    await close();
  });

  it('asks what if parts were taken away, and marks what is different', async () => {
    const { page, close } = await openPage(on.browser, on.server.url);
    await ask(page, on.server.url, '#/what-if?seed=7&vary=zero-latents');
    const card = (name: string) => page.getByRole('article', { name });
    await card('zero latent steps').getByText('≠ other answer').waitFor();
    expect(await card('as trained').innerText()).toContain('✓ right');
    expect(await card('zero latent steps').innerText()).toMatch(/✗ wrong/);
    expect(await card('zero latent steps').locator('mark').count()).toBeGreaterThan(0);
    // Both were asked at once; either may have come first.
    expect(lastRequests(2).map(({ ivtlr }) => ivtlr.ablation ?? 'none')).toEqual(
      expect.arrayContaining(['none', 'zero-latents']),
    );

    await page.getByLabel('random patches').check();
    expect((await paramsOf(page)).get('vary')).toBe('zero-latents,random-patches');
    expect(await card('random patches').innerText()).toContain('Not asked yet');
    await page.locator('button.main').click();
    await card('random patches').getByText('Other patches picked in').waitFor();
    // A step that is shown large in one card is so in the others.
    await card('random patches')
      .getByRole('button', { name: /^Latent step 2/ })
      .click();
    const large = page.getByRole('img', { name: /^Latent step 2: looked at/ });
    await expect.poll(() => large.count()).toBe(2);
    await close();
  });

  it('forces and forbids patches by clicking on the picture or with the keyboard, and keeps them in the address', async () => {
    const { page, close } = await openPage(on.browser, on.server.url);
    await ask(page, on.server.url, '#/what-if?seed=7');
    await page.getByText('Force or forbid patches').click();
    const grid = page.getByRole('grid', { name: 'Patches of latent step 1' });
    await grid.getByRole('gridcell', { name: 'row 1, column 1, free' }).click();
    await page.getByRole('radio', { name: 'Forbid' }).check();
    await grid.getByRole('gridcell', { name: 'row 1, column 2, free' }).click();
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    expect(await grid.getByRole('gridcell', { name: 'row 2, column 2, forbidden' }).count()).toBe(1);
    await grid.getByRole('gridcell', { name: 'row 1, column 2, forbidden' }).click();
    await page.getByRole('radio', { name: 'Force' }).check();
    await page.getByRole('radio', { name: 'Step 2' }).check();
    await page.getByRole('gridcell', { name: 'row 4, column 4, free' }).click();
    const params = await paramsOf(page);
    expect([params.get('force'), params.get('forbid')]).toEqual(['0:0;1:15', '0:5']);
    await page.locator('button.main').click();
    const card = page.getByRole('article', { name: 'patches of your choice' });
    await card.getByText('Other patches picked in steps 1, 2.').waitFor();
    expect(lastRequests(2).map(({ ivtlr }) => ivtlr)).toContainEqual(
      expect.objectContaining({ force: [[0], [15]], forbid: [[5]] }),
    );
    await page.reload();
    await page.locator('.picture-box img').waitFor();
    expect(await page.locator('button.main').innerText()).toBe('Ask 2 ways');
    await close();
  });

  it('lays the patches to click on exactly over the picture, also where they are many and small', async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/what-if?q=What%3F`);
    const picture = await page.evaluate(() => {
      const canvas = document.createElement('canvas');
      canvas.width = 560;
      canvas.height = 336;
      return canvas.toDataURL().split(',')[1]!;
    });
    const wide = { name: 'wide.png', mimeType: 'image/png', buffer: Buffer.from(picture, 'base64') };
    await page.getByLabel('Pick a picture').setInputFiles(wide);
    await page.locator('.picture-box img').waitFor();
    await page.locator('button.main').click();
    await page.getByText('Force or forbid patches').click();
    // The stage has no width before the browser has laid it out.
    const stage = page.locator('.picker-stage canvas');
    await expect.poll(async () => (await stage.boundingBox())?.width).toBeGreaterThan(100);
    const drawn = (await stage.boundingBox())!;
    const last = (await page.getByRole('gridcell', { name: 'row 12, column 20, free' }).boundingBox())!;
    expect(last.x + last.width).toBeCloseTo(drawn.x + drawn.width, 0);
    expect(last.y + last.height).toBeCloseTo(drawn.y + drawn.height, 0);
    expect(last.height).toBeCloseTo(drawn.height / 12, 0);
    await close();
  });

  it('compares with written reasoning', async () => {
    const { page, close } = await openPage(on.browser, on.server.url);
    await ask(page, on.server.url, '#/compare?seed=7&writer=dominoes-cot');
    const table = page.getByRole('table', { name: /Steps and time/ });
    await table.waitFor();
    expect(await table.getByRole('row', { name: /^latent steps/ }).innerText()).toMatch(/3\s+0/);
    expect(await table.getByRole('row', { name: /^written tokens/ }).innerText()).toMatch(/8\s+17/);
    const written = lastRequests(2).find(({ model }) => model === 'dominoes-cot');
    expect(written.ivtlr.latents).toBe(0);
    await close();
  });

  it("swaps in another picture's patches: another puzzle, or a picture of the reader's", async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/what-if?seed=7`);
    await page.locator('.picture-box img').waitFor();
    await page.getByLabel("another picture's patches").check();
    const other = page.getByRole('group', { name: 'The other picture' }).getByRole('img');
    await other.waitFor();
    expect(await other.getAttribute('src')).toBe(makePuzzle(8).image);
    await named(page, 'Ask 2 ways').click();
    const card = page.getByRole('article', { name: "another picture's patches" });
    await card.getByText('≠ other answer').waitFor();
    const sent = () => lastRequests(2).find(({ ivtlr }) => ivtlr.ablation === 'patches-swapped')!.ivtlr;
    expect(sent().other_image).toEqual({ url: makePuzzle(8).image });
    const file = { name: 'mine.png', mimeType: 'image/png', buffer: pngBytes(3) };
    await page.getByLabel('Pick the other picture').setInputFiles(file);
    await page.getByRole('img', { name: 'Whose latent steps are taken: mine.png' }).waitFor();
    // What was asked with the other puzzle does not stand for it.
    await card.getByText('Not asked yet').waitFor();
    await named(page, 'Ask 2 ways').click();
    await card.getByText('≠ other answer').waitFor();
    expect(sent().other_image).toEqual({ url: makePuzzle(3).image });
    await close();
  });

  it('asks about several pictures, with picks on the right one, and about none', async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/ask?model=many-pictures&q=What+changed%3F`);
    await page.locator('.served.good').waitFor();
    const picker = page.getByLabel('Pick a picture');
    const file = (seed: number) => ({ name: `${seed}.png`, mimeType: 'image/png', buffer: pngBytes(seed) });
    await picker.setInputFiles([file(1), file(2)]);
    await expect.poll(() => page.locator('.picture-box img').count()).toBe(2);
    await picker.setInputFiles(file(3));
    await expect.poll(() => page.locator('.picture-box img').count()).toBe(3);
    await named(page, 'Remove picture 2').click();
    await expect.poll(() => page.locator('.picture-box img').count()).toBe(2);
    await named(page, 'Ask').click();
    await page.locator('.downloads').waitFor();
    const content = lastRequests(1)[0].messages[0].content;
    const urls = content.flatMap((part: { image_url?: { url: string } }) => part.image_url?.url ?? []);
    expect(urls).toEqual([makePuzzle(1).image, makePuzzle(3).image]);
    const stage = page.locator('.stage-picture canvas');
    expect(await stage.count()).toBe(2);
    // Each latent step picks one patch, which is on one of the pictures.
    const looked = async () => {
      const names = await Promise.all([0, 1].map((at) => stage.nth(at).getAttribute('aria-label')));
      return names.map((name) => /^Latent step \d of 3, picture \d: looked at (.*)$/.exec(name!)![1]);
    };
    for (const frame of [0, 1]) {
      await page.locator('.frame').nth(frame).click();
      expect((await looked()).map((place) => place === 'nothing').sort()).toEqual([false, true]);
    }
    // A patch of the second picture is named as one.
    const box = (await stage.nth(1).boundingBox())!;
    await page.mouse.move(box.x + box.width * 0.9, box.y + box.height * 0.1);
    await page
      .locator('.scores .pointed th')
      .getByText(/^picture 2, row 1, column/)
      .waitFor();
    await named(page, 'Remove picture 2').click();
    await named(page, 'Remove picture 1').click();
    await page.getByText('Drop or paste pictures').waitFor();
    await named(page, 'Ask').click();
    await expect.poll(() => lastRequests(1)[0].messages[0].content).toEqual([{ type: 'text', text: 'What changed?' }]);
    await page.locator('.downloads').waitFor();
    expect(await stage.count()).toBe(0);
    await close();
  });

  it('lays training runs over each other', async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/runs`);
    await page.getByRole('img', { name: /^Loss .*Latest: seed 2 / }).waitFor();
    await page.getByLabel('dominoes', { exact: true }).check();
    await page.getByRole('img', { name: /^Loss .*Latest: seed 2 .*, dominoes / }).waitFor();
    expect((await paramsOf(page)).getAll('run')).toEqual(['seed 2', 'dominoes']);
    await expect.poll(() => page.locator('.chart canvas').count()).toBe(6);
    // The pointer over one chart brings up the values of all of them at that step.
    await page.locator('.chart .u-over').first().hover();
    await expect.poll(() => page.getByText(/^at step [\d,]+$/).count()).toBe(6);
    expect(await page.getByText('step-001600').count()).toBe(1);
    const ablations = page.getByRole('region', { name: 'Ablations of dominoes, ablations.json' });
    const taken = ablations.getByRole('row', { name: /^zero latent steps/ });
    expect(await taken.innerText()).toMatch(/0\.120.*−0\.880.*44\s+0\s+88%/s);
    expect(await ablations.getByText('not possible: a step has nothing').count()).toBe(1);
    expect(await page.getByText('running').count()).toBe(1);
    await close();
  });

  it('keeps the question while it goes from page to page, and goes back', async () => {
    const { page, close } = await openPage(on.browser, `${on.server.url}/#/ask?seed=7`);
    await page.locator('.picture-box img').waitFor();
    const text = await page.getByLabel('Question', { exact: true }).inputValue();
    for (const name of ['What if', 'Runs', 'Compare']) await page.getByRole('link', { name }).click();
    expect(await page.getByLabel('Question', { exact: true }).inputValue()).toBe(text);
    await page.goBack();
    await expect.poll(() => page.title()).toBe('Runs · IVT-LR');
    await close();
  });
});
