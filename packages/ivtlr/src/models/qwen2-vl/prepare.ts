/** The part of Qwen2-VL's preprocessing that needs no tensors and can run in an image thread: decode and resize. */
import { UserError } from '../../errors.ts';
import { type DecodeOptions, decodeImage } from '../../vision/decode.ts';
import type { RawImage, RgbImage } from '../../vision/image.ts';
import type { PreparedImage } from '../../vision/image-pool.ts';
import { type ResizeOptions, resize } from '../../vision/resize.ts';
import { type SizeLimits, smartResize } from './smart-resize.ts';

/** Plain data, so that it can be sent to a thread. */
export interface PreparationRules {
  decode: DecodeOptions;
  resize: ResizeOptions;
  /** Every image is first resized to this size, whatever its shape. */
  fixedSize?: { width: number; height: number } | undefined;
  limits: SizeLimits;
}

/** Decodes and resizes an image. @throws UserError naming it */
export async function prepareImage(image: RawImage, rules: PreparationRules): Promise<PreparedImage> {
  const decoded = await decodeImage(image, rules.decode);
  const { width, height, note } = decoded;
  try {
    return { image: resizeImage(decoded, rules), source: { width, height }, note };
  } catch (error) {
    if (error instanceof UserError && image.kind === 'encoded') throw new UserError(`${image.name}: ${error.message}`);
    throw error;
  }
}

/** To the fixed size if there is one, then by the smart-resize rule. */
function resizeImage(image: RgbImage, { fixedSize, limits, resize: options }: PreparationRules): RgbImage {
  const first = fixedSize ? resize(image, fixedSize.width, fixedSize.height, options) : image;
  const target = smartResize(first.height, first.width, limits);
  return resize(first, target.width, target.height, options);
}
