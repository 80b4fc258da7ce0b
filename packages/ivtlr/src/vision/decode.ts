/**
 * Image files to RGB, equal to Pillow's `ImageOps.exif_transpose(image).convert('RGB')`, which is what the models were
 * trained through: alpha is dropped unless told otherwise; 16-bit colour keeps the high byte; 16-bit grey becomes white over 255;
 * CMYK uses Pillow's plain formula; ICC profiles and gamma are ignored; only the first frame counts. sharp decodes, nothing else.
 */
import sharp from 'sharp';
import { UserError } from '../errors.ts';
import { ImageFormatError } from './format-error.ts';
import { decodeGif, gifSize } from './gif.ts';
import type { DecodedImage, RawImage, RgbImage } from './image.ts';
import { checkJpegMarkers } from './jpeg-markers.ts';
import { pngHeader } from './png-header.ts';
import { tiffHeader } from './tiff-header.ts';
import { cmykToRgb, grey16ToRgb, overWhite } from './to-rgb.ts';

export interface DecodeOptions {
  /** Refuse images with more pixels than this before decoding them (decompression bombs). Default 100 million. */
  maxPixels?: number;
  /**
   * Images of Pillow's mode RGBA. `drop` shows the colours stored under clear pixels, as Hugging Face's loaders do; `white`
   * blends over white, as the official IVT-LR code does through qwen-vl-utils. Grey with alpha and palettes with clear
   * colours are not mode RGBA and keep their colours under both. `blend` blends whatever is transparent in any of them over
   * white, rounding down, as transformers' Chameleon processor does (colour PNGs with one clear colour, mode RGB, keep it
   * there too). Default `drop`.
   */
  alpha?: 'drop' | 'white' | 'blend';
}

export const DEFAULT_MAX_PIXELS = 100_000_000;

type Format = 'jpeg' | 'png' | 'webp' | 'gif' | 'tiff' | 'avif';

const READ = 'JPEG, PNG, WebP, GIF, TIFF and AVIF';

/**
 * Decodes an image; one of kind `rgb` is only checked and returned as it is.
 *
 * @throws UserError naming the image: empty, of a format that is not read, truncated, corrupt, or too large.
 */
export async function decodeImage(image: RawImage, options: DecodeOptions = {}): Promise<DecodedImage> {
  if (image.kind === 'rgb') return checkRgb(image);
  const { bytes, name } = image;
  const maxPixels = options.maxPixels ?? DEFAULT_MAX_PIXELS;
  const format = sniffFormat(bytes);
  if (!format) throw new UserError(`${name}: ${describeUnreadable(bytes)}`);
  try {
    if (format === 'gif') {
      const { width, height } = gifSize(bytes);
      checkSize(name, width, height, maxPixels);
      return decodeGif(bytes, maxPixels, options.alpha === 'blend');
    }
    return await decodeWithSharp(bytes, name, format, maxPixels, options);
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`${name}: the ${format.toUpperCase()} image cannot be decoded: ${reason(error)}`);
  }
}

/**
 * Width and height as the file's header has them, before it is turned upright.
 * @throws UserError naming the image when the header cannot be read
 */
export async function imageSize(bytes: Uint8Array, name: string): Promise<{ width: number; height: number }> {
  const format = sniffFormat(bytes);
  if (!format) throw new UserError(`${name}: ${describeUnreadable(bytes)}`);
  try {
    if (format === 'gif') return gifSize(bytes);
    const { width, height } = await sharp(bytes, { limitInputPixels: false }).metadata();
    return { width, height };
  } catch (error) {
    throw new UserError(`${name}: the ${format.toUpperCase()} image cannot be decoded: ${reason(error)}`);
  }
}

/** The format told by the first bytes, or undefined for everything this project does not read (SVG and PDF among it). */
export function sniffFormat(bytes: Uint8Array): Format | undefined {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 64)).toString('latin1');
  if (head.startsWith('\xff\xd8\xff')) return 'jpeg';
  if (head.startsWith('\x89PNG\r\n\x1a\n')) return 'png';
  if (head.startsWith('RIFF') && head.slice(8, 12) === 'WEBP') return 'webp';
  if (head.startsWith('GIF87a') || head.startsWith('GIF89a')) return 'gif';
  if (head.startsWith('II*\0') || head.startsWith('MM\0*')) return 'tiff';
  if (head.slice(4, 8) === 'ftyp' && /^(.{4})*avi[fs]/s.test(head.slice(8, 8 + brandsLength(bytes)))) return 'avif';
  return undefined;
}

/** Bytes of the brands that a file of the AVIF and HEIC kind names; its own one comes first, a version number second. */
function brandsLength(bytes: Uint8Array): number {
  return Math.max(0, ((bytes[2]! << 8) | bytes[3]!) - 8);
}

function checkRgb(image: { kind: 'rgb' } & RgbImage): RgbImage {
  const { width, height, data } = image;
  if (!(width > 0 && height > 0) || data.length !== width * height * 3) {
    throw new UserError(
      `an RGB image of ${width}x${height} needs ${width * height * 3} bytes (height * width * 3), it has ${data.length}`,
    );
  }
  return { width, height, data };
}

/** What must be known of a file's kind of pixels before they are decoded. */
interface Kind {
  /** 16-bit grey without alpha. */
  grey16: boolean;
  /** Pillow opens it in mode RGBA. */
  rgba: boolean;
  /** Has no transparency as far as transformers is concerned, whatever the file stores. */
  opaque: boolean;
}

/** @throws ImageFormatError when the file is damaged or not shown as Pillow shows it */
function kindOf(format: Format, bytes: Uint8Array): Kind {
  if (format === 'tiff') return tiffHeader(bytes);
  if (format === 'jpeg') checkJpegMarkers(bytes);
  if (format !== 'png') return { grey16: false, rgba: true, opaque: false };
  const { depth, colourType } = pngHeader(bytes);
  return {
    grey16: depth === 16 && colourType === 0,
    rgba: colourType === 6 || (colourType === 4 && depth === 16),
    // An RGB PNG may name one colour as transparent.
    opaque: colourType === 2,
  };
}

async function decodeWithSharp(
  bytes: Uint8Array,
  name: string,
  format: Format,
  maxPixels: number,
  { alpha = 'drop' }: DecodeOptions,
): Promise<DecodedImage> {
  const kind = kindOf(format, bytes);
  // `truncated` is the only failure Pillow shares: it, too, decodes JPEG data with stray bytes and warns at most.
  const input = { ignoreIcc: true, failOn: 'truncated', limitInputPixels: false } as const;
  const header = await sharp(bytes, input).metadata();
  checkSize(name, header.width, header.height, maxPixels);
  const upright = sharp(bytes, input).autoOrient();

  if (header.space === 'cmyk') {
    const { data, info } = await upright
      .pipelineColourspace('cmyk')
      .toColourspace('cmyk')
      .raw()
      .toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: cmykToRgb(data, info.channels) };
  }
  if (kind.grey16) {
    const { data, info } = await upright
      .pipelineColourspace('grey16')
      .toColourspace('grey16')
      .raw({ depth: 'ushort' })
      .toBuffer({ resolveWithObject: true });
    const samples = new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
    const note =
      `${name}: 16-bit grey, whose values over 255 are shown white, as Pillow shows them to the models; ` +
      'save it with 8 bits to have it seen as viewers show it';
    const image = { width: info.width, height: info.height, data: grey16ToRgb(samples, info.channels) };
    return samples.some((sample) => sample > 255) ? { ...image, note } : image;
  }
  const blend =
    alpha !== 'drop' && header.hasAlpha && ((alpha === 'white' && kind.rgba) || (alpha === 'blend' && !kind.opaque));
  const { data, info } = await (blend ? upright : upright.removeAlpha())
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true });
  if (info.channels !== (blend ? 4 : 3)) throw new Error(`${info.channels} channels`);
  return { width: info.width, height: info.height, data: blend ? overWhite(data, alpha) : data };
}

function checkSize(name: string, width: number, height: number, maxPixels: number): void {
  if (!(width > 0 && height > 0)) throw new UserError(`${name}: the image is empty (${width}x${height} pixels)`);
  if (width * height > maxPixels) {
    throw new UserError(
      `${name}: ${width}x${height} is ${((width * height) / 1e6).toFixed(1)} million pixels, over the limit of ` +
        `${(maxPixels / 1e6).toFixed(1)} million (maxPixels)`,
    );
  }
}

function describeUnreadable(bytes: Uint8Array): string {
  if (bytes.length === 0) return `the file is empty; ${READ} are read`;
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 512)).toString('latin1');
  const known: [RegExp, string][] = [
    [/^%PDF/, 'a PDF'],
    [/<svg/i, 'an SVG'],
    [/^\s*<(!doctype|html)/i, 'a web page'],
    [/^(II\+\0|MM\0\+)/, 'a BigTIFF'],
    [/^BM/, 'a BMP'],
    [/^....ftyp/s, 'a HEIC or video file'],
    [/^PK/, 'a ZIP archive'],
    [/^version https:\/\/git-lfs/, 'a Git LFS pointer (run `git lfs pull`)'],
  ];
  const found = known.find(([pattern]) => pattern.test(head));
  return `${found ? `this is ${found[1]}, not an image that can be read` : 'this is not an image'}; ${READ} are read`;
}

/** What libvips itself says is left out: it comes from memory that all its threads share, and may be about another image. */
function reason(error: unknown): string {
  if (error instanceof ImageFormatError) return error.message;
  const message = error instanceof Error ? error.message : String(error);
  if (/corrupt header/.test(message)) return 'its header is damaged';
  return /^Input (image|buffer) /i.test(message) ? message.split('\n')[0]! : 'it is truncated or corrupt';
}
