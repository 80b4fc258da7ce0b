/** Models and images of the SmolVLM goldens (formats: README.md here), made again from their seeds. */
import { manualSeed, randn, scope } from '@ivtlr/torch';
import { parseSmolVlmConfig } from '../../packages/ivtlr/src/models/smolvlm/config.ts';
import { SmolVlmInputs } from '../../packages/ivtlr/src/models/smolvlm/inputs.ts';
import { SmolVlm } from '../../packages/ivtlr/src/models/smolvlm/model.ts';
import type { ProcessedImage } from '../../packages/ivtlr/src/models/types.ts';
import { placed } from '../device.ts';
import { drawWeights, type GoldenCase } from './model.ts';

export interface SmolVlmCase extends Omit<GoldenCase, 'image_grid_thw'> {
  /** Pixels of a tile's side. */
  tile: number;
  /** Rows and columns of tiles of each picture, in row order; 0 and 0 for one that is not cut. */
  pictures: [rows: number, columns: number][];
}

export function seededSmolVlm({ name, config, seed }: Pick<SmolVlmCase, 'name' | 'config' | 'seed'>): SmolVlm {
  return placed(drawWeights(new SmolVlm(parseSmolVlmConfig(config, name)), seed)).eval();
}

/** The case's images: noise. Call inside a scope. */
export function seededSmolVlmImages({ config, seed, tile, pictures }: Omit<SmolVlmCase, 'name' | 'ids' | 'weights'>) {
  const { vision } = parseSmolVlmConfig(config, 'case');
  const inputs = new SmolVlmInputs({ max_image_size: { longest_edge: tile } }, vision);
  const tiles = pictures.map(([rows, columns]) => rows * columns + 1);
  return scope(() => {
    manualSeed(seed + 1);
    const all = randn([tiles.reduce((a, b) => a + b, 0), 3, tile, tile]);
    let at = 0;
    return pictures.map(([rows, columns], i): ProcessedImage => {
      const pixels = all.narrow(0, at, tiles[i]!);
      at += tiles[i]!;
      const size = { width: Math.max(1, columns) * tile, height: Math.max(1, rows) * tile };
      const image = { ...size, data: new Uint8Array() };
      const layout = inputs.layout({ image, whole: rows > 0 ? image : undefined });
      return { ...layout, pixels, grid: [1, ...layout.tokenGrid], source: size };
    });
  });
}
