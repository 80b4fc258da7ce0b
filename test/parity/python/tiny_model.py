"""Tiny Qwen2-VL models whose weights can be drawn again anywhere from a seed.

The rule, which test/parity/README.md states and the TypeScript side repeats:
`torch.manual_seed(seed)`, then for every parameter, in sorted order of its hub name, one `torch.randn(shape)` (float32),
  names ending in `.bias`                 0.1 * randn
  1-D names ending in `.weight` (norms)   1 + 0.1 * randn
  `..embed_tokens.weight`                 0.6 * randn
  5-D patch embedding                     0.6 / sqrt(product of the last four dims) * randn
  every other matrix (lm_head too)        0.6 / sqrt(last dim) * randn
Chameleon's further kinds (chameleon_model.py): 2-D q_norm and k_norm weights are norms, 4-D convolutions 1 / sqrt(fan in) * randn,
the code vectors `model.vqmodel.quantize.embedding.weight` 0.6 * randn.
A tied `lm_head.weight` is not drawn. Pixels: `torch.manual_seed(seed + 1)`, one `torch.randn(all patches, 1176)`.
"""

import math
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

PATCH_VALUES = 3 * 2 * 14 * 14

SHAPES = {
    # grouped-query attention, the base shape
    "gqa": dict(hidden=64, layers=3, heads=4, kv=2, inter=128, vocab=320, vdepth=2, vdim=32, vheads=2, mrope=[2, 3, 3]),
    # as many key heads as query heads, other sections
    "mha": dict(hidden=64, layers=2, heads=4, kv=4, inter=96, vocab=288, vdepth=2, vdim=32, vheads=2, mrope=[4, 2, 2]),
    # one key head for six query heads
    "mqa": dict(hidden=96, layers=2, heads=6, kv=1, inter=160, vocab=352, vdepth=1, vdim=48, vheads=3, mrope=[2, 2, 4]),
    # wider heads, deeper vision tower whose head size (40) is no power of two
    "deep": dict(
        hidden=128, layers=4, heads=4, kv=2, inter=192, vocab=320, vdepth=4, vdim=80, vheads=2, mrope=[4, 6, 6]
    ),
}


def special_ids(vocab):
    """Ids of the special tokens: the vocabulary's last ones."""
    return dict(
        image=vocab - 1,
        vstart=vocab - 2,
        vend=vocab - 3,
        latent=vocab - 4,
        slat=vocab - 5,
        elat=vocab - 6,
        eos=vocab - 7,
        video=vocab - 8,
    )


def flat_config(dims, tie):
    """config.json in the style of the hub's Qwen2-VL checkpoints (text fields at the top level)."""
    ids = special_ids(dims["vocab"])
    return dict(
        architectures=["Qwen2VLForConditionalGeneration"],
        model_type="qwen2_vl",
        torch_dtype="float32",
        attention_dropout=0.0,
        bos_token_id=ids["eos"],
        eos_token_id=ids["eos"],
        hidden_act="silu",
        vision_start_token_id=ids["vstart"],
        vision_end_token_id=ids["vend"],
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_token_id=ids["video"] - 1,
        hidden_size=dims["hidden"],
        initializer_range=0.02,
        intermediate_size=dims["inter"],
        max_position_embeddings=4096,
        max_window_layers=dims["layers"],
        num_attention_heads=dims["heads"],
        num_hidden_layers=dims["layers"],
        num_key_value_heads=dims["kv"],
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        sliding_window=4096,
        tie_word_embeddings=tie,
        use_cache=True,
        use_sliding_window=False,
        vocab_size=dims["vocab"],
        rope_scaling=dict(type="mrope", mrope_section=dims["mrope"]),
        vision_config=dict(
            depth=dims["vdepth"],
            embed_dim=dims["vdim"],
            mlp_ratio=4,
            num_heads=dims["vheads"],
            in_chans=3,
            hidden_size=dims["hidden"],
            patch_size=14,
            spatial_merge_size=2,
            spatial_patch_size=14,
            temporal_patch_size=2,
        ),
    )


def hub_name(name):
    """The name the hub's checkpoints use for a parameter of today's transformers."""
    if name.startswith("model.visual."):
        return name[len("model.") :]
    return name.replace("model.language_model.", "model.", 1)


def draw(name, shape):
    """One parameter of the rule above, from the global generator."""
    x = torch.randn(shape)
    if name.endswith(".bias"):
        return x * 0.1
    if len(shape) == 1 or name.endswith(("q_norm.weight", "k_norm.weight")):
        return 1 + 0.1 * x
    if name.endswith("embed_tokens.weight") or name == "model.vqmodel.quantize.embedding.weight":
        return x * 0.6
    if len(shape) == 4:
        return x / math.sqrt(math.prod(shape[1:]))
    fan_in = math.prod(shape[1:]) if len(shape) == 5 else shape[-1]
    return x * (0.6 / math.sqrt(fan_in))


def drawn(model_class, config, seed, tie, dtype):
    """A model with drawn weights, in eval mode, with eager attention so that attentions can be read."""
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    named = {hub_name(n): p for n, p in model.named_parameters()}
    assert ("lm_head.weight" in named) == (not tie)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name in sorted(named):
            named[name].copy_(draw(name, tuple(named[name].shape)))
    model.generation_config.eos_token_id = None
    return model.to(dtype)


def build(dims, seed, tie=False, dtype=torch.float32):
    flat = flat_config(dims, tie)
    config = Qwen2VLConfig(**{k: v for k, v in flat.items() if k != "torch_dtype"})
    assert (
        config.text_config.hidden_size == dims["hidden"]
        and config.text_config.rope_parameters["mrope_section"] == dims["mrope"]
    )
    assert config.vision_config.depth == dims["vdepth"] and config.text_config.rms_norm_eps == 1e-6
    return drawn(Qwen2VLForConditionalGeneration, config, seed, tie, dtype)


def prompt(model, ids, mask, pixels, grids, kind):
    """What latent_reference.Prompt is given, for all Qwen families: ids and mask (B, P), positions of `kind` (mrope or sequential); no pixels: None.

    DeepStack's features, where the tower gives any, are its `features` (levels, B, P, D), zero where no image token stands.
    """
    from latent_reference import Prompt

    image = ids == model.config.image_token_id
    embeddings, levels = model.get_input_embeddings()(ids), []

    def put(rows, into):
        return into.masked_scatter(image[..., None].expand_as(into), rows)

    if pixels is not None:
        seen = model.model.visual(pixels, grid_thw=grids)
        embeddings = put(seen.pooler_output, embeddings)
        levels = [put(level, torch.zeros_like(embeddings)) for level in getattr(seen, "deepstack_features", None) or []]
    if kind == "mrope" and pixels is not None:
        positions, _ = model.model.get_rope_index(ids, image.long(), image_grid_thw=grids, attention_mask=mask)
    else:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
    made = Prompt(embeddings, positions, mask, [row.nonzero().flatten().tolist() for row in image])
    made.features = torch.stack(levels) if levels else None
    return made


def weights_check(model):
    """Leading numbers of some parameters: tells at once whether the weights were drawn alike."""
    named = {hub_name(n): p for n, p in model.named_parameters()}
    order = sorted(named)
    names = [order[0], order[len(order) // 2], order[-1]]
    total = sum(p.detach().double().abs().sum().item() for p in named.values())
    return dict(
        count=len(order),
        abs_sum=float(f"{total:.9g}"),
        first={n: [float(f"{v:.9g}") for v in named[n].detach().reshape(-1)[:4].tolist()] for n in names},
    )


def draw_pixels(seed, grids, values=PATCH_VALUES):
    """Patches (sum of h*w, values) of all images, one draw, and image_grid_thw."""
    torch.manual_seed(seed + 1)
    pixels = torch.randn(sum(h * w for h, w in grids), values)
    return pixels, torch.tensor([[1, h, w] for h, w in grids], dtype=torch.long)


def image_tokens(grid):
    return (grid[0] // 2) * (grid[1] // 2)


class TextSource:
    """Random text ids below the special ones. Their values are stored in the goldens, so only this file draws them."""

    def __init__(self, seed, vocab, first=0):
        self.generator = torch.Generator().manual_seed(seed + 2)
        self.first, self.limit = first, vocab - 16

    def ids(self, count):
        return torch.randint(self.first, self.limit, (count,), generator=self.generator).tolist()
