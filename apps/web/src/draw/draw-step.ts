/** Draws a picture under the attention of one step, with the patches it picked. */
import type { SeenImage, SeenStep } from '../../../../packages/ivtlr/src/server/protocol.ts';
import * as panels from '../../../../packages/ivtlr/src/trace/step-panel.ts';
import { viewsOf } from '../../../../packages/ivtlr/src/vision/token-views.ts';
import { rectOf, type Size } from './cells.ts';

export interface StepDrawing {
  element: HTMLImageElement;
  image: SeenImage | null;
  /** Null: the picture alone. */
  step: Pick<SeenStep, 'picked' | 'scores' | 'kind'> | null;
  /** Tokens that steps before it picked. */
  earlier?: ReadonlySet<number>;
  /** Picks that another answer does not have; they are outlined in another colour. */
  different?: readonly number[];
  /** Whether attention covers the picture. */
  heat: boolean;
  /** The token under the pointer. */
  pointed?: number | null;
}

const DIFFERENT = '#ffb02e';
const POINTED = '#35c3d6';
const NONE: ReadonlySet<number> = new Set();

export function drawStep(context: CanvasRenderingContext2D, drawing: StepDrawing, size: Size): void {
  const { element, image, step, heat, earlier = NONE, different = [], pointed = null } = drawing;
  context.clearRect(0, 0, size.width, size.height);
  if (!image || !step) {
    drawPicture(context, element, size);
    return;
  }
  // Attention is that of the first view; of further ones, which lie over the same picture, only the picks are shown.
  viewsOf(image).forEach((view, index) => {
    const columns = view.grid[1];
    const panel: panels.Panel<HTMLImageElement> = {
      ...{ context, picture: element, pictureWidth: element.naturalWidth, ...size, columns },
      cellOf: (cell) => rectOf(Math.floor(cell / columns), cell % columns, view, image, size),
      fontFamily: 'system-ui, sans-serif',
    };
    const shown = panels.stepInView({ picked: step.picked, scores: heat ? step.scores : null, earlier }, view);
    if (index === 0) panels.drawStep(panel, { ...shown, kind: step.kind, tint: 0 });
    else panels.outline(panel, shown.picked, '#ffffff');
    const cells = (tokens: readonly number[]) =>
      panels.stepInView({ picked: tokens, scores: null, earlier: NONE }, view).picked;
    panels.outline(panel, cells(different), DIFFERENT);
    if (pointed !== null) panels.outline(panel, cells([pointed]), POINTED);
  });
}

export function drawPicture(context: CanvasRenderingContext2D, element: HTMLImageElement, size: Size): void {
  panels.drawPicture({ context, picture: element, pictureWidth: element.naturalWidth, ...size });
}
