import { useMemo, useRef } from 'preact/hooks';
import type uPlot from 'uplot';
import { shortNumber } from '../state/numbers.ts';
import { align, type Curve, smooth, stageMarks, thin } from '../state/run-series.ts';
import type { RunData } from '../state/use-runs.ts';
import type { Theme } from '../state/use-theme.ts';
import { axis, Plot, type PlotColours } from './plot.tsx';

export const RUN_COLOURS = ['#1f8a9e', '#d9772b', '#8a62c9', '#3f9a4f', '#c9477f', '#8d7a3c', '#5677d8', '#b84a3f'];
const MOST_POINTS = 1500;

interface Props {
  title: string;
  runs: readonly RunData[];
  curve: (run: RunData) => Curve;
  smoothing?: number;
  log?: boolean;
  /** Share of one: the axis ends at 0 and 1. */
  share?: boolean;
  theme: Theme;
}

/** One number of several runs over their steps, with marks where a stage begins. */
export function RunPlot({ title, runs, curve, smoothing = 0, log = false, share = false, theme }: Props) {
  const curves = useMemo(
    () => runs.map((run) => thin(smooth(curve(run), smoothing), MOST_POINTS)),
    [runs.map(({ name, lines }) => `${name}:${lines.length}`).join(), smoothing],
  );
  const data = useMemo(() => align(curves) as uPlot.AlignedData, [curves]);
  const marks = runs.map(({ lines }) => stageMarks(lines));
  // Charts of the same runs share their x axis, also those whose numbers begin late.
  const lastStep = useRef(0);
  lastStep.current = Math.max(0, ...runs.map(({ lines }) => Number(lines.at(-1)?.step) || 0));
  const ends = runs.map(({ name }, index) => `${name} ${shortNumber(curves[index]!.y.at(-1))}`);
  const few = curves.every(({ x }) => x.length < 40);
  const version = [runs.map(({ name }) => name), log, marks.map((list) => list.length), few].join();
  return (
    <figure class="chart">
      <figcaption>
        {title}{' '}
        {runs.map(({ name }, index) => (
          <span key={name} class="run-end">
            <i style={{ background: RUN_COLOURS[index % RUN_COLOURS.length] }} />
            {curves[index]!.y.length > 0 ? shortNumber(curves[index]!.y.at(-1)) : 'none yet'}
          </span>
        ))}
      </figcaption>
      <Plot
        {...{ data, theme, version, height: 190 }}
        label={`${title} over steps. Latest: ${ends.join(', ')}.`}
        options={(colours) => plotOptions(colours, runs, marks, { log, share, few, last: () => lastStep.current })}
      />
    </figure>
  );
}

function plotOptions(
  colours: PlotColours,
  runs: readonly RunData[],
  marks: readonly ReturnType<typeof stageMarks>[],
  { log, share, few, last }: { log: boolean; share: boolean; few: boolean; last: () => number },
): Omit<uPlot.Options, 'width' | 'height'> {
  return {
    legend: { show: false },
    cursor: { sync: { key: 'runs' }, points: { size: 6 } },
    scales: {
      x: { time: false, range: () => [0, Math.max(last(), 1)] },
      y: log
        ? { distr: 3 }
        : share
          ? { range: [0, 1.02] }
          : { range: (_plot, min, max) => [Math.min(0, min), (max || 1) * 1.05] },
    },
    axes: [
      axis(colours, { size: 26, grid: { show: false } }),
      axis(colours, { values: (_plot, values) => values.map((value) => (value === null ? '' : shortNumber(value))) }),
    ],
    series: [
      {},
      ...runs.map(({ name }, index) => ({
        label: name,
        stroke: RUN_COLOURS[index % RUN_COLOURS.length]!,
        width: 1.4,
        spanGaps: true,
        points: { show: few, size: 5 },
      })),
    ],
    hooks: {
      draw: [
        (plot) => {
          for (const [index, list] of marks.entries()) drawMarks(plot, list, index, colours, runs.length === 1);
        },
      ],
    },
  };
}

/** A line where each stage begins; its name beside it where only one run is shown. */
function drawMarks(
  plot: uPlot,
  marks: ReturnType<typeof stageMarks>,
  index: number,
  colours: PlotColours,
  named: boolean,
) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  ctx.strokeStyle = named ? colours.text : RUN_COLOURS[index % RUN_COLOURS.length]!;
  ctx.globalAlpha = 0.6;
  ctx.lineWidth = devicePixelRatio;
  ctx.fillStyle = colours.text;
  ctx.font = `${10 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.textAlign = 'left';
  ctx.textBaseline = 'top';
  for (const { step, name } of marks) {
    const x = Math.round(plot.valToPos(step, 'x', true));
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    if (named) ctx.fillText(name, x + 3 * devicePixelRatio, bbox.top + 2 * devicePixelRatio);
  }
  ctx.restore();
}
