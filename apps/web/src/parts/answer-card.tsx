import { useMemo } from 'preact/hooks';
import { type Answer, isRunning, latentSteps } from '../state/answer.ts';
import { sameQuestion } from '../state/build-asked.ts';
import { markWords, onlyIn, otherSteps, pickSummary } from '../state/differences.ts';
import { count, duration } from '../state/numbers.ts';
import { EarlyEnd, Verdict } from './answer-text.tsx';
import { FailureNote } from './failure-note.tsx';
import { StepPictures } from './step-pictures.tsx';
import { pickedBefore, placesOf, SMALL } from './step-viewer.tsx';

interface Props {
  title: string;
  answer: Answer | null;
  /** The answer it is held against; null for that one itself. */
  base: Answer | null;
  /** Index of the latent step that is shown large, in all cards alike. */
  shown: number | null;
  onShow: (index: number | null) => void;
  onRetry: () => void;
}

/** An answer in small: its words, its latent steps, and what is different from the base. */
export function AnswerCard({ title, answer, base, shown, onShow, onRetry }: Props) {
  if (!answer) {
    return (
      <article class="card" aria-label={title}>
        <h2>{title}</h2>
        <p class="quiet">Not asked yet.</p>
      </article>
    );
  }
  const comparable = base?.status === 'done' && answer.status === 'done' && sameQuestion(base.asked, answer.asked);
  const words = comparable
    ? markWords(answer.text.trim(), base.text.trim())
    : [{ text: answer.text.trim(), changed: false }];
  const otherWords = comparable && answer.text.trim() !== base.text.trim();
  return (
    <article class="card" aria-label={title}>
      <h2>
        {title} <Verdict answer={answer} />
        {comparable && (
          <span class={`badge ${otherWords ? 'other' : ''}`}>{otherWords ? '≠ other answer' : '= same answer'}</span>
        )}
      </h2>
      <p class="words" aria-busy={isRunning(answer)}>
        {words.map(({ text, changed }, index) => (changed ? <mark key={index}>{text}</mark> : text))}
        {isRunning(answer) && <span class="caret" aria-hidden="true" />}
      </p>
      {answer.failure && <FailureNote failure={answer.failure} onRetry={onRetry} />}
      <EarlyEnd answer={answer} />
      <CardFilm {...{ answer, shown, onShow }} base={comparable ? base : null} />
      <p class="quiet">
        {count(latentSteps(answer).length, 'latent step')}
        {answer.usage && ` · ${count(answer.usage.completion_tokens, 'written token')}`}
        {answer.ended !== null && ` · ${duration((answer.ended - answer.started) / 1000)}`}
      </p>
    </article>
  );
}

/** Where an answer on show is to another question than the form now has. */
export function ChangedNote() {
  return <p class="quiet">The question has changed since it was asked: ask again.</p>;
}

type FilmProps = Pick<Props, 'base' | 'shown' | 'onShow'> & { answer: Answer };

function CardFilm({ answer, base, shown, onShow }: FilmProps) {
  const { images } = answer;
  const steps = latentSteps(answer);
  const others = base ? latentSteps(base) : [];
  const different = useMemo(
    () => steps.map((step, index) => (base ? onlyIn(step.picked, others[index]?.picked ?? []) : [])),
    [steps.length, base],
  );
  const otherPicks = useMemo(() => (base ? otherSteps(steps, others) : []), [steps.length, base]);
  const earlier = useMemo(() => steps.map((_, index) => pickedBefore(steps, index)), [steps.length]);
  const step = shown === null ? undefined : steps[shown];
  if (steps.length === 0) return null;
  return (
    <>
      <div class="film">
        {steps.map((step, index) => (
          <button
            type="button"
            key={step.step}
            class="plain frame"
            aria-pressed={index === shown}
            onClick={() => onShow(index === shown ? null : index)}
          >
            <StepPictures
              {...{ answer, step }}
              largest={SMALL}
              different={different[index]!}
              earlier={earlier[index]!}
              heat
            />
            <span class="hidden">{`Latent step ${index + 1}: ${placesOf(step, images)}`}</span>
            <span aria-hidden="true">
              {index + 1}
              {otherPicks.includes(index) && ' ≠'}
            </span>
          </button>
        ))}
      </div>
      {step && (
        <StepPictures
          {...{ answer, step }}
          largest={{ width: 260, height: 260 }}
          different={different[shown!]!}
          earlier={earlier[shown!]!}
          heat
          name={`Latent step ${shown! + 1}`}
        />
      )}
      {base && <p class="quiet">{pickSummary(steps, others)}</p>}
    </>
  );
}
