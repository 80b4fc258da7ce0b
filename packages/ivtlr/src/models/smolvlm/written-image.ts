/** What a prompt of SmolVLM writes for an image: a marker before each tile's tokens. Source: Hugging Face SmolVLMProcessor. */

/** The text of one image token. */
export const IMAGE_TOKEN = '<image>';

/** Stands before the marker of every tile, and behind the last one. */
export const FRAME_TOKEN = '<fake_token_around_image>';

const WHOLE = '<global-img>';

/** @param tiles null where the image is not cut. One image token stands for all of a tile */
export function writtenImage(tiles: { rows: number; columns: number } | null): string {
  const whole = `${FRAME_TOKEN}${WHOLE}${IMAGE_TOKEN}${FRAME_TOKEN}`;
  if (!tiles) return whole;
  const lines = Array.from({ length: tiles.rows }, (_, row) => {
    const line = Array.from(
      { length: tiles.columns },
      (_, column) => `${FRAME_TOKEN}<row_${row + 1}_col_${column + 1}>${IMAGE_TOKEN}`,
    );
    return `${line.join('')}\n`;
  });
  return `${lines.join('')}\n${whole}`;
}
