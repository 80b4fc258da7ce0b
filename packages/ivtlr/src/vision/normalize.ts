/** 8-bit images to the float tensors vision encoders read. */
import { shareBytes, type Tensor } from '@ivtlr/torch';
import type { RgbImage } from './image.ts';

export interface Normalization {
  /** Factor from 0..255 to the range `mean` and `std` are given in, usually 1/255. */
  rescale: number;
  /** Per channel R, G, B. */
  mean: readonly number[];
  std: readonly number[];
}

/**
 * `(value * rescale - mean) / std` for all 256 levels of each channel: 3 * 256 float32 values. An image has only 8-bit
 * levels, so looking them up while the pixels are put in order replaces several passes over float tensors.
 *
 * Rounded to float32 after each operation and with the rescaling folded into mean and std, as Hugging Face's image processors do.
 */
export function normalizedLevels({ rescale, mean, std }: Normalization): Float32Array {
  const levels = new Float32Array(3 * 256);
  const inverse = Math.fround(1 / rescale);
  for (let channel = 0; channel < 3; channel++) {
    const centre = Math.fround(Math.fround(mean[channel]!) * inverse);
    const width = Math.fround(Math.fround(std[channel]!) * inverse);
    for (let level = 0; level < 256; level++) levels[channel * 256 + level] = Math.fround(level - centre) / width;
  }
  return levels;
}

/** One image as a float32 tensor (3, H, W). */
export function normalize(image: RgbImage, normalization: Normalization): Tensor {
  const { width, height, data } = image;
  const levels = normalizedLevels(normalization);
  const plane = width * height;
  const values = new Float32Array(3 * plane);
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < plane; i++) values[channel * plane + i] = levels[channel * 256 + data[i * 3 + channel]!]!;
  }
  return shareBytes(new Uint8Array(values.buffer), 'float32', [3, height, width]);
}
