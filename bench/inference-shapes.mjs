// Shapes that bench/inference.mjs measures, and what a run on them must compute and read at least.

const TINY = { hidden: 64, layers: 3, heads: 4, kv: 2, inter: 128, vocab: 512, mrope: [2, 3, 3], vdim: 32, vheads: 2 };

/**
 * By family: `sizes`, `visionConfig` and `visionWork`, the multiplications of one patch in the blocks' weights, and patches that it attends to, summed
 * over the blocks.
 */
export const FAMILIES = {
  'qwen2-vl': {
    modelType: 'qwen2_vl',
    sizes: {
      tiny: { ...TINY, vdepth: 2 },
      small: {
        ...{ hidden: 512, layers: 8, heads: 8, kv: 2, inter: 1408, vocab: 8192, mrope: [8, 12, 12] },
        ...{ vdepth: 6, vdim: 256, vheads: 4 },
      },
      '2b': {
        ...{ hidden: 1536, layers: 28, heads: 12, kv: 2, inter: 8960, vocab: 151936, mrope: [16, 24, 24] },
        ...{ vdepth: 32, vdim: 1280, vheads: 16 },
      },
      '7b': {
        ...{ hidden: 3584, layers: 28, heads: 28, kv: 4, inter: 18944, vocab: 152064, mrope: [16, 24, 24] },
        ...{ vdepth: 32, vdim: 1280, vheads: 16 },
      },
    },
    visionConfig: ({ hidden, vdim }) => ({ embed_dim: vdim, hidden_size: hidden, mlp_ratio: 4 }),
    visionWork: ({ vdepth, vdim }, patches) => ({ weights: vdepth * 12 * vdim * vdim, attended: vdepth * patches }),
  },
  'qwen2.5-vl': {
    modelType: 'qwen2_5_vl',
    sizes: {
      tiny: { ...TINY, vdepth: 3, vinter: 52, vfull: [1] },
      '3b': {
        ...{ hidden: 2048, layers: 36, heads: 16, kv: 2, inter: 11008, vocab: 151936, mrope: [16, 24, 24] },
        ...{ vdepth: 32, vdim: 1280, vheads: 16, vinter: 3420, vfull: [7, 15, 23, 31] },
      },
    },
    visionConfig: ({ hidden, vdim, vinter, vfull }) => ({
      ...{ hidden_size: vdim, intermediate_size: vinter, out_hidden_size: hidden, hidden_act: 'silu' },
      ...{ window_size: 112, fullatt_block_indexes: vfull, tokens_per_second: 2 },
    }),
    // Windows of 112 pixels hold 8 x 8 patches at most.
    visionWork: ({ vdepth, vdim, vinter, vfull }, patches) => ({
      weights: vdepth * (4 * vdim * vdim + 3 * vdim * vinter),
      attended: vfull.length * patches + (vdepth - vfull.length) * Math.min(64, patches),
    }),
  },
};

const QWEN3 = { patchValues: 3 * 2 * 16 * 16 };
FAMILIES['qwen3-vl'] = {
  modelType: 'qwen3_vl',
  sizes: {
    tiny: { ...TINY, ...QWEN3, size: 24, mrope: [4, 4, 4], vdepth: 3, vinter: 52, vside: 6, vdeep: [0, 1] },
    '2b': {
      ...{ ...QWEN3, hidden: 2048, layers: 28, heads: 16, kv: 8, size: 128, inter: 6144, vocab: 151936 },
      ...{ mrope: [24, 20, 20], vdepth: 24, vdim: 1024, vheads: 16, vinter: 4096, vside: 48, vdeep: [5, 11, 17] },
    },
  },
  visionConfig: ({ hidden, vdim, vinter, vside, vdeep }) => ({
    ...{ hidden_size: vdim, intermediate_size: vinter, out_hidden_size: hidden, patch_size: 16 },
    ...{ num_position_embeddings: vside ** 2, deepstack_visual_indexes: vdeep },
  }),
  visionWork: ({ vdepth, vdim, vinter }, patches) => ({
    weights: vdepth * (4 * vdim * vdim + 2 * vdim * vinter),
    attended: vdepth * patches,
  }),
};

/** SigLIP and a Llama decoder: sizes and what differs from the Qwen families. */
const SMOLVLM = {
  tiny: { ...TINY, vdim: 32, vdepth: 2, vheads: 2, vinter: 64, side: 64, patch: 8, scale: 2 },
  '256m': { ...siglip(), hidden: 576, layers: 30, heads: 9, kv: 3, inter: 1536 },
  '500m': { ...siglip(), hidden: 960, layers: 32, heads: 15, kv: 5, inter: 2560 },
};
for (const size of ['256m', '500m']) SMOLVLM[`${size}-float32`] = { ...SMOLVLM[size], dtype: 'float32' };

function siglip() {
  return { vocab: 49280, vdim: 768, vdepth: 12, vheads: 12, vinter: 3072, side: 512, patch: 16, scale: 4 };
}

FAMILIES.smolvlm = {
  modelType: 'smolvlm',
  sizes: SMOLVLM,
  visionWork: ({ vdepth, vdim, vinter }, patches) => ({
    weights: vdepth * (4 * vdim * vdim + 2 * vdim * vinter),
    attended: vdepth * patches,
  }),
};

/** A picture of 2x2 tiles and the whole among 60 text tokens; as in a prompt, two markers stand before each tile. */
function makeSmolVlmCase(size, { text, ids }) {
  const dims = SMOLVLM[size];
  const run = new Array((dims.side / dims.patch / dims.scale) ** 2).fill(ids.image);
  const marked = Array.from({ length: 5 }, (_, tile) => [text[tile], text[tile + 1], ...run]).flat();
  return {
    tiles: 5,
    config: {
      model_type: 'smolvlm',
      image_token_id: ids.image,
      scale_factor: dims.scale,
      tie_word_embeddings: true,
      text_config: {
        ...{ model_type: 'llama', vocab_size: dims.vocab, hidden_size: dims.hidden, intermediate_size: dims.inter },
        ...{ num_hidden_layers: dims.layers, num_attention_heads: dims.heads, num_key_value_heads: dims.kv },
        ...{ max_position_embeddings: 8192, rms_norm_eps: 1e-5, rope_theta: 100000 },
      },
      vision_config: {
        ...{ hidden_size: dims.vdim, intermediate_size: dims.vinter, num_hidden_layers: dims.vdepth },
        ...{ num_attention_heads: dims.vheads, image_size: dims.side, patch_size: dims.patch },
      },
    },
    prompt: [...text.slice(0, 20), ...marked, ...text.slice(20)],
  };
}

/** Qwen3-VL's files have the decoder's keys in `text_config`, which the others have at the top. */
function nestedConfig({ model_type, vision_config, rope_scaling, tie_word_embeddings, image_token_id, ...text }, dims) {
  const { mrope_section } = rope_scaling;
  return {
    ...{ model_type, vision_config, tie_word_embeddings, image_token_id },
    text_config: {
      ...text,
      ...{ model_type: 'qwen3_vl_text', head_dim: dims.size, rope_theta: 5000000, tie_word_embeddings },
      max_position_embeddings: 262144,
      rope_scaling: { rope_type: 'default', mrope_interleaved: true, mrope_section },
    },
  };
}

/** An image of 20x20 patches (280x280 pixels, Qwen3-VL's 320x320) among 60 text tokens, three latent steps of 32 patches, 16 new tokens. @param {string} family @param {string} size */
export function makeCase(family, size, threads) {
  const { modelType, sizes, visionConfig } = FAMILIES[family];
  const dims = sizes[size];
  const at = (back) => dims.vocab - back;
  const ids = {
    image: at(1),
    vstart: at(2),
    vend: at(3),
    latent: at(4),
    slat: at(5),
    elat: at(6),
    eos: at(7),
    video: at(8),
  };
  const grid = [20, 20];
  let state = 12345;
  const text = Array.from({ length: 60 }, () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return state % (dims.vocab - 16);
  });
  const image = new Array((grid[0] * grid[1]) / 4).fill(ids.image);
  const made = {
    family,
    size,
    dims,
    ids,
    grid,
    threads,
    prompt: [...text.slice(0, 20), ids.vstart, ...image, ids.vend, ...text.slice(20)],
    latents: 3,
    patches: 32,
    newTokens: 16,
    // Tiny runs in float32 on equal weights, so that picks and tokens can be compared; the others draw their own.
    spread: size === 'tiny',
    dtype: size === 'tiny' ? 'float32' : (dims.dtype ?? 'bfloat16'),
    config: visionConfig && {
      model_type: modelType,
      vocab_size: dims.vocab,
      hidden_size: dims.hidden,
      intermediate_size: dims.inter,
      num_hidden_layers: dims.layers,
      num_attention_heads: dims.heads,
      num_key_value_heads: dims.kv,
      max_position_embeddings: 4096,
      rms_norm_eps: 1e-6,
      rope_theta: 1000000,
      rope_scaling: { type: 'mrope', mrope_section: dims.mrope },
      tie_word_embeddings: true,
      bos_token_id: ids.eos,
      eos_token_id: ids.eos,
      image_token_id: ids.image,
      video_token_id: ids.video,
      vision_start_token_id: ids.vstart,
      vision_end_token_id: ids.vend,
      vision_config: {
        depth: dims.vdepth,
        num_heads: dims.vheads,
        in_chans: 3,
        patch_size: 14,
        spatial_merge_size: 2,
        temporal_patch_size: 2,
        ...visionConfig(dims),
      },
    },
  };
  if (family === 'smolvlm') return { ...made, ...makeSmolVlmCase(size, { text, ids }) };
  return family === 'qwen3-vl' ? { ...made, config: nestedConfig(made.config, dims) } : made;
}

/** What each phase has to do at least: floating-point operations of its matrix products, bytes of weights read by single-row passes. */
export function demand({ family, dims, grid, prompt, latents, patches, newTokens, dtype, tiles = 1 }) {
  const { hidden: D, layers, heads, kv, inter, vocab, vdim: C, scale } = dims;
  const P = scale ? (dims.side / dims.patch) ** 2 : grid[0] * grid[1];
  const headWidth = heads * (dims.size ?? D / heads);
  const perLayer = 2 * D * headWidth + (2 * D * headWidth * kv) / heads + 3 * D * inter;
  const work = FAMILIES[family].visionWork(dims, P);
  // The mergers of DeepStack's levels are as large as the one whose rows are the image tokens.
  const [values, merger] = scale
    ? [3 * dims.patch ** 2, scale ** 2 * C * D]
    : [dims.patchValues ?? 1176, (1 + (dims.vdeep?.length ?? 0)) * 4 * C * (4 * C + D)];
  const vision =
    tiles *
    (2 * P * work.weights + 4 * P * work.attended * C + 2 * P * values * C + 2 * (P / (scale ?? 2) ** 2) * merger);
  /** Rows that see `past` positions before them. */
  const decoder = (rows, past) => layers * (2 * rows * perLayer + 4 * rows * (past + rows / 2) * headWidth);
  const step = patches + 1;
  const latentRows = Array.from({ length: latents }, (_, t) => decoder(step, prompt.length + t * step)).reduce(
    (a, b) => a + b,
    0,
  );
  const bytes = dtype === 'float32' ? 4 : 2;
  return {
    prefillFlops: vision + decoder(prompt.length, 0),
    latentFlops: latentRows + 2 * D * vocab,
    decodeBytes: (newTokens - 1) * (layers * perLayer + D * vocab) * bytes,
    weightBytes: (layers * perLayer + D * vocab + work.weights + merger) * bytes,
  };
}
