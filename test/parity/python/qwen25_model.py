"""Tiny Qwen2.5-VL models, their weights drawn from a seed by the rule of tiny_model.py."""

import tiny_model
import torch
from tiny_model import drawn, prompt, special_ids
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

# The decoders are Qwen2-VL's. `vfull` are the blocks of the vision tower whose attention spans the whole image, `vwindow` the pixels of a window.
SHAPES = {
    "gqa": dict(tiny_model.SHAPES["gqa"], vdepth=3, vdim=32, vheads=2, vinter=52, vwindow=112, vfull=[1]),
    "mha": dict(tiny_model.SHAPES["mha"], vdepth=2, vdim=32, vheads=2, vinter=44, vwindow=56, vfull=[]),
    "mqa": dict(tiny_model.SHAPES["mqa"], vdepth=2, vdim=48, vheads=3, vinter=100, vwindow=112, vfull=[0, 1]),
    "deep": dict(tiny_model.SHAPES["deep"], vdepth=4, vdim=80, vheads=2, vinter=130, vwindow=84, vfull=[1, 3]),
    # of the stored folders
    "folder": dict(hidden=32, layers=2, heads=2, kv=1, inter=48, vocab=160, mrope=[2, 3, 3], vdepth=2, vdim=16, vheads=2, vinter=20, vwindow=56, vfull=[1]),
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
    flat = flat_config(dims, tie)
    config = Qwen2_5_VLConfig(**{k: v for k, v in flat.items() if k != "torch_dtype"})
    assert config.text_config.rope_parameters["mrope_section"] == dims["mrope"]
    assert config.vision_config.fullatt_block_indexes == dims["vfull"]
    return drawn(Qwen2_5_VLForConditionalGeneration, config, seed, tie, dtype)


__all__ = ["SHAPES", "build", "flat_config", "prompt", "special_ids"]
