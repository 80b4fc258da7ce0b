// Shapes that bench/inference.mjs measures, and what a run on them must compute and read at least.

/** Sizes of a Qwen2-VL; 2b is Qwen2-VL-2B. */
const DIMS = {
  tiny: {
    hidden: 64,
    layers: 3,
    heads: 4,
    kv: 2,
    inter: 128,
    vocab: 512,
    vdepth: 2,
    vdim: 32,
    vheads: 2,
    mrope: [2, 3, 3],
  },
  small: {
    hidden: 512,
    layers: 8,
    heads: 8,
    kv: 2,
    inter: 1408,
    vocab: 8192,
    vdepth: 6,
    vdim: 256,
    vheads: 4,
    mrope: [8, 12, 12],
  },
  '2b': {
    hidden: 1536,
    layers: 28,
    heads: 12,
    kv: 2,
    inter: 8960,
    vocab: 151936,
    vdepth: 32,
    vdim: 1280,
    vheads: 16,
    mrope: [16, 24, 24],
  },
};

export const SIZES = Object.keys(DIMS);

/** A 280x280 image among 60 text tokens, three latent steps of 32 patches, 16 new tokens. @param {string} size */
export function makeCase(size, threads) {
  const dims = DIMS[size];
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
  return {
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
    dtype: size === 'tiny' ? 'float32' : 'bfloat16',
    config: {
      model_type: 'qwen2_vl',
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
        embed_dim: dims.vdim,
        hidden_size: dims.hidden,
        num_heads: dims.vheads,
        mlp_ratio: 4,
        in_chans: 3,
        patch_size: 14,
        spatial_patch_size: 14,
        spatial_merge_size: 2,
        temporal_patch_size: 2,
      },
    },
  };
}

/** What each phase has to do at least: floating-point operations of its matrix products, bytes of weights read by single-row passes. */
export function demand({ dims, grid, prompt, latents, patches, newTokens, dtype }) {
  const { hidden: D, layers, heads, kv, inter, vocab, vdepth, vdim: C } = dims;
  const P = grid[0] * grid[1];
  const perLayer = 2 * D * D + (2 * D * D * kv) / heads + 3 * D * inter;
  const vision =
    2 * P * vdepth * 12 * C * C + 4 * P * P * C * vdepth + 2 * P * 1176 * C + 2 * (P / 4) * (4 * C) * (4 * C + D);
  /** Rows that see `past` positions before them. */
  const decoder = (rows, past) => layers * (2 * rows * perLayer + 4 * rows * (past + rows / 2) * D);
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
    weightBytes: (layers * perLayer + D * vocab + vdepth * 12 * C * C + 4 * C * (4 * C + D)) * bytes,
  };
}
