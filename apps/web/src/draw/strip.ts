/** The picture and every latent step side by side, with question and answer below, as a PNG to keep. */
import { heatColour } from '../../../../packages/ivtlr/src/trace/heat-colours.ts';
import { type Answer, latentSteps, letterOf } from '../state/answer.ts';
import { shortNumber } from '../state/numbers.ts';
import { drawPicture, drawStep } from './draw-step.ts';

const PANEL = 300;
const GAP = 20;
/** Below each of several pictures. */
const BETWEEN = 6;
const MARGIN = 24;
const LINE = 22;
const FONT = 'system-ui, sans-serif';
/** Pixels of the file for one unit here. */
const SCALE = 2;

/** By how many there are. */
const PICTURES = ['No picture', 'Picture', 'Pictures'];

/** @returns a canvas with the strip on white; answers without a picture's grid have the picture alone */
export function drawStrip(answer: Answer): HTMLCanvasElement {
  const steps = latentSteps(answer);
  const { pictures } = answer.asked.question;
  const perRow = Math.min(steps.length + 1, 4);
  const heights = pictures.map(({ element }) => Math.round((PANEL * element.naturalHeight) / element.naturalWidth));
  const height = heights.reduce((sum, each) => sum + each + BETWEEN, 0);
  const rows = Math.ceil((steps.length + 1) / perRow);
  const width = Math.max(2 * MARGIN + perRow * PANEL + (perRow - 1) * GAP, 2 * MARGIN + 2 * PANEL);
  const cellHeight = height + 2 * LINE + 2 * GAP;
  const canvas = document.createElement('canvas');
  const context = canvas.getContext('2d')!;
  context.font = `14px ${FONT}`;
  const lines = textLines(answer).flatMap(([label, text]) =>
    wrap(context, text, width - 2 * MARGIN - 90).map((line, index) => [index === 0 ? label : '', line] as const),
  );
  const legend = MARGIN + rows * cellHeight;
  canvas.width = width * SCALE;
  canvas.height = (legend + 2 * LINE + lines.length * LINE + MARGIN) * SCALE;
  context.scale(SCALE, SCALE);
  context.fillStyle = '#ffffff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (let index = 0; index <= steps.length; index++) {
    const left = MARGIN + (index % perRow) * (PANEL + GAP);
    const top = MARGIN + Math.floor(index / perRow) * cellHeight;
    const step = steps[index - 1];
    write(
      context,
      step ? `Latent step ${index}` : PICTURES[Math.min(pictures.length, 2)]!,
      left,
      top + 12,
      `bold 15px ${FONT}`,
      '#1b1f27',
    );
    let below = top + GAP;
    pictures.forEach(({ element }, at) => {
      const size = { width: PANEL, height: heights[at]! };
      const panel = document.createElement('canvas');
      panel.width = size.width * SCALE;
      panel.height = size.height * SCALE;
      const inner = panel.getContext('2d')!;
      inner.scale(SCALE, SCALE);
      if (step) {
        const earlier = new Set(steps.slice(0, index - 1).flatMap(({ picked }) => picked));
        drawStep(inner, { element, image: answer.images[at] ?? null, step, earlier, heat: true }, size);
      } else drawPicture(inner, element, size);
      context.drawImage(panel, left, below, size.width, size.height);
      below += size.height + BETWEEN;
    });
    write(context, caption(answer, index), left, top + height + GAP + LINE, `13px ${FONT}`, '#5a6472');
  }
  drawLegend(context, legend);
  lines.forEach(([label, text], index) => {
    const y = legend + 2 * LINE + index * LINE;
    write(context, label, MARGIN, y, `bold 14px ${FONT}`, '#0b6c7a');
    write(context, text, MARGIN + 90, y, `14px ${FONT}`, '#1b1f27');
  });
  return canvas;
}

function caption(answer: Answer, index: number): string {
  const step = latentSteps(answer)[index - 1];
  if (step) return `ratio ${shortNumber(step.attentionRatio)} · focus ${shortNumber(step.focus)}`;
  return answer.asked.question.pictures
    .map(({ element: { naturalWidth, naturalHeight } }, at) => {
      const image = answer.images[at];
      return `${naturalWidth}×${naturalHeight} pixels${image ? ` · ${image.tokenGrid.join('×')} image tokens` : ''}`;
    })
    .join('; ');
}

function textLines({ asked: { question }, text }: Answer): (readonly [string, string])[] {
  return [
    ['Question', question.text],
    ...question.choices.map((choice, index) => ['', `(${letterOf(index)}) ${choice}`] as const),
    ['Answer', text.trim()],
  ];
}

function drawLegend(context: CanvasRenderingContext2D, top: number): void {
  for (let x = 0; x < 160; x++) {
    const [red, green, blue] = heatColour(x / 159);
    context.fillStyle = `rgb(${red}, ${green}, ${blue})`;
    context.fillRect(MARGIN + x, top - 10, 1, 12);
  }
  const words = 'attention, from 0 to the highest score (root scale) · outlined: picked now · crossed: picked before';
  write(context, words, MARGIN + 172, top, `12px ${FONT}`, '#5a6472');
}

function write(context: CanvasRenderingContext2D, text: string, x: number, y: number, font: string, colour: string) {
  context.font = font;
  context.fillStyle = colour;
  context.fillText(text, x, y);
}

function wrap(context: CanvasRenderingContext2D, text: string, width: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split('\n')) {
    let line = '';
    for (const word of paragraph.split(' ')) {
      const longer = line === '' ? word : `${line} ${word}`;
      if (line !== '' && context.measureText(longer).width > width) {
        lines.push(line);
        line = word;
      } else line = longer;
    }
    lines.push(line);
  }
  return lines;
}
