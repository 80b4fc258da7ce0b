/** What transformers builds a model from, under its own names, as this project's numbers. */
import { expect } from 'vitest';

/** Of every family. */
export interface Resolved {
  hidden_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  intermediate_size: number;
  vocab_size: number;
  rms_norm_eps: number;
  max_position_embeddings: number;
  hidden_act: string;
  tie_word_embeddings: boolean;
  rope: Record<'rope_theta' | 'factor' | 'original_max_position_embeddings', number | null> & {
    rope_type: string;
    mrope_section: number[] | null;
  };
  image_token_id?: number | null;
}

/** Of Qwen2.5-VL and Qwen3-VL. */
export interface NewerQwen extends Resolved {
  /** Only Qwen3-VL's is free of the hidden size. */
  head_dim: number | null;
  vision: Record<string, number> & { fullatt_block_indexes?: number[]; deepstack_visual_indexes?: number[] };
}

/** Positions that the project makes angles for. */
function positions({ rope, max_position_embeddings: positions }: Resolved): number {
  return Math.max(positions, (rope.original_max_position_embeddings ?? positions) * (rope.factor ?? 1));
}

/** What the configurations of all families have. */
export function common(wanted: Resolved) {
  const { rope } = wanted;
  expect(wanted.hidden_act).toBe('silu');
  return {
    hiddenSize: wanted.hidden_size,
    layers: wanted.num_hidden_layers,
    heads: wanted.num_attention_heads,
    keyValueHeads: wanted.num_key_value_heads,
    intermediateSize: wanted.intermediate_size,
    vocabularySize: wanted.vocab_size,
    normEps: wanted.rms_norm_eps,
    maxPositions: positions(wanted),
    tied: wanted.tie_word_embeddings,
    ropeTheta: rope.rope_theta,
    ropeScaling:
      rope.rope_type === 'default'
        ? null
        : expect.objectContaining({
            type: rope.rope_type,
            factor: rope.factor,
            ...(rope.rope_type === 'yarn' && { originalPositions: rope.original_max_position_embeddings }),
          }),
  };
}

/** The whole configuration of a Qwen2.5-VL or Qwen3-VL. */
export function newerQwen(wanted: NewerQwen) {
  const { vision } = wanted;
  const { fullatt_block_indexes: full, deepstack_visual_indexes: levels } = vision;
  expect(vision.hidden_act as unknown).toBe(levels ? 'gelu_pytorch_tanh' : 'silu');
  return {
    ...common(wanted),
    ...(levels && { headSize: wanted.head_dim }),
    mropeSections: wanted.rope.mrope_section ?? (levels ? [24, 20, 20] : [16, 24, 24]),
    // The oldest versions have no default for it.
    imageTokenId: wanted.image_token_id ?? 151655,
    vision: {
      depth: vision.depth,
      dim: vision.hidden_size,
      heads: vision.num_heads,
      mlpDim: vision.intermediate_size,
      patchSize: vision.patch_size,
      frames: vision.temporal_patch_size,
      merge: vision.spatial_merge_size,
      channels: vision.in_channels ?? 3,
      ...(full && {
        window: Math.floor(vision.window_size! / vision.spatial_merge_size! / vision.patch_size!),
        fullAttention: new Set(full),
      }),
      ...(levels && {
        outDim: vision.out_hidden_size,
        positionSide: Math.sqrt(vision.num_position_embeddings!),
        deepstackBlocks: levels,
      }),
    },
  };
}
