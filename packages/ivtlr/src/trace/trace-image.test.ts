import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { heatColour } from './heat-colours.ts';
import { drawTrace, type TraceImage } from './trace-image.ts';
import { wrapText } from './wrap-text.ts';

const BLUE = [40, 90, 230];

function trace(overrides: Partial<TraceImage> = {}): TraceImage {
  const data = new Uint8Array(64 * 64 * 3).map((_, index) => BLUE[index % 3]!);
  const scores = Array.from({ length: 16 }, (_, index) => (index + 1) / 200);
  return {
    images: [{ image: { width: 64, height: 64, data }, tokenGrid: [4, 4] }],
    steps: [
      { picked: [15], scores, attentionRatio: 0.5, focus: 0.3 },
      { picked: [0, 1], scores },
    ],
    question: 'Which colour?',
    answer: 'blue',
    ...overrides,
  };
}

async function decode(png: Uint8Array) {
  const { data, info } = await sharp(png).removeAlpha().raw().toBuffer({ resolveWithObject: true });
  const pixel = (x: number, y: number) => [...data.subarray((y * info.width + x) * 3, (y * info.width + x) * 3 + 3)];
  return { width: info.width, height: info.height, pixel };
}

const distance = (a: number[], b: readonly number[]) => Math.hypot(...a.map((value, index) => value - b[index]!));

// Pixels of the PNG: margin 48, panels 640 wide and 40 apart, 52 for the title; a cell is 160.
const cellCentre = (panel: number, row: number, column: number) =>
  [48 + panel * 680 + column * 160 + 80, 100 + row * 160 + 80] as const;

describe('drawTrace', () => {
  it('shows the image, then a panel a step with picked patches uncovered', async () => {
    const { width, pixel } = await decode(drawTrace(trace()));
    expect(width).toBe(2 * 48 + 3 * 640 + 2 * 40);
    expect(pixel(...cellCentre(0, 2, 2))).toEqual(BLUE);
    const picked = distance(pixel(...cellCentre(1, 3, 3)), BLUE);
    const dimmed = distance(pixel(...cellCentre(1, 0, 2)), BLUE);
    expect(picked).toBeLessThan(60);
    expect(dimmed).toBeGreaterThan(120);
  });

  it('colours cells by their share of the highest score', async () => {
    const { pixel } = await decode(drawTrace(trace()));
    const light = (token: number) =>
      pixel(...cellCentre(1, Math.floor(token / 4), token % 4)).reduce((a, b) => a + b, 0);
    for (const [lower, higher] of [
      [0, 5],
      [5, 10],
      [10, 14],
    ] as const) {
      expect(light(higher)).toBeGreaterThan(light(lower));
    }
  });

  it('outlines picks, also around a group, and crosses out earlier ones', async () => {
    const { pixel } = await decode(drawTrace(trace()));
    const whiteness = ([red, green, blue]: number[]) => Math.min(red!, green!, blue!);
    const [x, y] = cellCentre(2, 0, 0);
    expect(whiteness(pixel(x, y + 80))).toBeGreaterThan(240); // lower edge of token 0
    expect(whiteness(pixel(x + 240, y))).toBeGreaterThan(240); // right edge of token 1
    expect(whiteness(pixel(x + 80, y))).toBeLessThan(240); // fine line between the two
    const [crossX, crossY] = cellCentre(2, 3, 3);
    const plain = whiteness(pixel(crossX - 40, crossY));
    expect(whiteness(pixel(crossX, crossY))).toBeGreaterThan(plain + 30);
  });

  it('draws images of every shape, without steps, with text of any length', async () => {
    const short = await decode(drawTrace(trace()));
    const long = await decode(drawTrace(trace({ question: 'why '.repeat(500) })));
    expect(long.width).toBe(short.width);
    expect(long.height).toBeGreaterThan(short.height + 200);
    expect((await decode(drawTrace(trace({ steps: [] })))).height).toBeLessThan(short.height);
    for (const [width, height, grid] of [
      [400, 20, [1, 14]],
      [20, 400, [14, 1]],
    ] as const) {
      const data = new Uint8Array(width * height * 3);
      const steps = [{ picked: [13], scores: new Float32Array(14) }];
      const drawn = await decode(
        drawTrace(trace({ images: [{ image: { width, height, data }, tokenGrid: grid }], steps })),
      );
      expect(drawn.width).toBeLessThanOrEqual(3200);
    }
  });

  it('treats scores that are not finite as 0 and refuses wrong steps', async () => {
    const scores = new Array<number>(16).fill(Number.NEGATIVE_INFINITY);
    scores[3] = Number.NaN;
    expect(drawTrace(trace({ steps: [{ picked: [], scores }] })).length).toBeGreaterThan(1000);
    expect(() => drawTrace(trace({ steps: [{ picked: [16], scores }] }))).toThrow(/picks token 16, the grid is 4x4/);
    expect(() => drawTrace(trace({ steps: [{ picked: [0], scores: [1] }] }))).toThrow(/1 scores/);
  });

  it('draws the same bytes twice', () => {
    expect(Buffer.compare(drawTrace(trace()), drawTrace(trace()))).toBe(0);
  });
});

it('heat colours grow evenly lighter', () => {
  const luminance = (value: number) => {
    const [red, green, blue] = heatColour(value).map((byte) => (byte / 255) ** 2.2);
    return Math.cbrt(0.2126 * red! + 0.7152 * green! + 0.0722 * blue!);
  };
  for (let step = 1; step <= 20; step++) {
    expect(luminance(step / 20) - luminance((step - 1) / 20)).toBeGreaterThan(0.015);
  }
  expect(heatColour(7)).toEqual(heatColour(1));
  expect(heatColour(Number.NaN)).toEqual(heatColour(0));
});

describe('wrapText', () => {
  const measure = { measureText: (text: string) => ({ width: text.length }) };

  it('breaks at spaces, keeps line breaks, splits only words that are too long', () => {
    expect(wrapText(measure, 'one two three\n\nfour', 8)).toEqual(['one two', 'three', '', 'four']);
    expect(wrapText(measure, 'a abcdefghij b', 4)).toEqual(['a', 'abcd', 'efgh', 'ij b']);
    expect(wrapText(measure, '', 4)).toEqual([]);
  });

  it('ends in an ellipsis after the last line allowed', () => {
    expect(wrapText(measure, 'a b c d', 1, 2)).toEqual(['a', 'b …']);
  });
});
