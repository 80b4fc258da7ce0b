import { type Answer, chosenLetter, isRight, isRunning, latentSteps } from '../state/answer.ts';
import { count, duration } from '../state/numbers.ts';
import { FailureNote } from './failure-note.tsx';

/** Right or wrong, where that is known. */
export function Verdict({ answer }: { answer: Answer }) {
  const right = isRight(answer);
  if (right === null) return null;
  return <span class={`badge ${right ? 'good' : 'bad'}`}>{right ? '✓ right' : '✗ wrong'}</span>;
}

/** Why it ended before its end, where it did. */
export function EarlyEnd({ answer: { status, finish } }: { answer: Answer }) {
  if (status === 'stopped') return <p class="quiet">Stopped.</p>;
  if (finish === 'length') return <p class="quiet">Cut at the longest answer that was asked for.</p>;
  return null;
}

const PHASES = [
  ['queued', 'waiting'],
  ['image', 'picture'],
  ['prefill', 'question'],
  ['latents', 'latent steps'],
  ['decode', 'writing'],
] as const;

/** The words of an answer, its end and its cost. */
export function AnswerText({ answer, onRetry }: { answer: Answer; onRetry: () => void }) {
  const { asked, text, status, failure, usage, seconds, started, ended, firstText } = answer;
  const latents = latentSteps(answer).length;
  const letter = chosenLetter(text);
  const choice = letter === null ? undefined : asked.question.choices[letter.charCodeAt(0) - 65];
  return (
    <section class="answer" aria-label="Answer">
      <h2>
        Answer <Verdict answer={answer} />
        {choice !== undefined && status === 'done' && <span class="badge">{`${letter}: ${choice}`}</span>}
      </h2>
      {(text !== '' || isRunning(answer)) && (
        <p class="words" aria-busy={isRunning(answer)}>
          {text.trim()}
          {isRunning(answer) && <span class="caret" aria-hidden="true" />}
        </p>
      )}
      {failure && <FailureNote failure={failure} onRetry={onRetry} />}
      <EarlyEnd answer={answer} />
      {status === 'done' && (
        <p class="quiet">
          {count(latents, 'latent step')}
          {usage && ` · ${count(usage.completion_tokens, 'written token')}`} · {duration((ended! - started) / 1000)}
          {firstText !== null && ` · first word after ${duration((firstText - started) / 1000)}`}
        </p>
      )}
      {seconds && (
        <p class="quiet">
          On the server: {PHASES.map(([phase, name]) => `${name} ${duration(seconds[phase])}`).join(' · ')}
        </p>
      )}
      <p class="hidden" aria-live="polite">
        {spoken(answer)}
      </p>
    </section>
  );
}

function spoken(answer: Answer): string {
  if (answer.status === 'done') return `Answer: ${answer.text.trim()}`;
  if (!isRunning(answer)) return '';
  const latents = latentSteps(answer).length;
  return answer.text !== '' ? 'Writing' : latents > 0 ? `Latent step ${latents}` : 'Waiting for the first step';
}
