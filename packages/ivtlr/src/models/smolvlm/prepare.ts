/**
 * The part of SmolVLM's preprocessing that needs no tensors and can run in an image thread: decode, resize, and the whole picture at the size of
 * one tile. Sizes are computed as Hugging Face's SmolVLMImageProcessor computes them, in floating point.
 */
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
  /** The longer side becomes this long and the image nearly keeps its shape; or every image gets one size. Null: it stays as it is. */
  size: { longestEdge: number } | Size | null;
  /** Pixels of a tile's side. */
  tile: number;
  /** Whether an image is cut into tiles; if not, it is brought to the size of one. */
  split: boolean;
}

/** No side gets longer than this. */
const MAX_SIDE = 4096;

/** Decodes and resizes an image; cut into tiles, `image` has sides that are multiples of a tile's. @throws UserError naming it */
export async function prepareImage(image: RawImage, rules: PreparationRules): Promise<PreparedImage> {
  const decoded = await decodeImage(image, rules.decode);
  const { width, height, note } = decoded;
  return { ...resizeImage(decoded, rules), source: { width, height }, note };
}

/** Each size after the other, since every step rounds to whole levels. */
export function resizeImage(image: RgbImage, rules: PreparationRules): { image: RgbImage; whole?: RgbImage } {
  const { size, tile, split } = rules;
  const to = (from: RgbImage, { width, height }: Size) =>
    resize(from, width, height, { filter: rules.filter, rule: rules.resize });
  const first = size === null ? image : to(image, 'longestEdge' in size ? longestEdge(image, size.longestEdge) : size);
  const one = { width: tile, height: tile };
  if (!split) return { image: to(first, one) };
  const tiled = to(first, multiples(first, tile));
  if (tiled.width <= tile && tiled.height <= tile) return { image: tiled };
  return { image: tiled, whole: to(tiled, one) };
}

/** The shorter side is rounded down, then up to an even number. */
function longestEdge({ width, height }: Size, edge: number): Size {
  const even = (side: number) => Math.max(1, side + (side % 2));
  const aspect = width / height;
  return width >= height
    ? bounded({ width: edge, height: even(Math.trunc(edge / aspect)) })
    : bounded({ width: even(Math.trunc(edge * aspect)), height: edge });
}

function bounded({ width, height }: Size): Size {
  const aspect = width / height;
  if (width >= height && width > MAX_SIDE)
    return { width: MAX_SIDE, height: Math.max(1, Math.trunc(MAX_SIDE / aspect)) };
  if (height > width && height > MAX_SIDE)
    return { width: Math.max(1, Math.trunc(MAX_SIDE * aspect)), height: MAX_SIDE };
  return { width, height };
}

/** Both sides multiples of a tile's, the longer one rounded up and the other one rounded up from what keeps the shape. */
function multiples({ width, height }: Size, tile: number): Size {
  const up = (side: number) => Math.ceil(side / tile) * tile;
  const aspect = width / height;
  if (width >= height) return { width: up(width), height: up(Math.trunc(up(width) / aspect)) };
  return { width: up(Math.trunc(up(height) * aspect)), height: up(height) };
}
