import { useState } from 'preact/hooks';
import { AnswerCard, ChangedNote } from '../parts/answer-card.tsx';
import { QuestionForm, Select } from '../parts/question-form.tsx';
import { type Answer, type Asked, isRight, isRunning, latentSteps } from '../state/answer.ts';
import { buildAsked, sameQuestion, sameQuestionAndModel } from '../state/build-asked.ts';
import { duration } from '../state/numbers.ts';
import type { AskingProps } from './ask.tsx';

/** The answer after latent steps beside the one with every step written out. */
export function ComparePage({ places, question, answers, models, model }: AskingProps) {
  const { place, change } = places;
  const asked = buildAsked(question, model, place.params);
  // A model that was not trained for latent steps writes all of its own; without one the same model does.
  const usual = models.find((other) => other.id !== model?.id && other.ivtlr.latents === 0) ?? model;
  const writer = models.find(({ id }) => id === place.params.get('writer')) ?? usual;
  const [shown, onShow] = useState<number | null>(null);
  const base = answers.get('base');
  const written = answers.get('written');
  const makeWritten = (from: Asked): Asked => {
    const { patches: _, ...options } = from.options;
    return { ...from, model: writer?.id ?? from.model, options: { ...options, latents: 0 } };
  };
  const ask = () => {
    if (!asked) return;
    answers.ask('base', asked);
    answers.ask('written', makeWritten(asked));
  };
  const both = base?.status === 'done' && written?.status === 'done' && sameQuestion(base.asked, written.asked);
  const stale =
    asked !== null &&
    ((base !== null && !sameQuestionAndModel(base.asked, asked)) ||
      (written !== null && !sameQuestionAndModel(written.asked, makeWritten(asked))));
  return (
    <div class="columns">
      <h1 class="hidden">Compare with written reasoning</h1>
      <QuestionForm
        {...{ places, question, models, model }}
        ready={asked !== null}
        running={isRunning(base) || isRunning(written)}
        onAsk={ask}
        onStop={() => ['base', 'written'].forEach(answers.stop)}
        askLabel="Ask both ways"
      >
        {models.length > 1 && (
          <Select
            label="Model that writes its steps"
            value={writer?.id ?? ''}
            names={models.map(({ id }) => id)}
            onPick={(id) => change({ writer: id })}
          />
        )}
      </QuestionForm>
      <div class="panel" id="results">
        {stale && <ChangedNote />}
        <div class="cards two">
          <AnswerCard
            title="with latent steps"
            answer={base}
            base={null}
            {...{ shown, onShow }}
            onRetry={() => base && answers.ask('base', base.asked)}
          />
          <AnswerCard
            title="without: all of it written"
            answer={written}
            base={base}
            {...{ shown, onShow }}
            onRetry={() => written && answers.ask('written', written.asked)}
          />
        </div>
        {both && <Costs latent={base} written={written} />}
        <p class="quiet">
          The second answer has 0 latent steps. A model that was trained to skip its written steps may answer badly
          without latent ones; a model trained to write them is the fairer match.
          {models.length === 1 && (
            <>
              {' '}
              This server has one model; several are served by <code>ivtlr serve --model A --model B</code>, the bundled
              ones by <code>ivtlr serve --model dominoes --model dominoes-cot</code>.
            </>
          )}
        </p>
      </div>
    </div>
  );
}

interface Row {
  name: string;
  value: (answer: Answer) => number;
  format: (value: number) => string;
}

const whole = (value: number) => String(value);
const tokens = ({ usage, steps }: Answer) =>
  usage?.completion_tokens ?? steps.filter(({ kind }) => kind === 'token').length;

const VERDICTS = new Map([
  [true, 'right'],
  [false, 'wrong'],
  [null, 'cut'],
]);

const ROWS: readonly Row[] = [
  { name: 'latent steps', value: (answer) => latentSteps(answer).length, format: whole },
  { name: 'written tokens', value: tokens, format: whole },
  { name: 'steps together', value: (answer) => latentSteps(answer).length + tokens(answer), format: whole },
  {
    name: 'first word after',
    value: ({ firstText, ended, started }) => ((firstText ?? ended!) - started) / 1000,
    format: duration,
  },
  { name: 'whole answer after', value: ({ ended, started }) => (ended! - started) / 1000, format: duration },
];

function Costs({ latent, written }: { latent: Answer; written: Answer }) {
  return (
    <table class="costs">
      <caption>Steps and time, both asked at once; time as this browser measured it</caption>
      <thead>
        <tr>
          <td />
          <th scope="col">with latent steps</th>
          <th scope="col">all written</th>
        </tr>
      </thead>
      <tbody>
        {(isRight(latent) ?? isRight(written)) !== null && (
          <tr>
            <th scope="row">answer</th>
            {[latent, written].map((answer, index) => (
              <td key={index === 0 ? 'latent' : 'written'}>{VERDICTS.get(isRight(answer))}</td>
            ))}
          </tr>
        )}
        {ROWS.map(({ name, value, format }) => {
          const values = [value(latent), value(written)] as const;
          const most = Math.max(...values);
          return (
            <tr key={name}>
              <th scope="row">{name}</th>
              {values.map((number, index) => (
                <td key={index === 0 ? 'latent' : 'written'} class="bar">
                  <span class="fill short" style={{ width: `${most > 0 ? (50 * number) / most : 0}%` }} />
                  {format(number)}
                </td>
              ))}
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}
