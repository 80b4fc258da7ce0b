import { useMemo, useRef, useState } from 'preact/hooks';
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
  const [pointed, setPointed] = useState<number | null>(null);
  const step = pointed === null ? undefined : data[0][pointed];
  const few = curves.every(({ x }) => x.length < 40);
  const version = [runs.map(({ name }) => name), log, marks.map((list) => list.length), few].join();
  return (
    <figure class="chart">
      <figcaption>
        {title}{' '}
        {runs.map(({ name }, index) => (
          <span key={name} class="run-end">
            <i style={{ background: RUN_COLOURS[index % RUN_COLOURS.length] }} />
            {curves[index]!.y.length > 0 ? shortNumber(valueAt(curves[index]!, step)) : 'none yet'}
          </span>
        ))}
        {step !== undefined && <span class="quiet">at step {step.toLocaleString('en')}</span>}
      </figcaption>
      <Plot
        {...{ data, theme, version, height: 190 }}
        onPoint={setPointed}
        label={`${title} over steps. Latest: ${ends.join(', ')}.`}
        options={(colours) => plotOptions(colours, runs, marks, { log, share, few, last: () => lastStep.current })}
      />
    </figure>
  );
}

/** Of the last point up to a step; without one, of the last point. */
function valueAt({ x, y }: Curve, step = Number.POSITIVE_INFINITY): number | undefined {
  return y[x.findLastIndex((at) => at <= step)];
}

function plotOptions(
  colours: PlotColours,
  runs: readonly RunData[],
  marks: readonly ReturnType<typeof stageMarks>[],
  { log, share, few, last }: { log: boolean; share: boolean; few: boolean; last: () => number },
): Omit<uPlot.Options, 'width' | 'height'> {
  return {
    legend: { show: false },
    // Above: names of stages.
    padding: [runs.length === 1 ? 16 : 8, null, null, null],
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
  const scale = devicePixelRatio;
  ctx.save();
  ctx.setLineDash([3 * scale, 3 * scale]);
  ctx.strokeStyle = named ? colours.text : RUN_COLOURS[index % RUN_COLOURS.length]!;
  ctx.lineWidth = scale;
  ctx.fillStyle = colours.text;
  ctx.font = `${10 * scale}px system-ui, sans-serif`;
  ctx.textAlign = 'left';
  ctx.textBaseline = 'bottom';
  // A name that has no room beside the one before it is left out.
  let free = 0;
  for (const [at, { step, name }] of marks.entries()) {
    const x = Math.round(plot.valToPos(step, 'x', true));
    ctx.globalAlpha = 0.6;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.globalAlpha = 1;
    if (!named || x < free) continue;
    const words = shortName(name, marks[at - 1]?.name);
    ctx.fillText(words, x, bbox.top - 2 * scale);
    free = x + ctx.measureText(words).width + 4 * scale;
  }
  ctx.restore();
}

/** `2` for stage-2 after stage-1. */
function shortName(name: string, before = ''): string {
  const withoutNumber = (text: string) => text.replace(/\d+$/, '');
  const number = name.slice(withoutNumber(name).length);
  return number !== '' && withoutNumber(name) === withoutNumber(before) ? number : name;
}
