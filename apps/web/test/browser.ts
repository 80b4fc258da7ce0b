/** A real browser for the tests: Debian's Chromium, driven by playwright-core. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, expect } from 'vitest';
import { startFakeServer } from './fake-server.mjs';

/** The one that is named, and no other in its place. */
const CANDIDATES = process.env.CHROMIUM
  ? [process.env.CHROMIUM]
  : ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome', '/usr/bin/google-chrome-stable'];

/** Path of a browser; null where there is none, and then the tests are skipped. */
export const CHROMIUM = CANDIDATES.find((path) => existsSync(path)) ?? null;
export const HOW_TO_GET_ONE = 'apt-get install -y chromium';

if (CHROMIUM === null)
  console.warn(
    `The app's browser tests are skipped: no Chromium (${CANDIDATES.join(', ')}). Install it with: ${HOW_TO_GET_ONE}`,
  );

/** For a suite of tests: a browser and a server without a model, which are there while its tests run. */
export function browserAndServer(options: Parameters<typeof startFakeServer>[0] = {}) {
  const on = {} as { browser: Browser; server: Awaited<ReturnType<typeof startFakeServer>> };
  beforeAll(async () => {
    [on.browser, on.server] = await Promise.all([launch(), startFakeServer(options)]);
  });
  afterAll(async () => {
    await on.browser?.close();
    await on.server?.close();
  });
  return on;
}

export function launch(): Promise<Browser> {
  // Chromium's own sandbox does not work for root, as whom containers run.
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  return chromium.launch({ executablePath: CHROMIUM!, args });
}

export interface Watched {
  page: Page;
  /** Closes the page. @throws when it had an error, broke its content security policy, or asked another host */
  close: () => Promise<void>;
}

/** @param allowed errors in the browser's console that the test brings about */
export async function openPage(
  browser: Browser,
  url: string,
  options: BrowserContextOptions & { allowed?: RegExp } = {},
): Promise<Watched> {
  const { allowed, ...contextOptions } = options;
  const context = await browser.newContext({ viewport: { width: 1240, height: 900 }, ...contextOptions });
  const page = await context.newPage();
  const problems: string[] = [];
  page.on('pageerror', (error) => problems.push(String(error.stack)));
  page.on('console', (message) => {
    if (message.type() === 'error' && !allowed?.test(message.text())) problems.push(message.text());
  });
  page.on('request', (request) => {
    const { origin, protocol } = new URL(request.url());
    if (origin !== new URL(url).origin && protocol !== 'data:' && protocol !== 'blob:')
      problems.push(`request to ${request.url()}`);
  });
  page.setDefaultTimeout(60_000);
  await page.goto(url);
  const close = async () => {
    await context.close();
    expect(problems).toEqual([]);
  };
  return { page, close };
}

let axe: string | undefined;

/** Problems that axe-core finds on the page as it is now, in words. @param rules names of the only rules to check */
export async function accessibilityProblems(page: Page, rules?: string[]): Promise<string[]> {
  axe ??= await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
  await page.evaluate(axe);
  return page.evaluate(async (only) => {
    const { axe } = globalThis as unknown as { axe: typeof import('axe-core') };
    const { violations } = await axe.run(only ? { runOnly: only } : {});
    return violations.flatMap(({ id, nodes }) =>
      nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 200)} ${failureSummary}`),
    );
  }, rules);
}

/** A page's button, by the name that a screen reader says. */
export function named(page: Page, name: string | RegExp) {
  return page.getByRole('button', { name, exact: typeof name === 'string' });
}

/** What the address of a page says after its `?`. */
export async function paramsOf(page: Page): Promise<URLSearchParams> {
  return new URLSearchParams((await page.evaluate(() => location.hash)).split('?')[1] ?? '');
}
