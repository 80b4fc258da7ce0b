import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { tokenAt } from '../draw/cells.ts';
import { drawStep, type StepDrawing } from '../draw/draw-step.ts';

/** Width in CSS pixels of an element, as it is now. */
export function useWidth<T extends HTMLElement>() {
  const ref = useRef<T>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry!.contentRect.width)));
    observer.observe(ref.current!);
    return () => observer.disconnect();
  }, []);
  return [ref, width] as const;
}

interface Props extends StepDrawing {
  /** CSS pixels; the height follows the picture. */
  width: number;
  /** Named pictures are read out; others are decoration of what stands beside them. */
  label?: string;
  onPoint?: (token: number | null) => void;
}

/** What the drawing depends on: long answers have many small pictures, which are drawn once. */
const DRAWN = ['element', 'image', 'step', 'earlier', 'different', 'heat', 'pointed'] as const;

/** A picture under the attention of one step. */
export function StepCanvas({ width, label, onPoint, ...drawing }: Props) {
  const ref = useRef<HTMLCanvasElement>(null);
  const { element, image } = drawing;
  const height = Math.round((width * element.naturalHeight) / element.naturalWidth);
  // With the words that stand beside it, not a moment later.
  useLayoutEffect(() => {
    const canvas = ref.current!;
    const scale = devicePixelRatio;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext('2d')!;
    context.scale(scale, scale);
    drawStep(context, drawing, { width, height });
  }, [width, height, ...DRAWN.map((name) => drawing[name])]);
  const point = (event: PointerEvent) => {
    const box = ref.current!.getBoundingClientRect();
    if (image) onPoint?.(tokenAt(event.clientX - box.left, event.clientY - box.top, image, { width, height }));
  };
  const named = label === undefined ? { 'aria-hidden': true as const } : { role: 'img' as const, 'aria-label': label };
  return (
    <canvas
      ref={ref}
      style={{ width: `${width}px`, height: `${height}px` }}
      {...named}
      {...(onPoint && { onPointerMove: point, onPointerDown: point, onPointerLeave: () => onPoint(null) })}
    />
  );
}
