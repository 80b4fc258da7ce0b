/** What a latent step is: the method's named choices, and the switches that take a part away to see what it does. */
import type { PositionKind } from '../models/types.ts';

export type PickOrder = 'kernel' | 'score' | 'position';
export type OnExhausted = 'reuse' | 'fewer' | 'error';
/** `swap` takes another row's of the batch; `off` inserts no row at all. */
export type LatentTextMode = 'on' | 'off' | 'zero' | 'swap';
export type LatentVisionMode = 'on' | 'off' | 'zero' | 'swap' | 'random';

export interface LatentOptions {
  /** K: image tokens picked at each step. */
  patches: number;
  /** `sequential` numbers every token 0, 1, 2 .. (official); `mrope` gives image tokens their rows and columns. */
  positions: PositionKind;
  /** Order of the picked rows: as the top-k kernel returns them (official), by falling score, or by position. */
  pickOrder: PickOrder;
  /** With fewer than K unpicked tokens left: take used ones again (official), take what is left, or stop. */
  onExhausted: OnExhausted;
  /** Ablation: tokens picked before may be picked again. */
  allowRepeats: boolean;
  latentText: LatentTextMode;
  latentVision: LatentVisionMode;
  /** Latent rows may not attend to the image tokens; later text may. Scores still see them. */
  hideImageFromLatents: boolean;
}

export const LATENT_DEFAULTS: LatentOptions = {
  patches: 32,
  positions: 'sequential',
  pickOrder: 'kernel',
  onExhausted: 'fewer',
  allowRepeats: false,
  latentText: 'on',
  latentVision: 'on',
  hideImageFromLatents: false,
};

export interface Ablation {
  title: string;
  /** Overrides the number of latent steps. */
  latents?: number;
  options: Partial<LatentOptions>;
}

/** Ablations at inference, by the name a command takes. */
export const ABLATIONS: Readonly<Record<string, Ablation>> = {
  full: { title: 'full', options: {} },
  'zero-latents': { title: 'zero latent steps', latents: 0, options: {} },
  'text-zeroed': { title: 'latent text zeroed', options: { latentText: 'zero' } },
  'text-swapped': { title: "another sample's latent text", options: { latentText: 'swap' } },
  'no-latent-text': { title: 'no latent text', options: { latentText: 'off' } },
  'patches-zeroed': { title: 'patches zeroed', options: { latentVision: 'zero' } },
  'patches-swapped': { title: "another sample's patches", options: { latentVision: 'swap' } },
  'random-patches': { title: 'random patches', options: { latentVision: 'random' } },
  'no-latent-vision': { title: 'no latent vision (Coconut)', options: { latentVision: 'off' } },
  'repeats-allowed': { title: 'repeats allowed', options: { allowRepeats: true } },
};
