/**
 * A colour for a number from 0 to 1: dark violet over red and orange to pale yellow. Lightness rises evenly, so that the
 * order is seen right in print and by colour-blind readers too. Made from a straight line of lightness and a turning hue in
 * the OKLab space (Björn Ottosson, 2020).
 */

export type Rgb = readonly [red: number, green: number, blue: number];

const STEPS = 256;

const table: readonly Rgb[] = Array.from({ length: STEPS }, (_, index) => {
  const value = index / (STEPS - 1);
  const lightness = 0.18 + 0.77 * value;
  const hue = ((290 + 175 * value) * Math.PI) / 180; // 290 violet, 380 = 20 red, 465 = 105 yellow
  const chroma = 0.05 + 0.13 * Math.sin(Math.PI * Math.min(1, value * 0.85 + 0.1));
  return oklabToRgb(lightness, chroma * Math.cos(hue), chroma * Math.sin(hue));
});

/** `value` outside 0..1 takes the nearest end; NaN counts as 0. */
export function heatColour(value: number): Rgb {
  const clamped = Math.min(Math.max(Number.isNaN(value) ? 0 : value, 0), 1);
  return table[Math.round(clamped * (STEPS - 1))]!;
}

function oklabToRgb(lightness: number, a: number, b: number): Rgb {
  const long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const short = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    toByte(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
    toByte(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
    toByte(-0.0041960863 * long - 0.7034186147 * medium + 1.707614701 * short),
  ];
}

/** Linear light to an sRGB byte. */
function toByte(linear: number): number {
  const value = Math.min(Math.max(linear, 0), 1);
  return Math.round(255 * (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055));
}
