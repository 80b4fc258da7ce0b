/** Models and images of the Chameleon goldens (formats: README.md here), made again from their seeds. */
import { manualSeed, randn, scope } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { parseChameleonConfig } from '../../packages/ivtlr/src/models/chameleon/config.ts';
import { Chameleon } from '../../packages/ivtlr/src/models/chameleon/model.ts';
import type { ProcessedImage } from '../../packages/ivtlr/src/models/types.ts';
import { placed } from '../device.ts';
import { drawWeights, type GoldenCase } from './model.ts';

export interface ChameleonCase extends Omit<GoldenCase, 'image_grid_thw'> {
  /** How many the case has, in row order. */
  pictures: number;
}

export function seededChameleon(golden: Pick<ChameleonCase, 'name' | 'config' | 'seed'>): Chameleon {
  return placed(drawWeights(new Chameleon(parseChameleonConfig(golden.config, golden.name)), golden.seed)).eval();
}

/** The case's images: noise of 16x16, stretched. Call inside a scope. */
export function seededChameleonImages({ config, seed, pictures }: Pick<ChameleonCase, 'config' | 'seed' | 'pictures'>) {
  const { vq } = parseChameleonConfig(config, 'case');
  const side = vq.resolution;
  const places = side / 2 ** (vq.multipliers.length - 1);
  return scope(() => {
    manualSeed(seed + 1);
    const all = ops.upsample_bilinear2d(randn([pictures, 3, 16, 16]), [side, side], false);
    return Array.from(
      { length: pictures },
      (_, i): ProcessedImage => ({
        pixels: all.narrow(0, i, 1),
        grid: [1, places, places],
        tokens: places ** 2,
        tokenGrid: [places, places],
        source: { width: side, height: side },
      }),
    );
  });
}
