import type { RunSummary } from '../../../../packages/ivtlr/src/server/protocol.ts';
import { AblationTable } from '../parts/ablation-table.tsx';
import { FailureNote } from '../parts/failure-note.tsx';
import { RUN_COLOURS, RunPlot } from '../parts/run-plot.tsx';
import { ago, shortNumber } from '../state/numbers.ts';
import type { Places } from '../state/place.ts';
import { curveOf } from '../state/run-series.ts';
import { type RunData, useRunData, useRunList } from '../state/use-runs.ts';
import type { Theme } from '../state/use-theme.ts';

interface Props {
  places: Places;
  apiKey: string;
  theme: Theme;
}

const CHARTS = [
  { title: 'Loss (nats per token)', kind: 'step', field: 'loss', log: true },
  { title: 'Held-out accuracy', kind: 'validation', field: 'accuracy', share: true, raw: true },
  { title: 'Token accuracy in training', kind: 'step', field: 'tokenAccuracy', share: true },
  { title: 'Learning rate', kind: 'step', field: 'lr', raw: true },
  { title: 'Samples per second', kind: 'step', field: 'samplesPerSecond' },
  { title: 'Gradient norm', kind: 'step', field: 'gradNorm', log: true },
] as const;

/** Training runs, live, laid over each other. */
export function RunsPage({ places, apiKey, theme }: Props) {
  const { place, change } = places;
  const { list, failure } = useRunList(apiKey);
  // A server without a folder of runs is no trouble.
  const noFolder = failure?.kind === 'missing';
  const asked = place.params.getAll('run');
  // Without a choice the newest one is shown.
  const names = asked.length || !list?.length ? asked : [list[0]!.name];
  const runs = useRunData(names, apiKey).filter(({ lines }) => lines.length > 0);
  const smoothing = Math.min(Math.max(Number(place.params.get('smooth')) || 0, 0), 0.98);
  const log = place.params.get('log') === '1';
  const colourOf = (name: string) => {
    const index = runs.findIndex((run) => run.name === name);
    return index < 0 ? undefined : RUN_COLOURS[index % RUN_COLOURS.length];
  };
  return (
    <div class="runs">
      <h1 class="hidden">Training runs</h1>
      <div class="panel">
        {failure && !noFolder && <FailureNote failure={failure} />}
        {(list?.length === 0 || noFolder) && (
          <p class="quiet">
            No runs here. Start the server with <code>--runs DIR</code>, the folder that <code>ivtlr train</code> writes
            its runs into.
          </p>
        )}
        {list === null && !failure && <p class="quiet">Reading the runs …</p>}
        {asked
          .filter((name) => list?.every((run) => run.name !== name))
          .map((name) => (
            <p key={name}>There is no run “{name}” on this server.</p>
          ))}
        {list !== null && list.length > 0 && (
          <RunTable
            {...{ list, names, colourOf }}
            onToggle={(name, shown) =>
              change({ run: shown ? [...names, name] : names.filter((other) => other !== name) })
            }
          />
        )}
      </div>
      {runs.length > 0 && (
        <div class="panel">
          <div class="plot-settings">
            <label>
              Smoothing{' '}
              <input
                type="range"
                min={0}
                max={0.98}
                step={0.02}
                value={smoothing}
                onInput={(event) => change({ smooth: Number(event.currentTarget.value) || null })}
              />
            </label>
            <label class="check">
              <input
                type="checkbox"
                checked={log}
                onChange={(event) => change({ log: event.currentTarget.checked ? '1' : null })}
              />{' '}
              logarithmic loss and gradient norm
            </label>
          </div>
          <div class="charts">
            {CHARTS.map((chart) => (
              <RunPlot
                key={chart.title}
                {...{ runs, theme }}
                title={chart.title}
                curve={({ lines }) => curveOf(lines, chart.kind, chart.field)}
                smoothing={'raw' in chart ? 0 : smoothing}
                log={'log' in chart && log}
                share={'share' in chart}
              />
            ))}
          </div>
          {runs.map((run) => (
            <Checkpoints key={run.name} run={run} />
          ))}
          {runs.flatMap(({ name, ablations }) =>
            ablations.map((table) => <AblationTable key={`${name}/${table.file}`} run={name} table={table} />),
          )}
        </div>
      )}
    </div>
  );
}

interface TableProps {
  list: readonly RunSummary[];
  names: readonly string[];
  colourOf: (name: string) => string | undefined;
  onToggle: (name: string, shown: boolean) => void;
}

function RunTable({ list, names, colourOf, onToggle }: TableProps) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls sideways on narrow screens
    <section class="scroll" aria-label="Runs" tabIndex={0}>
      <table class="run-table">
        <thead>
          <tr class="head">
            <th scope="col">Run</th>
            <th scope="col">Task</th>
            <th scope="col">Mode</th>
            <th scope="col" class="number">
              Steps
            </th>
            <th scope="col">State</th>
            <th scope="col">Model</th>
          </tr>
        </thead>
        <tbody>
          {list.map(({ name, task, mode, model, steps, totalSteps, running, updated }) => (
            <tr key={name}>
              <th scope="row">
                <label class="check">
                  <input
                    type="checkbox"
                    checked={names.includes(name)}
                    onChange={(event) => onToggle(name, event.currentTarget.checked)}
                  />
                  <i class="swatch" style={{ background: colourOf(name) ?? 'transparent' }} /> {name}
                </label>
              </th>
              <td>{task || '–'}</td>
              <td>{mode || '–'}</td>
              <td class="number">
                {steps.toLocaleString('en')}
                {totalSteps !== null && <span class="quiet"> / {totalSteps.toLocaleString('en')}</span>}
              </td>
              <td>
                {running ? (
                  <span class="badge good">running</span>
                ) : (
                  <span class="quiet">{ago(Date.now() - updated)}</span>
                )}
              </td>
              <td class="quiet path">{model || '–'}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Checkpoints({ run: { name, checkpoints, lines } }: { run: RunData }) {
  const best = curveOf(lines, 'validation', 'accuracy').y.reduce<number | null>(
    (most, value) => (most === null || value > most ? value : most),
    null,
  );
  return (
    <p class="quiet">
      <strong>{name}</strong>
      {best !== null && ` · best held-out accuracy ${shortNumber(best)}`} · checkpoints:{' '}
      {checkpoints.length ? checkpoints.join(', ') : 'none yet'}
    </p>
  );
}
