import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { ImageFormatError } from './format-error.ts';
import { decodeGif } from './gif.ts';

const PALETTE = [
  [10, 20, 30],
  [200, 100, 50],
  [255, 255, 255],
  [1, 2, 3],
];

interface Options {
  screen?: [number, number];
  frame?: [number, number, number, number];
  interlaced?: boolean;
  transparent?: number;
  localPalette?: number[][];
}

/** A GIF with one frame of two-bit pixels; a clear code before every pixel keeps all codes three bits wide. */
function makeGif(pixels: number[], options: Options = {}): Uint8Array {
  const frame = options.frame ?? [0, 0, 2, pixels.length / 2];
  const [width, height] = options.screen ?? [frame[2], frame[3]];
  const uint16 = (value: number) => [value & 255, value >> 8];
  const bits = [...pixels.flatMap((pixel) => [4, pixel]), 5].flatMap((code) => [code & 1, (code >> 1) & 1, code >> 2]);
  const data: number[] = [];
  bits.forEach((bit, index) => {
    data[index >> 3] = (data[index >> 3] ?? 0) | (bit << (index & 7));
  });
  const control = options.transparent === undefined ? [] : [0x21, 0xf9, 4, 1, 0, 0, options.transparent, 0];
  const flags = (options.localPalette ? 0x81 : 0) | (options.interlaced ? 0x40 : 0);
  return new Uint8Array([
    ...Buffer.from('GIF89a'),
    ...[...uint16(width), ...uint16(height), 0x81, 0, 0, ...PALETTE.flat()],
    ...[0x21, 0xfe, 2, 104, 105, 0, ...control],
    ...[0x2c, ...frame.flatMap(uint16), flags, ...(options.localPalette ?? []).flat()],
    ...[2, data.length, ...data, 0, 0x3b],
  ]);
}

const colours = (...indices: number[]) => indices.flatMap((index) => PALETTE[index]!);

describe('decodeGif', () => {
  it('reads a frame through comments and extensions', () => {
    const image = decodeGif(makeGif([0, 1, 2, 3]), 100);
    expect(image).toEqual({ width: 2, height: 2, data: new Uint8Array(colours(0, 1, 2, 3)) });
  });

  it('keeps the palette colour of transparent pixels and fills the uncovered area with it', () => {
    const image = decodeGif(makeGif([2, 1], { screen: [3, 2], frame: [1, 1, 2, 1], transparent: 2 }), 100);
    expect([...image.data]).toEqual(colours(2, 2, 2, 2, 2, 1));
  });

  it('uses the frame palette, grey for the colours a palette lacks', () => {
    const local = [...PALETTE].reverse();
    expect([...decodeGif(makeGif([0, 3], { localPalette: local }), 100).data]).toEqual(colours(3, 0));
    const bytes = makeGif([0, 3]);
    const withoutPalette = new Uint8Array([
      ...bytes.subarray(0, 10),
      0,
      ...bytes.subarray(11, 13),
      ...bytes.subarray(25),
    ]);
    expect([...decodeGif(withoutPalette, 100).data]).toEqual([0, 0, 0, 3, 3, 3]);
  });

  it('reads long LZW strings and growing code widths as libvips does', async () => {
    const width = 211;
    const height = 97;
    const noise = new Uint8Array(width * height * 3).map((_, index) => (index * 2654435761) >>> 24);
    noise.fill(77, 0, width * 40 * 3); // A flat part makes strings long, noise fills the table to its 4096 entries.
    const bytes = await sharp(noise, { raw: { width, height, channels: 3 } })
      .gif()
      .toBuffer();
    const wanted = await sharp(bytes).removeAlpha().raw().toBuffer();
    const image = decodeGif(bytes, 1e6);
    expect(image).toMatchObject({ width, height });
    expect(Buffer.compare(image.data, wanted)).toBe(0);
  });

  it('puts interlaced rows in their places', () => {
    const stored = [0, 8, 4, 2, 6, 1, 3, 5, 7].flatMap((row) => [row % 4, (row + 1) % 4]);
    const image = decodeGif(makeGif(stored, { interlaced: true }), 100);
    for (let row = 0; row < 9; row++) {
      expect([...image.data.subarray(row * 6, row * 6 + 6)]).toEqual(colours(row % 4, (row + 1) % 4));
    }
  });

  it('grows with a frame that sticks out, up to the limit', () => {
    const bytes = makeGif([1, 1], { screen: [1, 1], frame: [1, 0, 2, 1] });
    expect(decodeGif(bytes, 100)).toMatchObject({ width: 3, height: 1 });
    expect(() => decodeGif(bytes, 2)).toThrow(/3x1/);
  });

  it('refuses every shortened file and an empty animation', () => {
    const bytes = makeGif([0, 1, 2, 3]);
    const lastPixelByte = bytes.length - 4;
    for (let length = 6; length <= lastPixelByte; length++) {
      expect(() => decodeGif(bytes.subarray(0, length), 100)).toThrow(ImageFormatError);
    }
    const noFrame = new Uint8Array([...bytes.subarray(0, 25), 0x3b]);
    expect(() => decodeGif(noFrame, 100)).toThrow(/no frame/);
  });
});
