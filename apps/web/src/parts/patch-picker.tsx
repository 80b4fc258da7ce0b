import { useRef, useState } from 'preact/hooks';
import { tokenIn, viewsOf } from '../../../../packages/ivtlr/src/vision/token-views.ts';
import { cellName } from '../draw/cells.ts';
import { type Answer, latentSteps } from '../state/answer.ts';
import { count } from '../state/numbers.ts';
import { type TokensPerStep, withToken } from '../state/tokens-per-step.ts';
import { StepCanvas, useWidth } from './step-canvas.tsx';
import { pickedBefore } from './step-viewer.tsx';

interface Props {
  /** As trained, with latent steps: its picture is clicked on. */
  base: Answer;
  force: TokensPerStep;
  forbid: TokensPerStep;
  onChange: (force: TokensPerStep, forbid: TokensPerStep) => void;
}

const WIDTH = 340;

/** Clicking on a patch forces it into the chosen latent step, or forbids it there; clicking again leaves it free. */
export function PatchPicker({ base, force, forbid, onChange }: Props) {
  const [chosen, setChosen] = useState(0);
  /** The one patch that the Tab key reaches; arrow keys move it. */
  const [current, setCurrent] = useState(0);
  const [forcing, setForcing] = useState(true);
  const [box, room] = useWidth<HTMLDivElement>();
  const grid = useRef<HTMLDivElement>(null);
  const steps = latentSteps(base);
  const [which, setWhich] = useState(0);
  const shown = Math.min(which, base.images.length - 1);
  const image = base.images[shown];
  const picture = base.asked.question.pictures[shown];
  if (!image || !picture) return null;
  const at = Math.min(chosen, steps.length - 1);
  const most = base.settings?.patches ?? 1;
  // Patches of the first view can be chosen here.
  const view = viewsOf(image)[0]!;
  const [rows, columns] = view.grid;
  const { element } = picture;
  const width = Math.min(WIDTH, room, Math.round((WIDTH * element.naturalWidth) / element.naturalHeight));
  const percent = (part: number, whole: number) => `${(100 * part) / whole}%`;
  const toggle = (token: number) => {
    const [mine, others] = forcing ? [force, forbid] : [forbid, force];
    const chosenBefore = mine[at]?.includes(token) ?? false;
    const next = withToken(mine, at, token, !chosenBefore);
    const rest = withToken(others, at, token, false);
    // A step picks no more than K: of more forced ones the latest count.
    if (forcing)
      onChange(
        next.map((tokens) => tokens.slice(-most)),
        rest,
      );
    else onChange(rest, next);
  };
  const move = (event: KeyboardEvent) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const sideways = Math.abs(by) === 1 && Math.floor((current + by) / columns) !== Math.floor(current / columns);
    const next = current + by;
    if (sideways || next < 0 || next >= rows * columns) return;
    setCurrent(next);
    grid.current?.querySelectorAll('button')[next]?.focus();
  };
  return (
    <div class="picker" ref={box}>
      <div class="picker-stage" style={{ width: `${width}px` }}>
        <StepCanvas {...{ element, image, width }} step={steps[at]!} earlier={pickedBefore(steps, at)} heat />
        {/* biome-ignore lint/a11y/useSemanticElements: cells of a picture, no table */}
        <div
          ref={grid}
          role="grid"
          tabIndex={-1}
          aria-label={`Patches of latent step ${at + 1}`}
          class="patches"
          onKeyDown={move}
          style={{
            left: percent(image.crop.x, image.width),
            top: percent(image.crop.y, image.height),
            width: percent(image.crop.width, image.width),
            height: percent(image.crop.height, image.height),
          }}
        >
          {Array.from({ length: rows }, (_, row) => (
            // biome-ignore lint/a11y/useSemanticElements: as above
            // biome-ignore lint/a11y/useFocusableInteractive: its cells take the focus
            <div role="row" key={row}>
              {Array.from({ length: columns }, (_, column) => {
                const cell = row * columns + column;
                const token = tokenIn(view, row, column);
                const state = force[at]?.includes(token)
                  ? 'forced'
                  : forbid[at]?.includes(token)
                    ? 'forbidden'
                    : 'free';
                return (
                  // biome-ignore lint/a11y/useSemanticElements: as above
                  <button
                    type="button"
                    role="gridcell"
                    key={token}
                    class={`patch ${state}`}
                    tabIndex={cell === current ? 0 : -1}
                    aria-label={`${cellName(token, image)}, ${state}`}
                    onFocus={() => setCurrent(cell)}
                    onClick={() => toggle(token)}
                  >
                    {state === 'forced' ? '✓' : state === 'forbidden' ? '✕' : ''}
                  </button>
                );
              })}
            </div>
          ))}
        </div>
      </div>
      <div class="picker-side">
        {base.images.length > 1 && (
          <fieldset class="segments">
            <legend class="hidden">Picture whose patches are chosen</legend>
            {base.images.map((_, index) => (
              <label key={index}>
                <input type="radio" name="picker-picture" checked={index === shown} onChange={() => setWhich(index)} />
                <span>Picture {index + 1}</span>
              </label>
            ))}
          </fieldset>
        )}
        <fieldset class="segments">
          <legend class="hidden">Latent step whose patches are chosen</legend>
          {steps.map((step, index) => (
            <label key={step.step}>
              <input type="radio" name="picker-step" checked={index === at} onChange={() => setChosen(index)} />
              <span>Step {index + 1}</span>
            </label>
          ))}
        </fieldset>
        <fieldset class="segments">
          <legend class="hidden">What a click does</legend>
          <label>
            <input type="radio" name="picker-mode" checked={forcing} onChange={() => setForcing(true)} />
            <span>
              <i class="sample forced">✓</i> Force
            </span>
          </label>
          <label>
            <input type="radio" name="picker-mode" checked={!forcing} onChange={() => setForcing(false)} />
            <span>
              <i class="sample forbidden">✕</i> Forbid
            </span>
          </label>
        </fieldset>
        <p class="quiet">
          Click on patches, or move with the arrow keys and press Enter; once more leaves them free. A step picks{' '}
          {count(most, 'patch', 'patches')}.
        </p>
        <div class="buttons">
          <button type="button" onClick={() => onChange([], [])} disabled={force.length + forbid.length === 0}>
            Leave all free
          </button>
        </div>
      </div>
    </div>
  );
}
