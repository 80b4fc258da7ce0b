import type { AblationTableRow, AblationTable as Table } from '../../../../packages/ivtlr/src/server/protocol.ts';
import { count, shortNumber, signed } from '../state/numbers.ts';

/** What becomes of a model's answers when parts of its latent steps are taken away. */
export function AblationTable({ run, table }: { run: string; table: Table }) {
  const { file, model, task, split, rows } = table;
  const samples = rows[0]?.result?.samples;
  return (
    <div>
      <p class="quiet">
        <strong>{run}</strong> with parts taken away · {model} · {task}, {split}
        {samples !== undefined && ` · ${count(samples, 'sample')}`} · {file} · marked: differences whose 95% interval
        leaves out 0
      </p>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls sideways on narrow screens */}
      <section class="scroll" aria-label={`Ablations of ${run}, ${file}`} tabIndex={0}>
        <table class="ablation-table">
          <thead>
            <tr class="head">
              <th scope="col">Taken away</th>
              <th scope="col">Accuracy, 95% interval</th>
              <th scope="col" class="number">
                Against full
              </th>
              <th scope="col" class="number">
                Lost
              </th>
              <th scope="col" class="number">
                Gained
              </th>
              <th scope="col" class="number">
                Other text
              </th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <Row key={row.key} row={row} />
            ))}
          </tbody>
        </table>
      </section>
    </div>
  );
}

function Row({ row: { title, result, versus, problem } }: { row: AblationTableRow }) {
  if (!result)
    return (
      <tr>
        <th scope="row">{title}</th>
        <td colSpan={5} class="quiet">
          not possible{problem !== null && `: ${problem}`}
        </td>
      </tr>
    );
  const [low, high] = result.interval95;
  return (
    <tr>
      <th scope="row">{title}</th>
      <td>
        <span class="share">
          <span class="track" aria-hidden="true">
            <span class="fill" style={{ width: `${100 * result.accuracy}%` }} />
            <span class="whisker" style={{ left: `${100 * low}%`, width: `${100 * (high - low)}%` }} />
          </span>
          {result.accuracy.toFixed(3)}{' '}
          <span class="quiet">
            {low.toFixed(3)}–{high.toFixed(3)}
          </span>
        </span>
      </td>
      {versus ? (
        <>
          <td class="number">
            <span class={certain(versus.interval95) ? 'badge other' : ''}>{signed(versus.difference)}</span>{' '}
            <span class="quiet">{versus.interval95.map(signed).join(' to ')}</span>
          </td>
          <td class="number">{versus.lost}</td>
          <td class="number">{versus.gained}</td>
          <td class="number">{shortNumber(100 * versus.textChanged)}%</td>
        </>
      ) : (
        <td colSpan={4} />
      )}
    </tr>
  );
}

/** Whether a difference's interval leaves out 0. */
function certain([low, high]: readonly [number, number]): boolean {
  return low > 0 || high < 0;
}
