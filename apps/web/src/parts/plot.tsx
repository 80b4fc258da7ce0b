import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import type { Theme } from '../state/use-theme.ts';
import { useWidth } from './step-canvas.tsx';

/** Colours of a chart, from the style sheet. */
export interface PlotColours {
  text: string;
  line: string;
  accent: string;
  second: string;
}

interface Props {
  /** What the chart says, for those who do not see it. */
  label: string;
  height: number;
  data: uPlot.AlignedData;
  /** Everything but size and data. */
  options: (colours: PlotColours) => Omit<uPlot.Options, 'width' | 'height'>;
  /** The chart is made again when this changes; else only its data are. */
  version: string;
  theme: Theme;
  onPick?: (index: number) => void;
  /** Told where the pointer is; null where it is not on the chart. */
  onPoint?: (index: number | null) => void;
  /** Index of the x value that is marked. */
  marked?: number | null;
}

export function Plot({ label, height, data, options, version, theme, onPick, onPoint, marked = null }: Props) {
  const [box, width] = useWidth<HTMLDivElement>();
  const plot = useRef<uPlot>(null);
  const pick = useRef(onPick);
  pick.current = onPick;
  const point = useRef(onPoint);
  point.current = onPoint;
  const mark = useRef(marked);
  useEffect(() => {
    if (width === 0) return;
    const colour = (name: string) => colourOf(box.current!, name);
    const colours = {
      text: colour('--quiet'),
      line: colour('--line'),
      accent: colour('--accent'),
      second: colour('--second'),
    };
    const made = new uPlot({ ...options(colours), width, height }, data, box.current!);
    const drawMark = () => {
      const x = mark.current === null ? undefined : made.data[0][mark.current];
      if (x === undefined) return;
      const at = Math.round(made.valToPos(x, 'x', true));
      made.ctx.fillStyle = colours.accent;
      made.ctx.globalAlpha = 0.35;
      made.ctx.fillRect(at - devicePixelRatio, made.bbox.top, 2 * devicePixelRatio, made.bbox.height);
      made.ctx.globalAlpha = 1;
    };
    made.hooks.draw = [...(made.hooks.draw ?? []), drawMark];
    made.hooks.setCursor = [({ cursor }) => point.current?.(cursor.idx ?? null)];
    made.over.addEventListener('click', () => {
      if (made.cursor.idx != null) pick.current?.(made.cursor.idx);
    });
    plot.current = made;
    return () => {
      plot.current = null;
      made.destroy();
    };
  }, [width > 0, version, theme]);
  useEffect(() => {
    if (width > 0) plot.current?.setSize({ width, height });
  }, [width, height]);
  useEffect(() => plot.current?.setData(data), [data]);
  useEffect(() => {
    mark.current = marked;
    plot.current?.redraw(false);
  }, [marked]);
  return <div class="plot" ref={box} role="img" aria-label={label} style={{ minHeight: `${height}px` }} />;
}

/** A colour of the style sheet as a canvas takes it: for the theme that holds now. */
function colourOf(element: HTMLElement, name: string): string {
  element.style.color = `var(${name})`;
  const { color } = getComputedStyle(element);
  element.style.color = '';
  return color;
}

/** Axes in the colours of the page. */
export function axis(colours: PlotColours, more: uPlot.Axis = {}): uPlot.Axis {
  const font = '11px system-ui, sans-serif';
  return {
    ...{ stroke: colours.text, font, labelFont: font, size: 44, gap: 4 },
    ...{ grid: { stroke: colours.line, width: 1 }, ticks: { stroke: colours.line, width: 1, size: 4 } },
    ...more,
  };
}
