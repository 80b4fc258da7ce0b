"""Tiny Qwen2.5-VL models, their weights drawn from a seed by the rule of tiny_model.py."""

import tiny_model
import torch
from tiny_model import draw, hub_name, special_ids
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

# The decoders are Qwen2-VL's. `vfull` are the blocks of the vision tower whose attention spans the whole image, `vwindow` the pixels of a window.
SHAPES = {
    "gqa": dict(tiny_model.SHAPES["gqa"], vdepth=3, vdim=32, vheads=2, vinter=52, vwindow=112, vfull=[1]),
    "mha": dict(tiny_model.SHAPES["mha"], vdepth=2, vdim=32, vheads=2, vinter=44, vwindow=56, vfull=[]),
    "mqa": dict(tiny_model.SHAPES["mqa"], vdepth=2, vdim=48, vheads=3, vinter=100, vwindow=112, vfull=[0, 1]),
    "deep": dict(tiny_model.SHAPES["deep"], vdepth=4, vdim=80, vheads=2, vinter=130, vwindow=84, vfull=[1, 3]),
}


def flat_config(dims, tie):
    """config.json in the style of the hub's Qwen2.5-VL checkpoints (text fields at the top level)."""
    flat = tiny_model.flat_config(dims, tie)
    flat.update(
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        model_type="qwen2_5_vl",
        vision_config=dict(
            depth=dims["vdepth"],
            hidden_act="silu",
            hidden_size=dims["vdim"],
            intermediate_size=dims["vinter"],
            num_heads=dims["vheads"],
            in_chans=3,
            out_hidden_size=dims["hidden"],
            patch_size=14,
            spatial_merge_size=2,
            spatial_patch_size=14,
            window_size=dims["vwindow"],
            fullatt_block_indexes=dims["vfull"],
            tokens_per_second=2,
            temporal_patch_size=2,
        ),
    )
    return flat


def build(dims, seed, tie=False, dtype=torch.float32):
    """A model with drawn weights, in eval mode, with eager attention so that attentions can be read."""
    flat = flat_config(dims, tie)
    config = Qwen2_5_VLConfig(**{k: v for k, v in flat.items() if k != "torch_dtype"})
    assert config.text_config.rope_parameters["mrope_section"] == dims["mrope"]
    assert config.vision_config.fullatt_block_indexes == dims["vfull"]
    config._attn_implementation = "eager"
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    named = {hub_name(n): p for n, p in model.named_parameters()}
    assert ("lm_head.weight" in named) == (not tie)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name in sorted(named):
            named[name].copy_(draw(name, tuple(named[name].shape)))
    model.generation_config.eos_token_id = None
    return model.to(dtype)


def prompt(model, ids, mask, pixels, grids, kind):
    """What latent_reference.Prompt is given: ids and mask (B, P), positions of `kind` (mrope or sequential)."""
    from latent_reference import Prompt

    image = ids == model.config.image_token_id
    embeddings = model.get_input_embeddings()(ids)
    features = model.model.visual(pixels, grid_thw=grids).pooler_output
    embeddings = embeddings.masked_scatter(image[..., None].expand_as(embeddings), features)
    if kind == "mrope":
        positions, _ = model.model.get_rope_index(ids, image.long(), image_grid_thw=grids, attention_mask=mask)
    else:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return Prompt(embeddings, positions, mask, [row.nonzero().flatten().tolist() for row in image])


__all__ = ["SHAPES", "build", "flat_config", "prompt", "special_ids"]
