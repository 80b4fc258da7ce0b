import type { ComponentChildren } from 'preact';
import { letterOf } from '../state/answer.ts';
import { DEFAULT_MAX_TOKENS } from '../state/build-asked.ts';
import { numberIn, type Places } from '../state/place.ts';
import type { QuestionState } from '../state/use-question.ts';
import type { Model } from '../state/use-server.ts';
import { PictureInput } from './picture-input.tsx';

interface Props {
  places: Places;
  question: QuestionState;
  models: readonly Model[];
  model: Model | null;
  /** Whether enough is there to ask. */
  ready: boolean;
  running: boolean;
  onAsk: () => void;
  onStop: () => void;
  /** Words on the button. */
  askLabel?: string;
  children?: ComponentChildren;
}

/** Picture, question, choices and settings: the left column of every page that asks. */
export function QuestionForm(props: Props) {
  const { question, model, ready, running, onAsk, onStop, askLabel = 'Ask' } = props;
  const submit = (event: Event) => {
    event.preventDefault();
    if (!ready) return;
    onAsk();
    setTimeout(showResults, 100);
  };
  return (
    <form class="question panel" onSubmit={submit} aria-label="What to ask">
      <PictureInput question={question} several={model !== null && !model.ivtlr.oneImage} />
      <label class="field">
        Question
        <textarea
          rows={2}
          value={question.text}
          onInput={(event) => question.setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
            event.preventDefault();
            // Checks the settings first, as the button does.
            event.currentTarget.form!.requestSubmit();
          }}
        />
      </label>
      <Choices choices={question.choices} onChange={question.setChoices} />
      <Settings {...props} />
      {props.children}
      <div class="buttons">
        <button type="submit" class="main" disabled={!ready}>
          {askLabel}
        </button>
        {!ready && <span class="quiet">{missing(question, model)}</span>}
        {running && (
          <button type="button" onClick={onStop}>
            Stop
          </button>
        )}
      </div>
    </form>
  );
}

/** What has to be there before it can be asked. */
function missing({ pictures }: QuestionState, model: Model | null): string {
  if (!model?.ivtlr.oneImage || pictures.length === 1) return 'A question first.';
  return pictures.length === 0 ? 'A picture and a question first.' : 'The model takes one picture: remove the others.';
}

/** Where the answer stands below the form, as on phones, it is brought into sight. */
function showResults(): void {
  const results = document.getElementById('results');
  if (results && results.getBoundingClientRect().top > innerHeight / 2) results.scrollIntoView();
}

const MAX_CHOICES = 26;

/** One field a choice, and an empty one to add another. */
function Choices({
  choices,
  onChange,
}: {
  choices: readonly string[];
  onChange: (choices: readonly string[]) => void;
}) {
  const fields = choices.length < MAX_CHOICES ? [...choices, ''] : choices;
  const put = (index: number, text: string) =>
    // A pasted list makes a choice of each line.
    onChange([...choices.slice(0, index), ...text.split('\n'), ...choices.slice(index + 1)].slice(0, MAX_CHOICES));
  const dropEmpty = () => {
    if (choices.includes('')) onChange(choices.filter((choice) => choice !== ''));
  };
  return (
    <fieldset class="choices">
      <legend>Choices</legend>
      {fields.map((choice, index) => (
        <label key={index}>
          <span aria-hidden="true">{letterOf(index)}</span>
          <input
            type="text"
            aria-label={`Choice ${letterOf(index)}`}
            value={choice}
            placeholder={index === choices.length ? 'add' : undefined}
            onInput={(event) => put(index, event.currentTarget.value)}
            onPaste={(event) => {
              const text = event.clipboardData?.getData('text') ?? '';
              if (!text.trim().includes('\n')) return;
              event.preventDefault();
              put(index, text.trim());
            }}
            onBlur={dropEmpty}
          />
        </label>
      ))}
    </fieldset>
  );
}

function Settings({ places: { place, change }, models, model }: Props) {
  const { params } = place;
  const trained = model?.ivtlr;
  const tasks = trained?.tasks ?? [];
  const changedOnes = ['latents', 'patches', 'max', 'task', 'model'].filter((name) => params.has(name));
  return (
    // The browser has nowhere to say what is wrong with a field that is folded away.
    <details class="settings" onInvalidCapture={(event) => (event.currentTarget.open = true)}>
      <summary>Settings{changedOnes.length > 0 && <em> · {changedOnes.join(', ')} changed</em>}</summary>
      <div class="grid">
        {models.length > 1 && (
          <Select
            label="Model"
            value={model?.id ?? ''}
            names={models.map(({ id }) => id)}
            onPick={(id) => change({ model: id })}
          />
        )}
        {tasks.length > 1 && (
          <Select
            label="Task"
            value={params.get('task') ?? trained?.task ?? ''}
            names={trained?.task ? tasks : ['', ...tasks]}
            onPick={(task) => change({ task: task === (trained?.task ?? '') ? null : task })}
          />
        )}
        <Count label="Latent steps" name="latents" usual={trained?.latents} places={{ place, change }} max={64} />
        <Count label="Patches a step" name="patches" usual={trained?.patches} places={{ place, change }} max={4096} />
        <Count
          label="Longest answer"
          name="max"
          usual={DEFAULT_MAX_TOKENS}
          places={{ place, change }}
          max={trained?.maxTokens ?? 4096}
        />
      </div>
    </details>
  );
}

interface SelectProps {
  label: string;
  value: string;
  names: readonly string[];
  onPick: (name: string) => void;
}

export function Select({ label, value, names, onPick }: SelectProps) {
  return (
    <label class="field">
      {label}
      <select value={value} onChange={(event) => onPick(event.currentTarget.value)}>
        {names.map((name) => (
          <option key={name} value={name}>
            {name === '' ? 'as the model has it' : name}
          </option>
        ))}
      </select>
    </label>
  );
}

interface CountProps {
  label: string;
  name: string;
  usual: number | undefined;
  max: number;
  places: Places;
}

/** A whole number that is as usual while the field is empty. */
function Count({ label, name, usual, max, places: { place, change } }: CountProps) {
  const value = numberIn(place.params, name);
  return (
    <label class="field">
      {label}
      <input
        type="number"
        min={name === 'latents' ? 0 : 1}
        max={max}
        step={1}
        value={value ?? ''}
        placeholder={usual === undefined ? '' : String(usual)}
        onInput={(event) => change({ [name]: event.currentTarget.value === '' ? null : event.currentTarget.value })}
      />
    </label>
  );
}
