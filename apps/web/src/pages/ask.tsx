import { useState } from 'preact/hooks';
import { downloadJson, downloadStrip } from '../draw/download.ts';
import { AnswerText } from '../parts/answer-text.tsx';
import { QuestionForm } from '../parts/question-form.tsx';
import { StepViewer } from '../parts/step-viewer.tsx';
import { type Answer, isRunning } from '../state/answer.ts';
import { buildAsked } from '../state/build-asked.ts';
import { numberIn, type Places } from '../state/place.ts';
import type { Answers } from '../state/use-answers.ts';
import type { QuestionState } from '../state/use-question.ts';
import type { Model } from '../state/use-server.ts';
import type { Theme } from '../state/use-theme.ts';

/** What the pages that ask share. */
export interface AskingProps {
  places: Places;
  question: QuestionState;
  answers: Answers;
  models: readonly Model[];
  model: Model | null;
}

export function AskPage({ places, question, answers, models, model, theme }: AskingProps & { theme: Theme }) {
  const { place, change } = places;
  const asked = buildAsked(question, model, place.params);
  const answer = answers.get('base');
  const ask = () => {
    if (!asked) return;
    change({ step: null });
    answers.ask('base', asked);
  };
  return (
    <div class="columns">
      <h1 class="hidden">Ask about a picture</h1>
      <QuestionForm
        {...{ places, question, models, model }}
        ready={asked !== null}
        running={isRunning(answer)}
        onAsk={ask}
        onStop={() => answers.stop('base')}
      />
      <div class="panel" id="results">
        {answer ? (
          <>
            {(answer.steps.length > 0 || isRunning(answer)) && (
              <StepViewer
                {...{ answer, theme }}
                selected={numberIn(place.params, 'step')}
                onSelect={(step) => change({ step })}
              />
            )}
            <AnswerText answer={answer} onRetry={() => answers.ask('base', answer.asked)} />
            {!isRunning(answer) && answer.steps.length > 0 && <Downloads key={answer.started} answer={answer} />}
          </>
        ) : (
          <Welcome />
        )}
      </div>
    </div>
  );
}

function Downloads({ answer }: { answer: Answer }) {
  const [tooLarge, setTooLarge] = useState(false);
  return (
    <>
      <div class="buttons downloads">
        <button type="button" onClick={() => downloadStrip(answer, () => setTooLarge(true))}>
          Download the strip (PNG)
        </button>
        <button type="button" onClick={() => downloadJson(answer)}>
          Download the steps (JSON)
        </button>
      </div>
      {tooLarge && (
        <p role="alert">The strip is too large for this browser to draw. The steps can still be downloaded as JSON.</p>
      )}
    </>
  );
}

function Welcome() {
  return (
    <div class="welcome">
      <h2>Watch a model look before it answers</h2>
      <p>
        Between question and answer the model takes latent steps: nothing is written, but each one looks at the picture
        again and takes the patches it attends to most. They appear here one by one.
      </p>
      <ol>
        <li>Drop, paste or pick a picture, or draw a puzzle.</li>
        <li>Write a question, and choices if there are any.</li>
        <li>Ask. Then scrub over the steps, or go to “What if” and take parts of them away.</li>
      </ol>
    </div>
  );
}
