/** config.json of a Chameleon folder, as the hub's and as newer exports write it. */
import { z } from 'zod';
import { UserError } from '../../errors.ts';
import { checkConfig, layerCount, normEps, tokenId, vocabularySize, width } from '../common/config-schema.ts';
import type { DecoderConfig } from '../common/decoder.ts';
import { readRope, ropeFields } from '../common/rope-config.ts';

/** Features that no published checkpoint uses and that this project does not implement. */
const absent = z.literal(false, { error: 'only false is known' }).nullish();

const vq = z.object({
  embed_dim: width.default(256),
  num_embeddings: vocabularySize.default(8192),
  double_latent: absent,
  latent_channels: width.default(256),
  resolution: z.int().positive().max(8192).default(512),
  in_channels: z.literal(3, { error: 'only 3 is known' }).default(3),
  base_channels: width.default(128),
  channel_multiplier: z.array(z.int().positive().max(1024)).min(1).max(10).default([1, 1, 2, 2, 4]),
  num_res_blocks: z.int().positive().max(100).default(2),
  attn_resolutions: z.array(z.int().positive()).nullish(),
  attn_type: z.enum(['vanilla', 'none'], { error: 'vanilla, none and null are known' }).nullable().default('vanilla'),
});

const top = z.object({
  ...ropeFields,
  model_type: z.literal('chameleon'),
  hidden_size: width.default(4096),
  num_hidden_layers: layerCount.default(32),
  num_attention_heads: width.default(32),
  num_key_value_heads: width.nullish(),
  intermediate_size: width.default(11008),
  vocab_size: vocabularySize.default(65536),
  hidden_act: z.literal('silu', { error: 'only silu is known' }).default('silu'),
  attention_bias: absent,
  mlp_bias: absent,
  rms_norm_eps: normEps.default(1e-5),
  max_position_embeddings: ropeFields.max_position_embeddings.default(4096),
  head_dim: width.nullish(),
  swin_norm: z.boolean().nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  vocabulary_map: z.record(z.string(), tokenId, {
    error: 'the ids of the tokens by name, <image> and the image codes IMGIMG.. among them, are needed',
  }),
  vq_config: vq.nullish(),
});

export interface VqConfig {
  /** Channels of a code vector, and of what the encoder gives. */
  embedDim: number;
  latentChannels: number;
  /** Codes. */
  codes: number;
  /** Pixels of an image's side. */
  resolution: number;
  baseChannels: number;
  /** Per level, the first at full resolution; every further level halves it. */
  multipliers: number[];
  residualBlocks: number;
  /** Sides in pixels at which attention follows each residual block. */
  attentionResolutions: number[];
  attention: boolean;
}

export interface ChameleonConfig extends DecoderConfig {
  /** Norms after attention and MLP instead of before (the 30B checkpoint). */
  swinNorm: boolean;
  tied: boolean;
  imageTokenId: number;
  /** Vocabulary id of each image code, by code. */
  codeIds: number[];
  /** Vocabulary ids that are never written, sorted: all names that begin with IMGIMG. */
  imageIds: number[];
  vq: VqConfig;
}

/** GroupNorm's groups, everywhere in the VQ-VAE. */
export const NORM_GROUPS = 32;

/** @throws UserError naming the file and the key that is missing or wrong */
export function parseChameleonConfig(json: unknown, source: string): ChameleonConfig {
  const fields = checkConfig(top, json, source);
  const heads = fields.num_attention_heads;
  const keyValueHeads = fields.num_key_value_heads ?? heads;
  if (fields.hidden_size % (2 * heads) !== 0 || heads % keyValueHeads !== 0)
    throw new UserError(
      `${source}: hidden_size ${fields.hidden_size}, num_attention_heads ${heads} and num_key_value_heads ${keyValueHeads} do not divide evenly`,
    );
  if (fields.head_dim && fields.head_dim !== fields.hidden_size / heads)
    throw new UserError(
      `${source}: head_dim is ${fields.head_dim}, but hidden_size / num_attention_heads is ${fields.hidden_size / heads}`,
    );
  const { ropeTheta, ropeScaling, maxPositions } = readRope(fields, 10000, source);
  const v = fields.vq_config ?? vq.parse({});
  for (const multiplier of v.channel_multiplier)
    if ((v.base_channels * multiplier) % NORM_GROUPS !== 0)
      throw new UserError(
        `${source}: vq_config.base_channels ${v.base_channels} times the channel_multiplier ${multiplier} should be a multiple of ${NORM_GROUPS}`,
      );
  const shrink = 2 ** (v.channel_multiplier.length - 1);
  if (v.resolution % shrink !== 0)
    throw new UserError(
      `${source}: vq_config.resolution ${v.resolution} should be a multiple of ${shrink}, since channel_multiplier has ${v.channel_multiplier.length} levels`,
    );
  return {
    hiddenSize: fields.hidden_size,
    layers: fields.num_hidden_layers,
    heads,
    keyValueHeads,
    intermediateSize: fields.intermediate_size,
    vocabularySize: fields.vocab_size,
    normEps: fields.rms_norm_eps,
    ...{ ropeTheta, ropeScaling, maxPositions },
    swinNorm: fields.swin_norm ?? false,
    tied: fields.tie_word_embeddings ?? false,
    ...imageVocabulary(fields.vocabulary_map, v.num_embeddings, fields.vocab_size, source),
    vq: {
      embedDim: v.embed_dim,
      latentChannels: v.latent_channels,
      codes: v.num_embeddings,
      resolution: v.resolution,
      baseChannels: v.base_channels,
      multipliers: v.channel_multiplier,
      residualBlocks: v.num_res_blocks,
      attentionResolutions: v.attn_resolutions ?? [],
      attention: v.attn_type === 'vanilla',
    },
  };
}

const IMAGE_CODE = /^IMGIMG([A-J]+).$/;

/** Image code 123 is named IMGIMGBCDZ: its digits as letters from A on, then one letter more. */
function imageVocabulary(
  map: Readonly<Record<string, number>>,
  codes: number,
  vocabularySize: number,
  source: string,
): Pick<ChameleonConfig, 'imageTokenId' | 'codeIds' | 'imageIds'> {
  const imageTokenId = map['<image>'];
  if (imageTokenId === undefined) throw new UserError(`${source}: vocabulary_map lacks <image>`);
  const codeIds = new Array<number>(codes).fill(-1);
  const imageIds: number[] = [];
  for (const [name, id] of Object.entries(map)) {
    if (!name.startsWith('IMGIMG')) continue;
    const letters = IMAGE_CODE.exec(name)?.[1];
    if (letters === undefined) throw new UserError(`${source}: vocabulary_map.${name} is no image code`);
    if (id >= vocabularySize)
      throw new UserError(`${source}: vocabulary_map.${name} is ${id}, but vocab_size is ${vocabularySize}`);
    imageIds.push(id);
    const code = Number([...letters].map((letter) => letter.charCodeAt(0) - 65).join(''));
    if (code < codes) codeIds[code] = id;
  }
  const unnamed = codeIds.indexOf(-1);
  if (unnamed >= 0)
    throw new UserError(
      `${source}: vocabulary_map names no id for image code ${unnamed}, but vq_config.num_embeddings is ${codes}`,
    );
  return { imageTokenId, codeIds, imageIds: imageIds.sort((a, b) => a - b) };
}
