/** The part of Qwen2-VL's preprocessing that needs no tensors and can run in a picture thread: decode and resize. */
import { UserError } from '../../errors.ts';
import { type DecodeOptions, decodeImage } from '../../vision/decode.ts';
import type { RawImage, RgbImage } from '../../vision/image.ts';
import type { PreparedPicture } from '../../vision/picture-pool.ts';
import { type ResizeOptions, resize } from '../../vision/resize.ts';
import { type SizeLimits, smartResize } from './smart-resize.ts';

/** Plain data, so that it can be sent to a thread. */
export interface PreparationRules {
  decode: DecodeOptions;
  resize: ResizeOptions;
  /** Every picture is first resized to this size, whatever its shape. */
  fixedSize?: { width: number; height: number } | undefined;
  limits: SizeLimits;
}

/** Decodes and resizes a picture. @throws UserError naming it */
export async function preparePicture(image: RawImage, rules: PreparationRules): Promise<PreparedPicture> {
  const decoded = await decodeImage(image, rules.decode);
  const { width, height } = decoded;
  try {
    return { image: resizePicture(decoded, rules), source: { width, height } };
  } catch (error) {
    if (error instanceof UserError && image.kind === 'encoded') throw new UserError(`${image.name}: ${error.message}`);
    throw error;
  }
}

/** To the fixed size if there is one, then by the smart-resize rule. */
export function resizePicture(image: RgbImage, { fixedSize, limits, resize: options }: PreparationRules): RgbImage {
  const first = fixedSize ? resize(image, fixedSize.width, fixedSize.height, options) : image;
  const target = smartResize(first.height, first.width, limits);
  return resize(first, target.width, target.height, options);
}
