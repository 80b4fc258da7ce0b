/** What a latent step is: the method's named choices, and the switches that take a part away to see what it does. */
import { z } from 'zod';

/** T and K cannot be larger: far more than any model was trained with, and few enough to fit in memory. */
export const MAX_LATENT_STEPS = 1000;
export const MAX_PATCHES = 10_000;

/** T: latent steps before the written text. */
export const latentStepsSchema = z.int().min(0).max(MAX_LATENT_STEPS);

/** What one latent step does. Recipes, the settings stored with a model and `generate` all take their options from here. */
export const latentOptionsSchema = z.strictObject({
  /** K: image tokens picked at each step. */
  patches: z.int().min(0).max(MAX_PATCHES).default(32),
  /** `sequential` numbers every token 0, 1, 2 .. (official); `mrope` gives image tokens their rows and columns. */
  positions: z.enum(['sequential', 'mrope']).default('sequential'),
  /** Order of the picked rows: as the top-k kernel returns them (official), by falling score, or by position. */
  pickOrder: z.enum(['kernel', 'score', 'position']).default('kernel'),
  /** With fewer than K unpicked tokens left: take used ones again (official), take what is left, or stop. */
  onExhausted: z.enum(['reuse', 'fewer', 'error']).default('fewer'),
  /** Ablation: tokens picked before may be picked again. */
  allowRepeats: z.boolean().default(false),
  /** `swap` takes another row's of the batch; `off` inserts no row at all. */
  latentText: z.enum(['on', 'off', 'zero', 'swap']).default('on'),
  latentVision: z.enum(['on', 'off', 'zero', 'swap', 'random']).default('on'),
  /**
   * Where the model adds further features of an image token to its first layers (Qwen3-VL's DeepStack): a patch that is inserted again brings them
   * along, as it did in the prompt (`on`), or is its embedding alone (`off`). Other models have none.
   */
  latentDeepstack: z.enum(['on', 'off']).default('on'),
  /** Latent rows may not attend to the image tokens; later text may. Scores still see them. */
  hideImageFromLatents: z.boolean().default(false),
  /**
   * What is remembered of latent steps: `all` of them (official), or the `last` one. With `last`, the rows of a step attend to the prompt's text and
   * to each other, neither to the image tokens nor to earlier steps; text attends to the prompt, the last step's rows and itself. So whatever one
   * step finds out reaches the next through its latent text alone.
   */
  latentMemory: z.enum(['all', 'last']).default('all'),
  /** Text behind the prompt and its latent steps may not attend to the image tokens. */
  hideImageFromText: z.boolean().default(false),
});

export type LatentOptions = z.output<typeof latentOptionsSchema>;

export const LATENT_DEFAULTS: LatentOptions = latentOptionsSchema.parse({});

/** What the last latent step can do otherwise than the ones before it. */
export type LastStepOptions = Partial<Pick<LatentOptions, 'latentText' | 'latentVision'>>;

/** Whether some latent step takes something of another sample's. */
export function swaps(...options: (LastStepOptions | undefined)[]): boolean {
  return options.some((each) => each?.latentText === 'swap' || each?.latentVision === 'swap');
}

/** Whether latent rows may not attend to the image tokens. */
export function hidesImageFromLatents({
  hideImageFromLatents,
  latentMemory,
}: Partial<Pick<LatentOptions, 'hideImageFromLatents' | 'latentMemory'>>): boolean {
  return (hideImageFromLatents ?? false) || latentMemory === 'last';
}

export interface Ablation {
  title: string;
  /** Overrides the number of latent steps. */
  latentSteps?: number;
  options: Partial<LatentOptions>;
  /** What the last latent step does otherwise than the ones before it. */
  lastStep?: LastStepOptions;
}

/** Ablations at inference, by the name a command takes. */
export const ABLATIONS: Readonly<Record<string, Ablation>> = {
  full: { title: 'full', options: {} },
  'zero-latents': { title: 'zero latent steps', latentSteps: 0, options: {} },
  'text-zeroed': { title: 'latent text zeroed', options: { latentText: 'zero' } },
  'text-swapped': { title: "another sample's latent text", options: { latentText: 'swap' } },
  'last-text-swapped': {
    title: "another sample's latent text, last step only",
    options: {},
    lastStep: { latentText: 'swap' },
  },
  'no-latent-text': { title: 'no latent text', options: { latentText: 'off' } },
  'patches-zeroed': { title: 'patches zeroed', options: { latentVision: 'zero' } },
  'patches-swapped': { title: "another sample's patches", options: { latentVision: 'swap' } },
  'random-patches': { title: 'random patches', options: { latentVision: 'random' } },
  'no-latent-vision': { title: 'no latent vision (Coconut)', options: { latentVision: 'off' } },
  'repeats-allowed': { title: 'repeats allowed', options: { allowRepeats: true } },
};
