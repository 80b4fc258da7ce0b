/**
 * Image files to RGB, equal to Pillow's `ImageOps.exif_transpose(image).convert('RGB')`, which is what the models were
 * trained through: alpha is dropped unless told otherwise; 16-bit colour keeps the high byte; CMYK uses Pillow's plain
 * formula; ICC profiles and gamma are ignored; only the first frame counts. sharp decodes, nothing else.
 */
import sharp from 'sharp';
import { UserError } from '../errors.ts';
import { decodeGif, GifError, gifSize } from './gif.ts';
import type { RawImage, RgbImage } from './image.ts';

export interface DecodeOptions {
  /** Refuse images with more pixels than this before decoding them (decompression bombs). Default 100 million. */
  maxPixels?: number;
  /**
   * 16-bit grey PNG. `clip` is what Pillow does and so what checkpoints have seen: values over 255 become white. `scale`
   * keeps the high byte, which shows the image as a viewer would. Default `clip`.
   */
  grey16?: 'clip' | 'scale';
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

type Format = 'jpeg' | 'png' | 'webp' | 'gif';

/**
 * Decodes an image; one of kind `rgb` is only checked and returned as it is.
 *
 * @throws UserError naming the image: empty, not JPEG/PNG/WebP/GIF, truncated, corrupt, or too large.
 */
export async function decodeImage(image: RawImage, options: DecodeOptions = {}): Promise<RgbImage> {
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

/** The format told by the first bytes, or undefined for everything this project does not read (SVG and PDF among it). */
export function sniffFormat(bytes: Uint8Array): Format | undefined {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 12)).toString('latin1');
  if (head.startsWith('\xff\xd8\xff')) return 'jpeg';
  if (head.startsWith('\x89PNG\r\n\x1a\n')) return 'png';
  if (head.startsWith('RIFF') && head.slice(8, 12) === 'WEBP') return 'webp';
  if (head.startsWith('GIF87a') || head.startsWith('GIF89a')) return 'gif';
  return undefined;
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

async function decodeWithSharp(
  bytes: Uint8Array,
  name: string,
  format: Format,
  maxPixels: number,
  options: DecodeOptions,
): Promise<RgbImage> {
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
  if (format === 'png' && isGrey16(bytes)) {
    const { data, info } = await upright
      .pipelineColourspace('grey16')
      .toColourspace('grey16')
      .raw({ depth: 'ushort' })
      .toBuffer({ resolveWithObject: true });
    const samples = new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
    return {
      width: info.width,
      height: info.height,
      data: grey16ToRgb(samples, info.channels, options.grey16 ?? 'clip'),
    };
  }
  const { alpha = 'drop' } = options;
  const blend =
    header.hasAlpha &&
    ((alpha === 'white' && isRgba(format, bytes)) || (alpha === 'blend' && !isRgbPng(format, bytes)));
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

/** PNG header: bit depth is byte 24, colour type byte 25; type 0 is grey without alpha. Grey with alpha keeps the high byte. */
function isGrey16(bytes: Uint8Array): boolean {
  return bytes[24] === 16 && bytes[25] === 0;
}

/** Whether Pillow opens the file in mode RGBA: all WebP with alpha; PNG of colour type 6, or of type 4 with 16 bits. */
function isRgba(format: Format, bytes: Uint8Array): boolean {
  return format === 'webp' || bytes[25] === 6 || (bytes[25] === 4 && bytes[24] === 16);
}

/** A PNG of colour type 2, whose one clear colour (if any) transformers does not look at. */
function isRgbPng(format: Format, bytes: Uint8Array): boolean {
  return format === 'png' && bytes[25] === 2;
}

/** `white` rounds to nearest in integers, as Pillow's paste; `blend` rounds down what doubles give, as numpy's `astype`. */
function overWhite(rgba: Uint8Array, rule: DecodeOptions['alpha']): Uint8Array {
  const data = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    const alpha = rgba[from + 3]!;
    const share = alpha / 255;
    for (let c = 0; c < 3; c++) {
      const colour = rgba[from + c]!;
      data[to + c] =
        rule === 'blend' ? (1 - share) * 255 + share * colour : divide255(255 * (255 - alpha) + colour * alpha);
    }
  }
  return data;
}

function grey16ToRgb(samples: Uint16Array, channels: number, rule: 'clip' | 'scale'): Uint8Array {
  const pixels = samples.length / channels;
  const data = new Uint8Array(pixels * 3);
  for (let i = 0; i < pixels; i++) {
    const sample = samples[i * channels]!;
    data.fill(rule === 'clip' ? Math.min(sample, 255) : sample >> 8, i * 3, i * 3 + 3);
  }
  return data;
}

/** Ink to light, Pillow's formula: `(255 - k) * (255 - c) / 255`, rounded. */
function cmykToRgb(samples: Uint8Array, channels: number): Uint8Array {
  const pixels = samples.length / channels;
  const data = new Uint8Array(pixels * 3);
  for (let i = 0; i < pixels; i++) {
    const light = 255 - samples[i * channels + 3]!;
    for (let c = 0; c < 3; c++) data[i * 3 + c] = light - divide255(samples[i * channels + c]! * light);
  }
  return data;
}

/** `value / 255` rounded to nearest, exact for 0..65025, in integers. */
function divide255(value: number): number {
  const shifted = value + 128;
  return ((shifted >> 8) + shifted) >> 8;
}

function describeUnreadable(bytes: Uint8Array): string {
  if (bytes.length === 0) return 'the file is empty; a JPEG, PNG, WebP or GIF image is needed';
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 512)).toString('latin1');
  const known: [RegExp, string][] = [
    [/^%PDF/, 'a PDF'],
    [/<svg/i, 'an SVG'],
    [/^\s*<(!doctype|html)/i, 'a web page'],
    [/^(II\*\0|MM\0\*)/, 'a TIFF'],
    [/^BM/, 'a BMP'],
    [/^....ftyp/s, 'a HEIC, AVIF or video file'],
    [/^PK/, 'a ZIP archive'],
    [/^version https:\/\/git-lfs/, 'a Git LFS pointer (run `git lfs pull`)'],
  ];
  const found = known.find(([pattern]) => pattern.test(head));
  return `${found ? `this is ${found[1]}, not an image that can be read` : 'this is not an image'}; JPEG, PNG, WebP and GIF are read`;
}

function reason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const [first = ''] = message.split('\n');
  // Of some damage libvips says no more than where it is.
  const line = first.replace(/^(Input buffer has corrupt header|Vips\w+|vips\w+): ?/, '') || 'its header is corrupt';
  if (error instanceof GifError) return line;
  return /truncat|premature|read error|unable to parse/i.test(message) ? `it is truncated or corrupt (${line})` : line;
}
