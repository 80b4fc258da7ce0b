import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { UserError } from '../errors.ts';
import { decodeImage, sniffFormat } from './decode.ts';

const WIDTH = 6;
const HEIGHT = 4;
const rgb = new Uint8Array(WIDTH * HEIGHT * 3).map((_, index) => (index * 37) % 256);
const image = () => sharp(rgb, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } });
const encoded = (bytes: Uint8Array, name = 'cat.png') => ({ kind: 'encoded', bytes, name }) as const;

/** A copy with one byte changed. */
function changed(bytes: Uint8Array, at: number): Uint8Array {
  const copy = Uint8Array.from(bytes);
  copy[at]! ^= 0x15;
  return copy;
}

describe('decodeImage', () => {
  it('returns decoded images as they are and checks their size', async () => {
    const image = { kind: 'rgb', width: WIDTH, height: HEIGHT, data: rgb } as const;
    expect((await decodeImage(image)).data).toBe(rgb);
    await expect(decodeImage({ ...image, width: 7 })).rejects.toThrow('7x4 needs 84 bytes');
  });

  it('reads PNG and lossless WebP exactly', async () => {
    for (const bytes of [await image().png().toBuffer(), await image().webp({ lossless: true }).toBuffer()]) {
      const image = await decodeImage(encoded(bytes));
      expect(image).toMatchObject({ width: WIDTH, height: HEIGHT });
      expect([...image.data]).toEqual([...rgb]);
    }
  });

  it('drops alpha, or blends over white when told to', async () => {
    const rgba = new Uint8Array([10, 200, 30, 0, 90, 80, 70, 128]);
    const bytes = await sharp(rgba, { raw: { width: 2, height: 1, channels: 4 } })
      .png()
      .toBuffer();
    expect([...(await decodeImage(encoded(bytes))).data]).toEqual([10, 200, 30, 90, 80, 70]);
    expect([...(await decodeImage(encoded(bytes), { alpha: 'white' })).data]).toEqual([255, 255, 255, 172, 167, 162]);
    const opaque = encoded(await image().png().toBuffer());
    expect([...(await decodeImage(opaque, { alpha: 'white' })).data]).toEqual([...rgb]);
  });

  it('blends everything transparent over white when told to, rounding down', async () => {
    const grey = await sharp(new Uint8Array([10, 0, 90, 128, 70, 255]), { raw: { width: 3, height: 1, channels: 2 } })
      .toColourspace('b-w')
      .png()
      .toBuffer();
    const first = ({ data }: { data: Uint8Array }) => [...data].filter((_, index) => index % 3 === 0);
    expect(first(await decodeImage(encoded(grey), { alpha: 'white' }))).toEqual([10, 90, 70]);
    expect(first(await decodeImage(encoded(grey), { alpha: 'blend' }))).toEqual([255, 172, 70]);
    // 255 - 128 / 255 * 165 = 172.18; 255 - 100 / 255 * 250 = 156.96, which `white` rounds up.
    const colour = await sharp(new Uint8Array([5, 255, 0, 100]), { raw: { width: 1, height: 1, channels: 4 } })
      .png()
      .toBuffer();
    expect([...(await decodeImage(encoded(colour), { alpha: 'white' })).data]).toEqual([157, 255, 155]);
    expect([...(await decodeImage(encoded(colour), { alpha: 'blend' })).data].slice(0, 1)).toEqual([156]);
  });

  it('turns images upright by their EXIF orientation', async () => {
    const bytes = await image().withMetadata({ orientation: 6 }).png().toBuffer();
    const upright = await decodeImage(encoded(bytes));
    expect(upright).toMatchObject({ width: HEIGHT, height: WIDTH });
    const bottomLeft = (HEIGHT - 1) * WIDTH * 3; // Orientation 6 needs a quarter turn clockwise.
    expect([...upright.data.subarray(0, 3)]).toEqual([...rgb.subarray(bottomLeft, bottomLeft + 3)]);
  });

  it('shows 16-bit grey as Pillow does and notes it, and the high byte of 16-bit colour', async () => {
    const grey = new Uint16Array([0, 100, 255, 256, 40_000]);
    const bytes = await sharp(grey, { raw: { width: 5, height: 1, channels: 1 } })
      .toColourspace('grey16')
      .png()
      .toBuffer();
    const first = ({ data }: { data: Uint8Array }) => [...data].filter((_, index) => index % 3 === 0);
    const shown = await decodeImage(encoded(bytes));
    expect(first(shown)).toEqual([0, 100, 255, 255, 255]);
    expect(shown.note).toMatch(/^cat\.png: 16-bit grey, whose values over 255 are shown white/);
    const dark = await sharp(grey.subarray(0, 3), { raw: { width: 3, height: 1, channels: 1 } })
      .toColourspace('grey16')
      .png()
      .toBuffer();
    expect((await decodeImage(encoded(dark))).note).toBeUndefined();

    const colour = await sharp(new Uint16Array([0x1234, 0xfeff, 0x00ff]), { raw: { width: 1, height: 1, channels: 3 } })
      .toColourspace('rgb16')
      .png()
      .toBuffer();
    expect([...(await decodeImage(encoded(colour))).data]).toEqual([0x12, 0xfe, 0]);
  });

  it('turns CMYK ink into light by the plain formula', async () => {
    const light = await sharp(rgb, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } })
      .toColourspace('cmyk')
      .jpeg({ quality: 100, chromaSubsampling: '4:4:4' })
      .toBuffer();
    expect((await sharp(light).metadata()).space).toBe('cmyk');
    const ink = await sharp(light, { ignoreIcc: true })
      .pipelineColourspace('cmyk')
      .toColourspace('cmyk')
      .raw()
      .toBuffer();
    const image = await decodeImage(encoded(light, 'ink.jpg'));
    image.data.forEach((value, index) => {
      const pixel = Math.floor(index / 3) * 4;
      const wanted = ((255 - ink[pixel + 3]!) * (255 - ink[pixel + (index % 3)]!)) / 255;
      expect(Math.abs(value - wanted)).toBeLessThanOrEqual(1);
    });
  });

  it('ignores colour profiles', async () => {
    const bytes = await image().withIccProfile('p3').png().toBuffer();
    const stored = await sharp(bytes, { ignoreIcc: true }).raw().toBuffer();
    expect([...(await decodeImage(encoded(bytes))).data]).toEqual([...stored]);
  });

  it('names the image in every refusal', async () => {
    const png = await image().png().toBuffer();
    const jpeg = await image().jpeg().toBuffer();
    const cases: [Uint8Array, RegExp][] = [
      [new Uint8Array(), /cat\.png: the file is empty/],
      [Buffer.from('hello'), /cat\.png: this is not an image; JPEG, PNG, WebP, GIF, TIFF and AVIF are read$/],
      [Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'), /cat\.png: this is an SVG/],
      [Buffer.from('%PDF-1.7'), /cat\.png: this is a PDF/],
      [png.subarray(0, png.length / 2), /cat\.png: the PNG image cannot be decoded: it is truncated or corrupt$/],
      [jpeg.subarray(0, jpeg.length - 20), /cat\.png: the JPEG image cannot be decoded: it is truncated or corrupt$/],
      [Buffer.from('GIF89a'), /cat\.png: the GIF image cannot be decoded: the file ends too early/],
      [png.subarray(0, 20), /cat\.png: the PNG image cannot be decoded: the file ends inside the chunk IHDR$/],
      [changed(png, 30), /cat\.png: the PNG image cannot be decoded: the checksum of the chunk IHDR is wrong$/],
      [changed(png, 13), /cat\.png: the PNG image cannot be decoded: a chunk before the pixels is damaged$/],
      [changed(png, 38), /cat\.png: the PNG image cannot be decoded: /],
      [Buffer.from('\0\0\0\x18ftypheic\0\0\0\0mif1heic'), /cat\.png: this is a HEIC or video file/],
      [Buffer.from('II*\0'), /cat\.png: the TIFF image cannot be decoded: the file ends inside its header$/],
      [Buffer.from('RIFF\0\0\0\0WEBPxxxx'), /cat\.png: the WEBP image cannot be decoded/],
    ];
    for (const [bytes, message] of cases) {
      const error = await decodeImage(encoded(bytes)).catch((thrown) => thrown);
      expect(error).toBeInstanceOf(UserError);
      expect(error.message).toMatch(message);
      expect(error.message).not.toMatch(/:\s*$/);
    }
  });

  it('refuses a JPEG whose stream is broken by a stray marker, as Pillow does, and reads one with stray bytes', async () => {
    const jpeg = await sharp(rgb, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } })
      .jpeg({ quality: 100 })
      .toBuffer();
    const scan = jpeg.lastIndexOf(Buffer.from([0xff, 0xda])) + 14;
    const insert = (...bytes: number[]) =>
      Buffer.concat([jpeg.subarray(0, scan + 20), Buffer.from(bytes), jpeg.subarray(scan + 20)]);
    for (const marker of [0xc0, 0xc4, 0xd8, 0xda, 0x33]) {
      await expect(decodeImage(encoded(insert(0xff, marker))), `${marker}`).rejects.toThrow(
        'cat.png: the JPEG image cannot be decoded: its data are broken by a stray marker',
      );
    }
    expect(await decodeImage(encoded(insert(0xff, 0xd0)))).toMatchObject({ width: WIDTH, height: HEIGHT });
    expect(await decodeImage(encoded(Buffer.concat([jpeg, Buffer.from([0xff, 0xc0])])))).toMatchObject({
      width: WIDTH,
    });
  });

  it('reads TIFF exactly, whatever the compression, and refuses what would be shown wrongly', async () => {
    for (const compression of ['none', 'lzw', 'deflate', 'packbits'] as const) {
      const decoded = await decodeImage(encoded(await image().tiff({ compression }).toBuffer()));
      expect([...decoded.data], compression).toEqual([...rgb]);
    }
    const rgba = sharp(new Uint8Array([10, 200, 30, 0, 90, 80, 70, 128]), {
      raw: { width: 2, height: 1, channels: 4 },
    });
    const clear = encoded(await rgba.tiff({ compression: 'lzw' }).toBuffer());
    expect([...(await decodeImage(clear)).data]).toEqual([10, 200, 30, 90, 80, 70]);
    expect([...(await decodeImage(clear, { alpha: 'white' })).data]).toEqual([255, 255, 255, 172, 167, 162]);
    const zstd = encoded(await image().tiff({ compression: 'none' }).toBuffer());
    // Tag 259, compression, of the value 1: the entry is (tag, type, count, value).
    const entry = Buffer.from([3, 1, 3, 0, 1, 0, 0, 0, 1, 0]);
    const at = Buffer.from(zstd.bytes).indexOf(entry);
    zstd.bytes.set([80, 195], at + 8);
    await expect(decodeImage(zstd)).rejects.toThrow(
      'cat.png: the TIFF image cannot be decoded: its compression (number 50000) is not read, only none, CCITT group 4,',
    );
    const float = await sharp(new Uint8Array([1, 2]), { raw: { width: 2, height: 1, channels: 1 } })
      .toColourspace('b-w')
      .tiff({ compression: 'none' })
      .toBuffer();
    const bits = float.indexOf(Buffer.from([2, 1, 3, 0, 1, 0, 0, 0, 8, 0]));
    expect(bits).toBeGreaterThan(0);
    float.set([32], bits + 8);
    await expect(decodeImage(encoded(float))).rejects.toThrow(/only samples of 1, 8 or 16 bits/);
  });

  it('reads AVIF', async () => {
    const bytes = await image().avif({ quality: 100, lossless: true, chromaSubsampling: '4:4:4' }).toBuffer();
    expect(sniffFormat(bytes)).toBe('avif');
    const decoded = await decodeImage(encoded(bytes));
    expect(decoded).toMatchObject({ width: WIDTH, height: HEIGHT });
    decoded.data.forEach((value, i) => {
      expect(Math.abs(value - rgb[i]!)).toBeLessThanOrEqual(2);
    });
  });

  it('survives damaged files: an image or a UserError, never anything else', async () => {
    const files = await Promise.all([
      image().png().toBuffer(),
      image().jpeg().toBuffer(),
      image().webp().toBuffer(),
      image().gif().toBuffer(),
      image().tiff({ compression: 'lzw' }).toBuffer(),
      image().avif().toBuffer(),
    ]);
    let refused = 0;
    for (let round = 0; round < 300; round++) {
      const bytes = Uint8Array.from(files[round % files.length]!);
      for (let hit = 0; hit < 1 + (round % 5); hit++) {
        bytes[12 + ((round * 7919 + hit * 104_729) % (bytes.length - 12))] = (round * 31 + hit * 17) % 256;
      }
      const result = await decodeImage(encoded(bytes), { maxPixels: 1e6 }).catch((thrown) => thrown);
      if (result instanceof Error) {
        expect(result).toBeInstanceOf(UserError);
        expect(result.message).toMatch(/^cat\.png: /);
        refused++;
      } else expect(result.data.length).toBe(result.width * result.height * 3);
    }
    expect(refused).toBeGreaterThan(10);
    expect(refused).toBeLessThan(285);
  });

  it('refuses too many pixels before decoding them', async () => {
    const bytes = await image().png().toBuffer();
    await expect(decodeImage(encoded(bytes), { maxPixels: 20 })).rejects.toThrow(/6x4 is 0\.0 million pixels, over/);
    const gif = new Uint8Array([...Buffer.from('GIF89a'), 255, 255, 255, 255, 0, 0, 0]);
    await expect(decodeImage(encoded(gif))).rejects.toThrow(/65535x65535/);
  });
});

describe('sniffFormat', () => {
  it('knows its formats only', () => {
    expect(sniffFormat(Buffer.from('RIFF1234WEBP'))).toBe('webp');
    expect(sniffFormat(Buffer.from('RIFF1234WAVE'))).toBeUndefined();
    expect(sniffFormat(Buffer.from('BM123456789012'))).toBeUndefined();
  });
});
