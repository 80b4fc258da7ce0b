/** A picture to ask about, read from a file of the reader's or from a data URL of the server. */
import { Failure } from '../api/failure.ts';

export interface Picture {
  /** Data URL, as it is sent. */
  url: string;
  /** For drawing. Size in pixels: naturalWidth, naturalHeight. */
  element: HTMLImageElement;
  name: string;
}

/** What the server reads as it is; other formats that the browser can show are sent as PNG. */
const SENT_AS_IS = /^image\/(png|jpeg|webp|gif)$/;
/** Longest side in pixels, and bytes, of what is sent; larger pictures (photographs) are made smaller first. No model here sees more. */
const MAX_SIDE = 2048;
const MAX_BYTES = 4 * 1024 * 1024;

/** @throws Failure when the browser cannot read it as a picture */
export async function readPicture(file: File): Promise<Picture> {
  if (file.type !== '' && !file.type.startsWith('image/'))
    throw new Failure('picture', 'The picture cannot be read', `${file.name} is no picture.`);
  const url = await dataUrl(file);
  const element = await loadImage(url, file.name);
  const side = Math.max(element.naturalWidth, element.naturalHeight);
  const small = side <= MAX_SIDE && file.size <= MAX_BYTES;
  if (small && SENT_AS_IS.test(file.type) && isOpaque(element, file.type)) return { url, element, name: file.name };
  const smaller = redraw(element, Math.min(1, MAX_SIDE / side), file.type === 'image/jpeg' || side > MAX_SIDE);
  return { url: smaller, element: await loadImage(smaller, file.name), name: file.name };
}

export async function pictureOfUrl(url: string, name: string): Promise<Picture> {
  return { url, element: await loadImage(url, name), name };
}

/** Draws it on white: models see no transparency, and would take what lies under it for the picture. */
function redraw(element: HTMLImageElement, scale: number, photograph: boolean): string {
  const context = canvasFor(element, scale);
  const { canvas } = context;
  context.fillStyle = '#fff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(element, 0, 0, canvas.width, canvas.height);
  return photograph ? canvas.toDataURL('image/jpeg', 0.92) : canvas.toDataURL('image/png');
}

function isOpaque(element: HTMLImageElement, type: string): boolean {
  if (type === 'image/jpeg') return true;
  const context = canvasFor(element, 1);
  context.drawImage(element, 0, 0);
  const { data } = context.getImageData(0, 0, context.canvas.width, context.canvas.height);
  for (let alpha = 3; alpha < data.length; alpha += 4) if (data[alpha] !== 255) return false;
  return true;
}

function canvasFor(element: HTMLImageElement, scale: number): CanvasRenderingContext2D {
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(element.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(element.naturalHeight * scale));
  return canvas.getContext('2d')!;
}

function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () =>
      reject(new Failure('picture', 'The picture cannot be read', `${file.name} could not be opened.`));
    reader.readAsDataURL(file);
  });
}

function loadImage(url: string, name: string): Promise<HTMLImageElement> {
  return new Promise((resolve, reject) => {
    const element = new Image();
    element.onload = () => resolve(element);
    element.onerror = () => {
      const detail = `${name} is no picture that this browser can show. PNG, JPEG, WebP and GIF always work.`;
      reject(new Failure('picture', 'The picture cannot be read', detail));
    };
    element.src = url;
  });
}
