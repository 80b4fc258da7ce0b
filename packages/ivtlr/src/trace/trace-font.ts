/** The font of drawings: shipped, so that they look the same on every machine. */
import { fileURLToPath } from 'node:url';
import { GlobalFonts } from '@napi-rs/canvas';

const NAME = 'ivtlr-sans';

/** For a canvas font string, after the size. The system's fonts serve scripts that the shipped one (DejaVu Sans) lacks. */
export const FONT = `${NAME}, sans-serif`;

let loaded = false;

/** Registers the shipped font; once is enough. */
export function loadFonts(): void {
  if (loaded) return;
  for (const file of ['DejaVuSans.ttf', 'DejaVuSans-Bold.ttf']) {
    GlobalFonts.registerFromPath(fileURLToPath(new URL(`../../assets/fonts/${file}`, import.meta.url)), NAME);
  }
  loaded = true;
}
