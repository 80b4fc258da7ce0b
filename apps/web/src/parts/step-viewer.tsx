import { useMemo, useState } from 'preact/hooks';
import type { SeenImage } from '../../../../packages/ivtlr/src/server/protocol.ts';
import { highest, tokenName } from '../draw/cells.ts';
import type { Answer, Step } from '../state/answer.ts';
import { count, duration, shortNumber } from '../state/numbers.ts';
import type { Theme } from '../state/use-theme.ts';
import { useWidth } from './step-canvas.tsx';
import { StepPictures } from './step-pictures.tsx';
import { StepPlot } from './step-plot.tsx';

interface Props {
  answer: Answer;
  /** Index into the answer's steps; null follows the latent steps as they come. */
  selected: number | null;
  onSelect: (index: number) => void;
  theme: Theme;
}

/** The steps of an answer as they happen: where each looked, and how sharply. */
export function StepViewer({ answer, selected, onSelect, theme }: Props) {
  const { steps, images, status } = answer;
  const [heat, setHeat] = useState(true);
  const [pointed, setPointed] = useState<number | null>(null);
  const [box, width] = useWidth<HTMLDivElement>();
  const latents = steps.filter(({ kind }) => kind === 'latent').length;
  const index = Math.min(selected ?? Math.max(latents - 1, 0), steps.length - 1);
  const step = steps[index] ?? null;
  const earlier = useMemo(() => pickedBefore(steps, index), [latents, index]);
  const name = step ? stepName(step, index, latents) : '';
  return (
    <section class="viewer" aria-label="Steps">
      <div class="stage">
        <div class="stage-picture" ref={box}>
          {width > 0 && (
            <StepPictures
              {...{ answer, step, earlier, heat, pointed, name }}
              largest={{ width: Math.min(width, 420), height: 420 }}
              onPoint={setPointed}
            />
          )}
        </div>
        <div class="stage-facts">
          {step ? (
            <>
              <h2>{name}</h2>
              <dl class="facts">
                <Fact name="attention ratio" value={shortNumber(step.attentionRatio)} />
                <Fact name="focus" value={shortNumber(step.focus)} />
                <Fact name="time" value={duration(step.seconds)} />
                <Fact
                  name={step.kind === 'latent' ? 'picked' : 'looked at'}
                  value={count(step.picked.length, 'patch', 'patches')}
                />
              </dl>
              <Scores {...{ step, pointed, images }} onPoint={setPointed} />
              {images.length > 0 && (
                <label class="check">
                  <input type="checkbox" checked={heat} onChange={(event) => setHeat(event.currentTarget.checked)} />{' '}
                  attention over the picture
                </label>
              )}
              <Film {...{ answer, index, onSelect }} />
            </>
          ) : (
            <p class="quiet">{status === 'waiting' ? 'Waiting for the first step …' : 'No steps.'}</p>
          )}
        </div>
      </div>
      {steps.length > 0 && (
        <>
          {steps.length > 1 && (
            <input
              class="scrubber"
              type="range"
              min={0}
              max={steps.length - 1}
              value={index}
              aria-label="Step"
              aria-valuetext={name}
              onInput={(event) => onSelect(Number(event.currentTarget.value))}
            />
          )}
          <Written {...{ steps, index, onSelect }} />
          {steps.some(({ attentionRatio }) => attentionRatio !== null) && (
            <StepPlot {...{ steps, onSelect, theme }} selected={index} />
          )}
        </>
      )}
    </section>
  );
}

function Fact({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

interface ScoresProps {
  step: Step;
  images: readonly SeenImage[];
  pointed: number | null;
  onPoint: (token: number | null) => void;
}

/** The highest scores of a step; the patch under the pointer comes below them. */
function Scores({ step, images, pointed, onPoint }: ScoresProps) {
  const { scores, picked } = step;
  if (!scores || scores.length === 0) return null;
  const top = highest(scores, 5);
  const peak = top[0]?.score ?? 0;
  const below = pointed !== null && !top.some(({ token }) => token === pointed);
  const rows = below ? [...top, { token: pointed, score: scores[pointed] ?? 0 }] : top;
  return (
    <table class="scores">
      <caption>Highest scores</caption>
      <thead class="hidden">
        <tr>
          <th>Patch</th>
          <th>Share of the highest</th>
          <th>Score</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(({ token, score }) => (
          <tr
            key={token}
            class={token === pointed ? 'pointed' : ''}
            onPointerEnter={() => onPoint(token)}
            onPointerLeave={() => onPoint(null)}
          >
            <th scope="row">
              {tokenName(token, images)}
              {picked.includes(token) && <span title="picked"> ▣</span>}
            </th>
            <td class="bar">
              <span class="fill" style={{ width: `${peak > 0 ? Math.round((100 * score) / peak) : 0}%` }} />
            </td>
            <td class="number">{shortNumber(score)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

interface RowProps {
  steps: readonly Step[];
  index: number;
  onSelect: (index: number) => void;
}

/** CSS pixels of a picture in a row of steps. */
export const SMALL = { width: 80, height: 80 };

/** Latent steps in small. */
function Film({ answer, index, onSelect }: { answer: Answer } & Omit<RowProps, 'steps'>) {
  const { steps, images } = answer;
  const latents = steps.filter(({ kind }) => kind === 'latent').length;
  const earlier = useMemo(() => steps.slice(0, latents).map((_, at) => pickedBefore(steps, at)), [latents]);
  return (
    <div class="film">
      {steps.map((step, at) =>
        step.kind === 'latent' ? (
          <button
            type="button"
            key={step.step}
            class="plain frame"
            aria-pressed={at === index}
            title={topScores(step, images)}
            onClick={() => onSelect(at)}
          >
            <StepPictures {...{ answer, step }} largest={SMALL} earlier={earlier[at]!} heat />
            <span class="hidden">{stepName(step, at, latents)}</span>
            <span aria-hidden="true">{at + 1}</span>
          </button>
        ) : null,
      )}
    </div>
  );
}

/** What was written, token by token. The scrubber is the keyboard's way to them. */
function Written({ steps, index, onSelect }: RowProps) {
  if (!steps.some(({ kind }) => kind === 'token')) return null;
  return (
    <div class="written">
      {steps.map((step, at) =>
        step.kind === 'token' ? (
          <button
            type="button"
            key={at}
            class="plain token"
            tabIndex={-1}
            aria-pressed={at === index}
            aria-label={`Written token ${JSON.stringify(step.text)}`}
            onClick={() => onSelect(at)}
          >
            {step.text.trim() === '' ? '·' : step.text.trim()}
          </button>
        ) : null,
      )}
    </div>
  );
}

function stepName(step: Step, index: number, latents: number): string {
  if (step.kind === 'latent') return `Latent step ${index + 1} of ${latents}`;
  return `Written token ${index - latents + 1}${step.text.trim() ? ` “${step.text.trim()}”` : ''}`;
}

export function pickedBefore(steps: readonly Step[], index: number): ReadonlySet<number> {
  return new Set(steps.slice(0, Math.max(index, 0)).flatMap(({ kind, picked }) => (kind === 'latent' ? picked : [])));
}

export function placesOf({ picked }: Pick<Step, 'picked'>, images: readonly SeenImage[]): string {
  if (picked.length === 0) return 'nothing';
  const named = picked.slice(0, 4).map((token) => tokenName(token, images));
  return picked.length > 4 ? `${named.join('; ')} and ${picked.length - 4} more` : named.join('; ');
}

function topScores({ scores }: Step, images: readonly SeenImage[]): string | undefined {
  if (!scores || images.length === 0) return undefined;
  return highest(scores, 5)
    .map(({ token, score }) => `${tokenName(token, images)}: ${shortNumber(score)}`)
    .join('\n');
}
