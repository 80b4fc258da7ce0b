import { formatPlace, PAGES, type Page, type Place } from '../state/place.ts';
import type { Model, Server } from '../state/use-server.ts';
import type { Theme } from '../state/use-theme.ts';

export const TITLES: Readonly<Record<Page, string>> = {
  ask: 'Ask',
  'what-if': 'What if',
  compare: 'Compare',
  runs: 'Runs',
};

interface Props {
  place: Place;
  theme: Theme;
  setTheme: (theme: Theme) => void;
  apiKey: string;
  setKey: (key: string) => void;
  server: Server;
  model: Model | null;
}

/** Pages about a question share its parameters; what belongs to runs stays with runs. */
function linkTo(page: Page, place: Place): string {
  const runs = page === 'runs' || place.page === 'runs';
  return formatPlace({ page, params: runs && page !== place.page ? keptAcross(place, page) : place.params });
}

const RUN_PARAMS = ['run', 'smooth', 'log'];

function keptAcross({ params }: Place, page: Page): URLSearchParams {
  const isRun = (name: string) => RUN_PARAMS.includes(name);
  // The question comes along, so that the way back finds it again.
  return new URLSearchParams([...params].filter(([name]) => page === 'runs' || !isRun(name)));
}

export function Header({ place, theme, setTheme, apiKey, setKey, server, model }: Props) {
  const other = theme === 'dark' ? 'light' : 'dark';
  const state = stateOf(server, model);
  return (
    <header class="top">
      <button type="button" class="skip" onClick={skipToMain}>
        Skip to the content
      </button>
      <span class="brand" aria-hidden="true">
        IVT-LR
      </span>
      <nav aria-label="Pages">
        {PAGES.map((page) => (
          <a key={page} href={linkTo(page, place)} aria-current={page === place.page ? 'page' : undefined}>
            {TITLES[page]}
          </a>
        ))}
      </nav>
      <span class={`served ${server.failure ? 'bad' : model ? 'good' : ''}`} title={`Server: ${state}`}>
        <span class="hidden">Server {state}: </span>
        <span class="served-name">{server.failure ? state : (model?.id ?? state)}</span>
      </span>
      <details
        class="key"
        onKeyDown={(event) => {
          if (event.key === 'Escape') event.currentTarget.open = false;
        }}
        onFocusOut={(event) => {
          if (!event.currentTarget.contains(event.relatedTarget as Node | null)) event.currentTarget.open = false;
        }}
      >
        <summary>Key</summary>
        <label>
          API key, kept until this tab is closed
          <input
            type="password"
            autocomplete="off"
            spellcheck={false}
            value={apiKey}
            onChange={(event) => setKey(event.currentTarget.value.trim())}
          />
        </label>
      </details>
      <button type="button" class="plain" onClick={() => setTheme(other)} aria-label={`Use the ${other} theme`}>
        {theme === 'dark' ? '☀' : '☾'}
      </button>
    </header>
  );
}

function stateOf({ failure }: Server, model: Model | null): string {
  if (failure) return failure.kind === 'key' ? 'key needed' : 'not reachable';
  return model ? 'ready' : 'connecting';
}

/** A button, not a link: the address has the page's state behind its `#`. */
function skipToMain(): void {
  document.getElementById('main')?.focus();
}
