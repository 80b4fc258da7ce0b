/** Dark or light: the system's choice until the reader makes another. */
import { useEffect, useLayoutEffect, useState } from 'preact/hooks';

export type Theme = 'dark' | 'light';

const dark = matchMedia('(prefers-color-scheme: dark)');
const systems = (): Theme => (dark.matches ? 'dark' : 'light');

export function useTheme(): [Theme, (theme: Theme) => void] {
  const [own, setOwn] = useState<Theme | null>(() => {
    const kept = localStorage.getItem('ivtlr-theme');
    return kept === 'dark' || kept === 'light' ? kept : null;
  });
  const [system, setSystem] = useState(systems);
  useEffect(() => {
    const follow = () => setSystem(systems());
    dark.addEventListener('change', follow);
    return () => dark.removeEventListener('change', follow);
  }, []);
  const theme = own ?? system;
  // Before the charts take their colours from it.
  useLayoutEffect(() => {
    document.documentElement.dataset.theme = theme;
  }, [theme]);
  return [
    theme,
    (next) => {
      const kept = next === system ? null : next;
      if (kept) localStorage.setItem('ivtlr-theme', kept);
      else localStorage.removeItem('ivtlr-theme');
      setOwn(kept);
    },
  ];
}
