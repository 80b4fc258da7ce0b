import { useMemo } from 'preact/hooks';
import type uPlot from 'uplot';
import type { Step } from '../state/answer.ts';
import { shortNumber } from '../state/numbers.ts';
import type { Theme } from '../state/use-theme.ts';
import { axis, Plot, type PlotColours } from './plot.tsx';

interface Props {
  steps: readonly Step[];
  selected: number;
  onSelect: (index: number) => void;
  theme: Theme;
}

/** Attention ratio and focus over the steps, latent ones first. */
export function StepPlot({ steps, selected, onSelect, theme }: Props) {
  const data = useMemo<uPlot.AlignedData>(
    () => [
      steps.map((_, index) => index + 1),
      steps.map(({ attentionRatio }) => attentionRatio),
      // The focus has a logarithmic axis.
      steps.map(({ focus }) => (focus !== null && focus > 0 ? focus : null)),
    ],
    [steps],
  );
  const latents = steps.filter(({ kind }) => kind === 'latent').length;
  const ratios = steps.slice(0, latents).map(({ attentionRatio }) => shortNumber(attentionRatio));
  const focuses = steps.slice(0, latents).map(({ focus }) => shortNumber(focus));
  const label = `Chart over ${steps.length} steps. Latent steps: attention ratio ${ratios.join(', ')}; focus ${focuses.join(', ')}.`;
  return (
    <figure class="chart">
      <figcaption>
        <span class="key-accent">attention ratio</span> <span class="key-second">focus</span>{' '}
        <span class="quiet">
          over steps{latents > 0 && latents < steps.length && ` · latent up to ${latents}, written from ${latents + 1}`}
        </span>
      </figcaption>
      <Plot
        {...{ label, data, theme, height: 150, version: String(latents) }}
        options={(colours) => plotOptions(colours, latents)}
        marked={selected}
        onPick={onSelect}
      />
    </figure>
  );
}

function plotOptions(colours: PlotColours, latents: number): Omit<uPlot.Options, 'width' | 'height'> {
  const points = { show: true, size: 5 };
  return {
    legend: { show: false },
    cursor: { points: { size: 7 }, drag: { x: false, y: false } },
    scales: {
      x: { time: false, range: (_plot, min, max) => [min - 0.5, Math.max(max, min + 1) + 0.5] },
      y: { range: (_plot, _min, max) => [0, (max || 1) * 1.08] },
      focus: { distr: 3 },
    },
    axes: [
      axis(colours, { size: 26, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] }),
      axis(colours, { values: (_plot, values) => values.map(shortNumber) }),
      axis(colours, {
        scale: 'focus',
        side: 1,
        grid: { show: false },
        values: (_plot, values) => values.map((value) => (value ? shortNumber(value) : '')),
      }),
    ],
    series: [
      {},
      { label: 'attention ratio', stroke: colours.accent, width: 1.5, points },
      { label: 'focus', scale: 'focus', stroke: colours.second, width: 1.5, dash: [5, 3], points },
    ],
    hooks: {
      drawClear: [
        ({ ctx, bbox, valToPos }) => {
          if (latents === 0) return;
          // Latent steps stand on a shade.
          ctx.fillStyle = colours.line;
          ctx.globalAlpha = 0.45;
          const right = Math.min(valToPos(latents + 0.5, 'x', true), bbox.left + bbox.width);
          ctx.fillRect(bbox.left, bbox.top, Math.max(0, right - bbox.left), bbox.height);
          ctx.globalAlpha = 1;
        },
      ],
    },
  };
}
