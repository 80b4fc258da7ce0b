/** How config.json says that rotary positions turn: `rope_parameters` of newer files, `rope_scaling` and `rope_theta` of older ones. */
import { z } from 'zod';
import { UserError } from '../../errors.ts';
import { checkConfig, positionCount } from './config-schema.ts';

/** Changes of the frequencies that stretch the positions a model can take. */
export type RopeScaling =
  /** All frequencies divided by the factor. */
  | { type: 'linear'; factor: number }
  /** YaRN: low frequencies divided by the factor, high ones kept, a ramp between; cos and sin times `attentionFactor`. */
  | {
      type: 'yarn';
      factor: number;
      /** Positions before the stretching. */
      originalPositions: number;
      attentionFactor: number;
      /** Turns over the original positions above which a frequency is kept, and below which it is divided. */
      betaFast: number;
      betaSlow: number;
      /** Whether the ramp begins and ends at whole frequencies. */
      truncate: boolean;
    };

export interface RopeConfig {
  ropeTheta: number;
  ropeScaling: RopeScaling | null;
  /** Positions the model has angles for, those that the stretching adds included. */
  maxPositions: number;
  /** M-RoPE: frequencies per axis; null where the file has none. */
  mropeSections: number[] | null;
}

/** The part of config.json (or of its text_config) that is read here. */
export const ropeFields = {
  max_position_embeddings: positionCount,
  rope_theta: z.number().positive().nullish(),
  rope_scaling: z.record(z.string(), z.unknown()).nullish(),
  rope_parameters: z.record(z.string(), z.unknown()).nullish(),
};

const positive = z.number().positive();
const parametersSchema = z.object({
  // Files of 2024 call plain M-RoPE a type of its own.
  rope_type: z
    .enum(['default', 'mrope', 'linear', 'yarn'], {
      error: ({ input }) => `${JSON.stringify(input)} is not supported; default, linear and yarn are`,
    })
    .default('default'),
  rope_theta: positive.nullish(),
  mrope_section: z.array(z.int().positive()).length(3).nullish(),
  partial_rotary_factor: z.literal(1, { error: 'only 1 is supported' }).nullish(),
  factor: positive.nullish(),
  original_max_position_embeddings: positionCount.nullish(),
  attention_factor: positive.nullish(),
  beta_fast: positive.nullish(),
  beta_slow: positive.nullish(),
  mscale: positive.nullish(),
  mscale_all_dim: positive.nullish(),
  truncate: z.boolean().default(true),
});

/**
 * @param where path of `fields` in the file
 * @throws UserError for a kind of rotary positions that this project has not
 */
export function readRope(
  fields: z.output<z.ZodObject<typeof ropeFields>>,
  defaultTheta: number,
  source: string,
  where = '',
): RopeConfig {
  const { rope_scaling: older } = fields;
  // As in transformers 5, an older key that says something wins over the newer one.
  const key = older && Object.keys(older).length > 0 ? 'rope_scaling' : 'rope_parameters';
  const stored = fields[key] ?? {};
  const path = where === '' ? key : `${where}.${key}`;
  const parameters = checkConfig(
    parametersSchema,
    { ...stored, rope_type: stored.rope_type ?? stored.type },
    source,
    path,
  );
  const positions = fields.max_position_embeddings;
  const ropeScaling = readScaling(parameters, positions, source, path);
  const stretched = ropeScaling
    ? (ropeScaling.type === 'yarn' ? ropeScaling.originalPositions : positions) * ropeScaling.factor
    : 0;
  return {
    ropeTheta: parameters.rope_theta ?? fields.rope_theta ?? defaultTheta,
    ropeScaling,
    maxPositions: checkConfig(positionCount, Math.max(positions, Math.floor(stretched)), source, `${path}.factor`),
    mropeSections: parameters.mrope_section ?? null,
  };
}

function readScaling(
  parameters: z.output<typeof parametersSchema>,
  positions: number,
  source: string,
  path: string,
): RopeScaling | null {
  const { rope_type: type, factor } = parameters;
  if (type === 'default' || type === 'mrope') return null;
  if (!factor) throw new UserError(`${source}: ${path}.factor is missing, which rope_type ${type} needs`);
  if (type === 'linear') return { type, factor };
  const originalPositions = parameters.original_max_position_embeddings ?? positions;
  const { mscale, mscale_all_dim: mscaleAll } = parameters;
  const magnitude = (scale: number) => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1);
  return {
    type,
    factor,
    originalPositions,
    attentionFactor:
      parameters.attention_factor ?? (mscale && mscaleAll ? magnitude(mscale) / magnitude(mscaleAll) : magnitude(1)),
    betaFast: parameters.beta_fast ?? 32,
    betaSlow: parameters.beta_slow ?? 1,
    truncate: parameters.truncate,
  };
}
