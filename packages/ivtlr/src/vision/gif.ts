/**
 * First frame of a GIF, as Pillow shows it.
 *
 * Why not sharp: libvips replaces transparent pixels by black, while Pillow's `convert('RGB')` keeps the palette colour of
 * the transparent index. A model trained through Pillow has seen that colour (often white), so this decoder keeps it.
 * Format: GIF89a specification, sections 18 (screen), 20 (image), 22 (LZW data), 23 (graphic control).
 */
import { ImageFormatError } from './format-error.ts';
import type { RgbImage } from './image.ts';

interface Screen {
  width: number;
  height: number;
  palette: Uint8Array | undefined;
}

/** Size of the logical screen, read from the header alone. */
export function gifSize(bytes: Uint8Array): { width: number; height: number } {
  const { width, height } = readScreen(new Reader(bytes));
  return { width, height };
}

/**
 * Decodes the first frame; the area it leaves uncovered gets the transparent index, else index 0.
 * @param clearIsWhite show white for the transparent index instead of its palette colour
 */
export function decodeGif(bytes: Uint8Array, maxPixels: number, clearIsWhite = false): RgbImage {
  const reader = new Reader(bytes);
  const screen = readScreen(reader);
  let transparent = -1;
  for (;;) {
    const kind = reader.byte();
    if (kind === 0x21) {
      const label = reader.byte();
      const block = reader.subBlock();
      if (label === 0xf9 && block.length >= 4 && (block[0]! & 1) === 1) transparent = block[3]!;
      if (block.length > 0) while (reader.subBlock().length > 0);
    } else if (kind === 0x2c) {
      return readFrame(reader, screen, { transparent, clearIsWhite }, maxPixels);
    } else if (kind === 0x3b) {
      throw new ImageFormatError('it has no frame');
    } // Any other byte is skipped, as browsers and Pillow do.
  }
}

class Reader {
  readonly bytes: Uint8Array;
  at = 0;
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
  byte(): number {
    if (this.at >= this.bytes.length) throw new ImageFormatError('the file ends too early');
    return this.bytes[this.at++]!;
  }
  uint16(): number {
    return this.byte() | (this.byte() << 8);
  }
  take(count: number): Uint8Array {
    if (this.at + count > this.bytes.length) throw new ImageFormatError('the file ends too early');
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }
  /** One length-prefixed block; an empty one ends a chain of blocks. */
  subBlock(): Uint8Array {
    return this.take(this.byte());
  }
}

function readScreen(reader: Reader): Screen {
  reader.take(6);
  const width = reader.uint16();
  const height = reader.uint16();
  const flags = reader.byte();
  reader.take(2);
  const palette = flags & 0x80 ? reader.take(3 << ((flags & 7) + 1)) : undefined;
  return { width, height, palette };
}

function readFrame(
  reader: Reader,
  screen: Screen,
  { transparent, clearIsWhite }: { transparent: number; clearIsWhite: boolean },
  maxPixels: number,
): RgbImage {
  const left = reader.uint16();
  const top = reader.uint16();
  const width = reader.uint16();
  const height = reader.uint16();
  const flags = reader.byte();
  const palette = flags & 0x80 ? reader.take(3 << ((flags & 7) + 1)) : screen.palette;
  // A frame that sticks out enlarges the image.
  const fullWidth = Math.max(screen.width, left + width);
  const fullHeight = Math.max(screen.height, top + height);
  if (fullWidth * fullHeight > maxPixels)
    throw new ImageFormatError(`its ${fullWidth}x${fullHeight} pixels are over the limit`);
  if (width === 0 || height === 0) throw new ImageFormatError('its first frame is empty');

  const indices = inflateLzw(reader, width * height);
  const colours = expandPalette(palette);
  if (clearIsWhite && transparent >= 0) colours.fill(255, transparent * 3, transparent * 3 + 3);
  const data = new Uint8Array(fullWidth * fullHeight * 3);
  const background = Math.max(transparent, 0) * 3;
  if (width < fullWidth || height < fullHeight) {
    for (let to = 0; to < data.length; to += 3) data.set(colours.subarray(background, background + 3), to);
  }
  const rows = flags & 0x40 ? interlacedRows(height) : undefined;
  for (let row = 0; row < height; row++) {
    let to = ((top + (rows ? rows[row]! : row)) * fullWidth + left) * 3;
    for (let from = row * width; from < (row + 1) * width; from++) {
      const colour = indices[from]! * 3;
      data[to++] = colours[colour]!;
      data[to++] = colours[colour + 1]!;
      data[to++] = colours[colour + 2]!;
    }
  }
  return { width: fullWidth, height: fullHeight, data };
}

/** 256 entries; the ones a short (or missing) palette leaves out are a grey ramp. */
function expandPalette(palette: Uint8Array | undefined): Uint8Array {
  const colours = new Uint8Array(768);
  for (let i = 0; i < 768; i++) colours[i] = Math.floor(i / 3);
  if (palette) colours.set(palette.subarray(0, 768));
  return colours;
}

function interlacedRows(height: number): number[] {
  const rows: number[] = [];
  for (const [start, step] of [
    [0, 8],
    [4, 8],
    [2, 4],
    [1, 2],
  ] as const) {
    for (let row = start; row < height; row += step) rows.push(row);
  }
  return rows;
}

/** Variable-width LZW, codes packed from the low bit, at most 12 bits. */
function inflateLzw(reader: Reader, count: number): Uint8Array {
  const rootBits = reader.byte();
  if (rootBits < 1 || rootBits > 8) throw new ImageFormatError(`LZW code size ${rootBits} is not 1 to 8`);
  const clear = 1 << rootBits;
  const end = clear + 1;
  const prefix = new Uint16Array(4096);
  const suffix = new Uint8Array(4096);
  const stack = new Uint8Array(4097);
  const out = new Uint8Array(count);
  let written = 0;
  let bits = rootBits + 1;
  let next = end + 1;
  let previous = -1;
  let first = 0;
  let buffer = 0;
  let buffered = 0;
  let block = reader.subBlock();
  let at = 0;

  while (written < count) {
    while (buffered < bits) {
      if (at === block.length) {
        block = reader.subBlock();
        at = 0;
        if (block.length === 0) throw new ImageFormatError('its pixel data end too early');
      }
      buffer |= block[at++]! << buffered;
      buffered += 8;
    }
    const code = buffer & ((1 << bits) - 1);
    buffer >>>= bits;
    buffered -= bits;

    if (code === clear) {
      bits = rootBits + 1;
      next = end + 1;
      previous = -1;
      continue;
    }
    if (code === end) throw new ImageFormatError('its pixel data end too early');
    if (code > next || (code === next && previous < 0)) throw new ImageFormatError('its pixel data are corrupt');

    // Walk the chain of prefixes backwards; the string of a code not yet in the table is previous + its own first byte.
    let depth = 0;
    let walk = code;
    if (code === next) {
      stack[depth++] = first;
      walk = previous;
    }
    while (walk >= clear) {
      stack[depth++] = suffix[walk]!;
      walk = prefix[walk]!;
    }
    first = walk;
    stack[depth++] = first;
    while (depth > 0 && written < count) out[written++] = stack[--depth]!;

    if (previous >= 0 && next < 4096) {
      prefix[next] = previous;
      suffix[next] = first;
      next++;
      if (next === 1 << bits && bits < 12) bits++;
    }
    previous = code;
  }
  return out;
}
