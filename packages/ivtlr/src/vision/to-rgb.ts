/** Decoded samples of other kinds to 8-bit RGB, as Pillow's `convert('RGB')` and the models' preprocessing do it. */

/** `white` rounds to nearest in integers, as Pillow's paste; `blend` rounds down what doubles give, as numpy's `astype`. */
export function overWhite(rgba: Uint8Array, rule: 'white' | 'blend'): Uint8Array {
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

/** Values over 255 become white. */
export function grey16ToRgb(samples: Uint16Array, channels: number): Uint8Array {
  const pixels = samples.length / channels;
  const data = new Uint8Array(pixels * 3);
  for (let i = 0; i < pixels; i++) data.fill(Math.min(samples[i * channels]!, 255), i * 3, i * 3 + 3);
  return data;
}

/** Ink to light, Pillow's formula: `(255 - k) * (255 - c) / 255`, rounded. */
export function cmykToRgb(samples: Uint8Array, channels: number): Uint8Array {
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
