// Images of real size and a Parquet file of them in M3CoT's schema.
import sharp from 'sharp';
import { writeParquet } from '../packages/ivtlr/dist/data/parquet.js';
import { m3cot } from '../packages/ivtlr/dist/tasks/m3cot/m3cot.js';

/** Something like a photo of 1024x768 as a JPEG: soft shapes of all sizes, some sharp edges, grain. The same for the same seed. */
export async function photo(seed) {
  const [width, height] = [1024, 768];
  let state = seed * 2654435761 + 1;
  const random = () => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) | 0;
    return (state >>> 8) / 2 ** 24;
  };
  const layer = async (cells) => {
    const data = Buffer.from(Array.from({ length: cells * cells * 3 }, () => Math.floor(random() * 256)));
    const small = sharp(data, { raw: { width: cells, height: cells, channels: 3 } });
    return small.resize(width, height, { fit: 'fill', kernel: 'cubic' }).raw().toBuffer();
  };
  const layers = await Promise.all([3, 9, 33, 129].map(layer));
  const pixels = Buffer.alloc(width * height * 3);
  for (let i = 0; i < pixels.length; i++) {
    const soft = layers[0][i] * 0.4 + layers[1][i] * 0.3 + layers[2][i] * 0.2 + layers[3][i] * 0.1;
    pixels[i] = Math.max(0, Math.min(255, soft + (layers[1][i] > 140 ? 30 : -10) + (random() - 0.5) * 12));
  }
  return sharp(pixels, { raw: { width, height, channels: 3 } })
    .jpeg({ quality: 90 })
    .toBuffer();
}

/** Writes `rows` samples over `photos` to a Parquet file; `text(i)` gives question and choices of one. */
export async function writeSamples(file, rows, photos, text) {
  async function* generated() {
    for (let i = 0; i < rows; i++) {
      const image = { bytes: photos[i % photos.length], path: `${i}.jpg` };
      yield { id: `${i}`, answer: 'A', rationale: 'One. Two', image, domain: 'd', topic: 't', ...text(i) };
    }
  }
  const kind = (name) => (name === 'image' ? 'image' : name === 'choices' ? 'text list' : 'text');
  await writeParquet(
    file,
    m3cot.columns.map((name) => ({ name, kind: kind(name) })),
    generated(),
  );
}
