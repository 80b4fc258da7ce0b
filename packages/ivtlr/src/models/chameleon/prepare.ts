/** The part of Chameleon's preprocessing that needs no tensors and can run in an image thread: decode, resize, crop. */
import { type DecodeOptions, decodeImage } from '../../vision/decode.ts';
import type { RawImage, RgbImage } from '../../vision/image.ts';
import type { PreparedImage } from '../../vision/image-pool.ts';
import { type ResizeFilter, type ResizeRule, resize } from '../../vision/resize.ts';

export interface Size {
  width: number;
  height: number;
}

/** Plain data, so that it can be sent to a thread. */
export interface PreparationRules {
  decode: DecodeOptions;
  filter: ResizeFilter;
  resize: ResizeRule;
  /** The shorter side becomes this long and the image keeps its shape; or every image gets one size. */
  size: { shortestEdge: number } | Size;
  /** Of the middle that is kept. */
  crop: Size;
}

/** Decodes, resizes and crops an image. @throws UserError naming it */
export async function prepareImage(image: RawImage, rules: PreparationRules): Promise<PreparedImage> {
  const decoded = await decodeImage(image, rules.decode);
  return { ...cropImage(decoded, rules), note: decoded.note };
}

/**
 * The middle of the resized image; where that is smaller than the crop, black is added around it (transformers' `center_crop`).
 * Only the pixels that stay are computed, so that a line of 3000x2 does not become one of 768000x512.
 */
export function cropImage(image: RgbImage, { size, crop, filter, resize: rule }: PreparationRules): PreparedImage {
  const { width, height } = image;
  const resized = resizedSize(image, size);
  const across = middle(resized.width, crop.width);
  const down = middle(resized.height, crop.height);
  const region = { left: across.from, top: down.from, width: across.length, height: down.length };
  const kept = resize(image, resized.width, resized.height, { filter, rule, region });
  // In pixels of the original.
  const [unitX, unitY] = [width / resized.width, height / resized.height];
  const shown = {
    left: (across.from - across.to) * unitX,
    top: (down.from - down.to) * unitY,
    width: crop.width * unitX,
    height: crop.height * unitY,
  };
  const source = { width, height, shown };
  if (region.width === crop.width && region.height === crop.height) return { image: kept, source };
  const data = new Uint8Array(crop.width * crop.height * 3);
  for (let row = 0; row < region.height; row++) {
    const bytes = kept.data.subarray(row * region.width * 3, (row + 1) * region.width * 3);
    data.set(bytes, ((down.to + row) * crop.width + across.to) * 3);
  }
  return { image: { ...crop, data }, source };
}

/** The longer side is rounded down, as in transformers. */
function resizedSize({ width, height }: Size, size: PreparationRules['size']): Size {
  if (!('shortestEdge' in size)) return size;
  const short = size.shortestEdge;
  return width <= height
    ? { width: short, height: Math.trunc((short * height) / width) }
    : { width: Math.trunc((short * width) / height), height: short };
}

/** Which samples of a side stay, and where they go in the crop. */
function middle(side: number, crop: number): { from: number; to: number; length: number } {
  if (side >= crop) return { from: Math.floor((side - crop) / 2), to: 0, length: crop };
  return { from: 0, to: Math.ceil((crop - side) / 2), length: side };
}
