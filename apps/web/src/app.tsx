/** The frame around the pages, and what they share: question, the other picture, answers, server, key, theme. */
import { useEffect } from 'preact/hooks';
import { AskPage } from './pages/ask.tsx';
import { ComparePage } from './pages/compare.tsx';
import { RunsPage } from './pages/runs.tsx';
import { WhatIfPage } from './pages/what-if.tsx';
import { FailureNote } from './parts/failure-note.tsx';
import { Header, TITLES } from './parts/header.tsx';
import { chosenModel } from './state/build-asked.ts';
import { usePlace } from './state/place.ts';
import { useAnswers } from './state/use-answers.ts';
import { useOtherPicture } from './state/use-other-picture.ts';
import { useQuestion } from './state/use-question.ts';
import { useApiKey, useServer } from './state/use-server.ts';
import { useTheme } from './state/use-theme.ts';

export function App() {
  const places = usePlace();
  const [key, setKey] = useApiKey();
  const [theme, setTheme] = useTheme();
  const server = useServer(key);
  const offline = server.failure?.kind === 'offline';
  const question = useQuestion(places, key, offline);
  const other = useOtherPicture(places, key, offline);
  const answers = useAnswers(key);
  const { page, params } = places.place;
  const model = chosenModel(server.models, params);
  useEffect(() => {
    document.title = `${TITLES[page]} · IVT-LR`;
  }, [page]);
  const shared = { places, question, answers, models: server.models, model };
  return (
    <>
      <Header place={places.place} {...{ theme, setTheme, apiKey: key, setKey, server, model }} />
      <main id="main" tabIndex={-1}>
        {/* Once the models are known, what cannot be had says so in its own place. */}
        {server.failure && !(offline && model) && <FailureNote failure={server.failure} onRetry={server.retry} />}
        {page === 'ask' && <AskPage {...shared} theme={theme} />}
        {page === 'what-if' && <WhatIfPage {...shared} other={other} />}
        {page === 'compare' && <ComparePage {...shared} />}
        {page === 'runs' && <RunsPage places={places} apiKey={key} theme={theme} />}
      </main>
    </>
  );
}
