/**
 * Antialiased bicubic and Lanczos resizing, bit for bit Pillow's `Image.resize`.
 *
 * Why not ATen's `_upsample_bicubic2d_aa`: on uint8 it keeps its weights in 16 bits (up to 2 levels off with Lanczos) and
 * always runs the horizontal pass first, while Pillow sometimes starts with the vertical one; as the first pass is
 * clipped to 0..255, a hard edge then differs by up to 50 levels. The method is public (two separable passes, weights of a
 * filter stretched by the scale, normalised, in 22-bit fixed point), so it is written out here and is the same everywhere.
 */
import { UserError } from '../errors.ts';
import type { RgbImage } from './image.ts';

export type ResizeFilter = 'bicubic' | 'lanczos';

/**
 * Which axis is resized first, by the release of Pillow. `pillow-11`: always the horizontal one, as Pillow from 9.5 or earlier to 12.1 (12.2 and
 * 12.3 too, but for images over 100 times as tall as wide that shrink in height). `pillow-13`: the vertical one when the height shrinks by more
 * than twice what the width does.
 */
export const RESIZE_RULES = ['pillow-11', 'pillow-13'] as const;
export type ResizeRule = (typeof RESIZE_RULES)[number];

/** What an image size may be, in settings and flags. */
export const IMAGE_SIZE = /^(native|[1-9]\d{0,3}x[1-9]\d{0,3})$/;

export interface ResizeOptions {
  /** Default `bicubic` (a = -0.5, support 2); `lanczos` has support 3. */
  filter?: ResizeFilter;
  /** Default `pillow-13`. */
  rule?: ResizeRule;
  /** Only this part of the result is made, with the pixels it has in the whole; the whole of a very long image would not fit in memory. */
  region?: Region;
}

/** Pixels. */
export interface Region {
  left: number;
  top: number;
  width: number;
  height: number;
}

const PRECISION_BITS = 22;
const HALF = 1 << (PRECISION_BITS - 1);

/** Resizes to `width` x `height` (or the region of that); the result shares the input's bytes if there is nothing to do. */
export function resize(image: RgbImage, width: number, height: number, options: ResizeOptions = {}): RgbImage {
  if (!Number.isInteger(width) || !Number.isInteger(height) || width < 1 || height < 1) {
    throw new UserError(`an image cannot be resized to ${width}x${height}: both sides must be whole numbers from 1 up`);
  }
  const filter = options.filter ?? 'bicubic';
  const { left, top, width: wide, height: tall } = options.region ?? { left: 0, top: 0, width, height };
  const across = axis(image.width, width, filter, left, wide);
  const down = axis(image.height, height, filter, top, tall);
  const shrinksTall = height < image.height && image.height - height > 2 * (image.width - width);
  if (shrinksTall && options.rule !== 'pillow-11') return resizeWidth(resizeHeight(image, down), across);
  // Rows that the second pass does not read need no first one.
  const needed = { ...down, start: down.start.map((row) => row - down.first), first: 0 };
  return resizeHeight(resizeWidth(rowsOf(image, down.first, down.last), across), needed);
}

function rowsOf(image: RgbImage, first: number, last: number): RgbImage {
  const { width, height, data } = image;
  if (first === 0 && last === height) return image;
  return { width, height: last - first, data: data.subarray(first * width * 3, last * width * 3) };
}

/** One axis of a resize: the weighted input samples that make each output sample of the region. */
interface Axis {
  /** Input and output have the same samples. */
  same: boolean;
  /** Output samples. */
  size: number;
  /** Input samples that are read at all: [first, last). */
  first: number;
  last: number;
  /** First input sample of each output sample. */
  start: Int32Array;
  /** Number of input samples of each output sample. */
  count: Int32Array;
  /** `taps` weights per output sample, fixed point. */
  values: Int32Array;
  taps: number;
}

function resizeWidth(image: RgbImage, { same, size: width, start, count, values, taps }: Axis): RgbImage {
  if (same) return image;
  const { height, data } = image;
  const out = new Uint8ClampedArray(width * height * 3);
  let to = 0;
  for (let row = 0; row < height; row++) {
    const rowStart = row * image.width;
    for (let column = 0; column < width; column++) {
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      let from = (rowStart + start[column]!) * 3;
      const first = column * taps;
      const last = first + count[column]!;
      for (let tap = first; tap < last; tap++) {
        const weight = values[tap]!;
        red = (red + Math.imul(data[from]!, weight)) | 0;
        green = (green + Math.imul(data[from + 1]!, weight)) | 0;
        blue = (blue + Math.imul(data[from + 2]!, weight)) | 0;
        from += 3;
      }
      out[to] = red >> PRECISION_BITS;
      out[to + 1] = green >> PRECISION_BITS;
      out[to + 2] = blue >> PRECISION_BITS;
      to += 3;
    }
  }
  return { width, height, data: new Uint8Array(out.buffer) };
}

function resizeHeight(image: RgbImage, { same, size: height, start, count, values, taps }: Axis): RgbImage {
  if (same) return image;
  const { width, data } = image;
  const stride = width * 3;
  const out = new Uint8ClampedArray(stride * height);
  // Whole rows are added up one after the other: memory is read in order, which beats walking down each column;
  // four rows a time, so that the sums are read and written less often.
  const sums = new Int32Array(stride);
  for (let row = 0; row < height; row++) {
    sums.fill(HALF);
    const taken = count[row]!;
    const first = row * taps;
    let from = start[row]! * stride;
    let tap = 0;
    for (; tap + 4 <= taken; tap += 4) {
      const a = values[first + tap]!;
      const b = values[first + tap + 1]!;
      const c = values[first + tap + 2]!;
      const d = values[first + tap + 3]!;
      for (let i = 0, at = from; i < stride; i++, at++) {
        const upper = (Math.imul(data[at]!, a) + Math.imul(data[at + stride]!, b)) | 0;
        const lower = (Math.imul(data[at + 2 * stride]!, c) + Math.imul(data[at + 3 * stride]!, d)) | 0;
        sums[i] = (sums[i]! + ((upper + lower) | 0)) | 0;
      }
      from += 4 * stride;
    }
    for (; tap < taken; tap++) {
      const weight = values[first + tap]!;
      for (let i = 0; i < stride; i++) sums[i] = (sums[i]! + Math.imul(data[from + i]!, weight)) | 0;
      from += stride;
    }
    const to = row * stride;
    for (let i = 0; i < stride; i++) out[to + i] = sums[i]! >> PRECISION_BITS;
  }
  return { width, height, data: new Uint8Array(out.buffer) };
}

/** @param from first of the `size` wanted output samples, of `outputSize` in all. */
function axis(inputSize: number, outputSize: number, filter: ResizeFilter, from: number, size: number): Axis {
  const kernel = filter === 'lanczos' ? lanczos : bicubic;
  const scale = inputSize / outputSize;
  const stretch = Math.max(scale, 1); // Shrinking widens the kernel: that is the antialiasing.
  // At the same size every sample is itself: what the kernels give there, without rounding.
  const support = inputSize === outputSize ? 0.5 : (filter === 'lanczos' ? 3 : 2) * stretch;
  const taps = Math.ceil(support) * 2 + 1;
  const start = new Int32Array(size);
  const count = new Int32Array(size);
  const values = new Int32Array(size * taps);
  const row = new Float64Array(taps);
  for (let i = 0; i < size; i++) {
    const centre = (from + i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const length = Math.min(Math.trunc(centre + support + 0.5), inputSize) - first;
    let total = 0;
    for (let tap = 0; tap < length; tap++) {
      row[tap] = kernel((tap + first - centre + 0.5) / stretch);
      total += row[tap]!;
    }
    for (let tap = 0; tap < length; tap++) {
      const weight = (row[tap]! / total) * (1 << PRECISION_BITS);
      values[i * taps + tap] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    start[i] = first;
    count[i] = length;
  }
  const same = inputSize === outputSize && size === outputSize;
  return { same, size, first: start[0]!, last: start[size - 1]! + count[size - 1]!, start, count, values, taps };
}

/** Keys' cubic convolution with a = -0.5. */
function bicubic(position: number): number {
  const x = Math.abs(position);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return -0.5 * (((x - 5) * x + 8) * x - 4);
  return 0;
}

function lanczos(x: number): number {
  return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}
