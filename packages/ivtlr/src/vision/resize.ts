/**
 * Antialiased bicubic and Lanczos resizing, bit for bit Pillow's `Image.resize`.
 *
 * Why not ATen's `_upsample_bicubic2d_aa`: on uint8 it keeps its weights in 16 bits (up to 2 levels off with Lanczos) and
 * always runs the horizontal pass first, while Pillow 13 sometimes starts with the vertical one; as the first pass is
 * clipped to 0..255, a hard edge then differs by up to 50 levels. The method is public (two separable passes, weights of a
 * filter stretched by the scale, normalised, in 22-bit fixed point), so it is written out here and is the same everywhere.
 */
import { UserError } from '../errors.ts';
import type { RgbImage } from './image.ts';

export type ResizeFilter = 'bicubic' | 'lanczos';

export interface ResizeOptions {
  /** Default `bicubic` (a = -0.5, support 2); `lanczos` has support 3. */
  filter?: ResizeFilter;
  /**
   * Which axis is resized first. `pillow` (default): Pillow 13's rule, vertical first when the height shrinks by more than
   * twice what the width does. `horizontal`: always the horizontal one, as Pillow up to 12 and torchvision.
   */
  passOrder?: 'pillow' | 'horizontal';
}

const PRECISION_BITS = 22;
const HALF = 1 << (PRECISION_BITS - 1);

/** Resizes to `width` x `height`; the result shares the input's bytes if the size is already right. */
export function resize(image: RgbImage, width: number, height: number, options: ResizeOptions = {}): RgbImage {
  if (!Number.isInteger(width) || !Number.isInteger(height) || width < 1 || height < 1) {
    throw new UserError(
      `a picture cannot be resized to ${width}x${height}: both sides must be whole numbers from 1 up`,
    );
  }
  const filter = options.filter ?? 'bicubic';
  const shrinksTall = height < image.height && image.height - height > 2 * (image.width - width);
  if (shrinksTall && options.passOrder !== 'horizontal') {
    return resizeWidth(resizeHeight(image, height, filter), width, filter);
  }
  return resizeHeight(resizeWidth(image, width, filter), height, filter);
}

interface Weights {
  /** First input sample of each output sample. */
  start: Int32Array;
  /** Number of input samples of each output sample. */
  count: Int32Array;
  /** `taps` weights per output sample, fixed point. */
  values: Int32Array;
  taps: number;
}

function resizeWidth(image: RgbImage, width: number, filter: ResizeFilter): RgbImage {
  if (width === image.width) return image;
  const { start, count, values, taps } = weightsFor(image.width, width, filter);
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

function resizeHeight(image: RgbImage, height: number, filter: ResizeFilter): RgbImage {
  if (height === image.height) return image;
  const { start, count, values, taps } = weightsFor(image.height, height, filter);
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

function weightsFor(inputSize: number, outputSize: number, filter: ResizeFilter): Weights {
  const kernel = filter === 'lanczos' ? lanczos : bicubic;
  const scale = inputSize / outputSize;
  const stretch = Math.max(scale, 1); // Shrinking widens the kernel: that is the antialiasing.
  const support = (filter === 'lanczos' ? 3 : 2) * stretch;
  const taps = Math.ceil(support) * 2 + 1;
  const start = new Int32Array(outputSize);
  const count = new Int32Array(outputSize);
  const values = new Int32Array(outputSize * taps);
  const row = new Float64Array(taps);
  for (let i = 0; i < outputSize; i++) {
    const centre = (i + 0.5) * scale;
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
  return { start, count, values, taps };
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
