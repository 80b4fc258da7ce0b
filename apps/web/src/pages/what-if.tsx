import { useRef, useState } from 'preact/hooks';
import { AnswerCard, ChangedNote } from '../parts/answer-card.tsx';
import { FailureNote } from '../parts/failure-note.tsx';
import { PatchPicker } from '../parts/patch-picker.tsx';
import { FileButton } from '../parts/picture-input.tsx';
import { QuestionForm } from '../parts/question-form.tsx';
import { type Answer, type Asked, isRunning, latentSteps } from '../state/answer.ts';
import { buildAsked, sameQuestionAndModel } from '../state/build-asked.ts';
import { anyToken, formatTokensPerStep, parseTokensPerStep } from '../state/tokens-per-step.ts';
import type { OtherPicture } from '../state/use-other-picture.ts';
import type { AskingProps } from './ask.tsx';

interface Variant {
  /** Of the answer. */
  name: string;
  title: string;
  asked: (base: Asked) => Asked;
}

/** The same question beside itself, with a part of the latent steps taken away or with other patches. */
export function WhatIfPage({ places, question, answers, models, model, other }: AskingProps & { other: OtherPicture }) {
  const { place, change } = places;
  const asked = buildAsked(question, model, place.params);
  const ablations = (model?.ivtlr.ablations ?? []).filter(({ name }) => name !== 'full');
  const chosen = (place.params.get('vary') ?? '')
    .split(',')
    .filter((name) => ablations.some((one) => one.name === name));
  const force = parseTokensPerStep(place.params.get('force'));
  const forbid = parseTokensPerStep(place.params.get('forbid'));
  const base = answers.get('base');
  const stale = base !== null && asked !== null && !sameQuestionAndModel(base.asked, asked);
  const clickable = useLastWithPatches(base, asked);
  const [picking, setPicking] = useState(anyToken(force) || anyToken(forbid));
  const [shown, onShow] = useState<number | null>(null);
  const variants: Variant[] = ablations
    .filter(({ name, otherImage }) => chosen.includes(name) && (!otherImage || other.picture !== null))
    .map(({ name, title, otherImage }) => ({
      name: `vary:${name}`,
      title: otherImage ? (OTHER_TITLES[name] ?? title) : title,
      asked: (base) =>
        withOptions(base, { ablation: name, ...(otherImage && { other_image: { url: other.picture!.url } }) }),
    }));
  const swaps = ablations.some(({ name, otherImage }) => otherImage && chosen.includes(name));
  if (anyToken(force) || anyToken(forbid)) {
    const options = { ...(anyToken(force) && { force }), ...(anyToken(forbid) && { forbid }) };
    variants.push({ name: 'patches', title: 'patches of your choice', asked: (base) => withOptions(base, options) });
  }
  const names = ['base', ...variants.map(({ name }) => name)];
  const vary = (list: readonly string[]) => {
    const swapping = ablations.some(({ name, otherImage }) => otherImage && list.includes(name));
    // Beside a puzzle stands another puzzle, unless the reader picks a picture.
    const draw = swapping && other.picture === null && question.seed !== null;
    change({ vary: list.length ? list.join(',') : null, ...(draw && { other: question.seed! + 1 }) });
  };
  const askAll = () => {
    if (!asked) return;
    answers.ask('base', asked);
    for (const variant of variants) answers.ask(variant.name, variant.asked(asked));
  };
  return (
    <div class="columns">
      <h1 class="hidden">What if</h1>
      <QuestionForm
        {...{ places, question, models, model }}
        ready={asked !== null}
        running={names.some((name) => isRunning(answers.get(name)))}
        onAsk={askAll}
        onStop={() => names.forEach(answers.stop)}
        askLabel={variants.length ? `Ask ${variants.length + 1} ways` : 'Ask'}
      >
        <fieldset class="ablations">
          <legend>Take away</legend>
          {ablations.map(({ name, title }) => (
            <label key={name} class="check">
              <input
                type="checkbox"
                checked={chosen.includes(name)}
                onChange={(event) =>
                  vary(event.currentTarget.checked ? [...chosen, name] : chosen.filter((other) => other !== name))
                }
              />{' '}
              {OTHER_TITLES[name] ?? title}
            </label>
          ))}
          {ablations.length > 1 && (
            <button
              type="button"
              class="plain link"
              onClick={() => vary(chosen.length === ablations.length ? [] : ablations.map(({ name }) => name))}
            >
              {chosen.length === ablations.length ? 'none of them' : 'all of them'}
            </button>
          )}
        </fieldset>
        {swaps && <OtherPictureInput other={other} puzzles={question.seed !== null} />}
      </QuestionForm>
      <div class="panel" id="results">
        {stale && <ChangedNote />}
        <details class="picker-panel" open={picking} onToggle={(event) => setPicking(event.currentTarget.open)}>
          <summary>Force or forbid patches</summary>
          {clickable ? (
            <PatchPicker
              {...{ force, forbid }}
              base={clickable}
              onChange={(nextForce, nextForbid) =>
                change({
                  force: anyToken(nextForce) ? formatTokensPerStep(nextForce) : null,
                  forbid: anyToken(nextForbid) ? formatTokensPerStep(nextForbid) : null,
                })
              }
            />
          ) : (
            <p class="quiet">
              {base?.status === 'done' && !stale
                ? 'This answer has no latent steps whose patches could be chosen.'
                : 'Ask once; then single patches can be forced or forbidden by clicking on the picture.'}
            </p>
          )}
        </details>
        <div class="cards">
          <AnswerCard
            title="as trained"
            answer={base}
            base={null}
            {...{ shown, onShow }}
            onRetry={() => base && answers.ask('base', base.asked)}
          />
          {variants.map(({ name, title, asked: make }) => {
            const answer = answers.get(name);
            const fits = answer !== null && base !== null && isSame(answer.asked, make(base.asked));
            return (
              <AnswerCard
                key={name}
                {...{ title, base, shown, onShow }}
                answer={fits ? answer : null}
                onRetry={() => base && answers.ask(name, make(base.asked))}
              />
            );
          })}
        </div>
        {variants.length === 0 && (
          <p class="quiet">
            Choose at the left what is taken away. Each choice is answered beside the answer as trained.
          </p>
        )}
      </div>
    </div>
  );
}

/** In a batch the other sample's; here those of the picture that the reader adds. */
const OTHER_TITLES: Readonly<Record<string, string>> = {
  'patches-swapped': "another picture's patches",
  'text-swapped': "another picture's latent text",
  'last-text-swapped': "another picture's latent text, last step only",
};

/** The picture whose latent steps are swapped in. */
function OtherPictureInput({ other, puzzles }: { other: OtherPicture; puzzles: boolean }) {
  const { picture, failure, drawPuzzle, takeFile } = other;
  return (
    <fieldset class="other-picture">
      <legend>The other picture</legend>
      {picture ? (
        <img
          src={picture.url}
          alt={`Whose latent steps are taken: ${picture.name}`}
          class={picture.element.naturalWidth < 300 ? 'pixels' : ''}
        />
      ) : (
        <p class="quiet">The same question is asked about it, and its latent steps are taken. Add it first.</p>
      )}
      <div class="buttons">
        {puzzles && (
          <button type="button" onClick={drawPuzzle}>
            Draw another puzzle
          </button>
        )}
        <FileButton label="Pick the other picture" take={(files) => files?.[0] && takeFile(files[0])} />
      </div>
      {failure && <FailureNote failure={failure} />}
    </fieldset>
  );
}

/** The answer whose picture is clicked on: while the same question is asked again, the one before. */
function useLastWithPatches(base: Answer | null, asked: Asked | null): Answer | null {
  const last = useRef<Answer | null>(null);
  if (base?.status === 'done') last.current = base;
  const { current } = last;
  const fits = current !== null && asked !== null && sameQuestionAndModel(current.asked, asked);
  return fits && current.images.length > 0 && latentSteps(current).length > 0 ? current : null;
}

function withOptions(asked: Asked, options: Asked['options']): Asked {
  return { ...asked, options: { ...asked.options, ...options } };
}

function isSame(one: Asked, other: Asked): boolean {
  return sameQuestionAndModel(one, other) && JSON.stringify(one.options) === JSON.stringify(other.options);
}
