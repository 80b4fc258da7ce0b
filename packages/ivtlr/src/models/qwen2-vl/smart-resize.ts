/** Size rule of Qwen2-VL's images (Hugging Face `smart_resize`). */
import { UserError } from '../../errors.ts';

export interface SizeLimits {
  /** Both sides become multiples of this: patch size times merge size, 28. */
  factor: number;
  minPixels: number;
  maxPixels: number;
}

const MAX_ASPECT = 200;

/**
 * The size an image is resized to: sides near the original ones, multiples of `factor`, with between `minPixels` and
 * `maxPixels` pixels.
 *
 * @throws UserError when one side is more than 200 times the other.
 */
export function smartResize(height: number, width: number, limits: SizeLimits): { height: number; width: number } {
  const { factor, minPixels, maxPixels } = limits;
  if (Math.max(height, width) / Math.min(height, width) > MAX_ASPECT) {
    throw new UserError(
      `an image of ${width}x${height} is too narrow: one side may be at most ${MAX_ASPECT} times the other`,
    );
  }
  const nearest = { height: roundHalfEven(height / factor) * factor, width: roundHalfEven(width / factor) * factor };
  const area = nearest.height * nearest.width;
  if (area > maxPixels) {
    const shrink = Math.sqrt((height * width) / maxPixels);
    return {
      height: Math.max(factor, Math.floor(height / shrink / factor) * factor),
      width: Math.max(factor, Math.floor(width / shrink / factor) * factor),
    };
  }
  if (area < minPixels) {
    const grow = Math.sqrt(minPixels / (height * width));
    return {
      height: Math.ceil((height * grow) / factor) * factor,
      width: Math.ceil((width * grow) / factor) * factor,
    };
  }
  return nearest;
}

/** Python's round(): halves go to the even neighbour, so that 42/28 = 1.5 becomes 2 and 70/28 = 2.5 also becomes 2. */
function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const fraction = value - floor;
  if (fraction !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
