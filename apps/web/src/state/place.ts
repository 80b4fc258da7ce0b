/** Where the reader is: the page and what it shows, in the address after `#`, so that a link brings another reader there. */
import { useCallback, useLayoutEffect, useState } from 'preact/hooks';

export const PAGES = ['ask', 'what-if', 'compare', 'runs'] as const;
export type Page = (typeof PAGES)[number];

export interface Place {
  page: Page;
  params: URLSearchParams;
}

/** New values of parameters; null and an empty list take them away. */
export type Changes = Record<string, string | number | readonly string[] | null>;

export function parsePlace(hash: string): Place {
  const [path = '', query = ''] = hash.replace(/^#?\/?/, '').split('?', 2);
  const page = PAGES.find((name) => name === path) ?? 'ask';
  return { page, params: new URLSearchParams(query) };
}

export function formatPlace({ page, params }: Place): string {
  const query = params.toString();
  return `#/${page}${query === '' ? '' : `?${query}`}`;
}

export function changed(params: URLSearchParams, changes: Changes): URLSearchParams {
  const next = new URLSearchParams(params);
  for (const [name, value] of Object.entries(changes)) {
    next.delete(name);
    if (value === null) continue;
    if (Array.isArray(value)) for (const item of value) next.append(name, item);
    else next.set(name, String(value));
  }
  return next;
}

/** A whole number of a parameter; null when there is none or it is no such number. */
export function numberIn(params: URLSearchParams, name: string): number | null {
  const text = params.get(name);
  return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : null;
}

export interface Places {
  place: Place;
  /** Changes parameters in place; the browser's history keeps one entry for a page. */
  change: (changes: Changes) => void;
}

export function usePlace(): Places {
  const [place, setPlace] = useState(() => parsePlace(location.hash));
  // Before the first painting: an effect that waits for it would miss a change of the address in between.
  useLayoutEffect(() => {
    const follow = () => setPlace(parsePlace(location.hash));
    addEventListener('hashchange', follow);
    return () => removeEventListener('hashchange', follow);
  }, []);
  const change = useCallback((changes: Changes) => {
    const now = parsePlace(location.hash);
    const next = { ...now, params: changed(now.params, changes) };
    history.replaceState(null, '', formatPlace(next));
    setPlace(next);
  }, []);
  return { place, change };
}
