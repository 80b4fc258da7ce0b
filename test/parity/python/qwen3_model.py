"""Tiny Qwen3-VL models, their weights drawn from a seed by the rule of tiny_model.py. Patches are of 16x16 pixels."""

import torch
from tiny_model import drawn, prompt, special_ids
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

PATCH_VALUES = 3 * 2 * 16 * 16

# `size` is a head's, whatever hidden / heads is; `vdeep` are the blocks whose features go to the first decoder layers; `vside` learned positions a side.
SHAPES = {
    "gqa": dict(hidden=64, layers=3, heads=4, kv=2, size=16, inter=128, vocab=320, mrope=[4, 2, 2], vdepth=3, vdim=32, vheads=2, vinter=52, vside=6, vdeep=[0, 1]),
    "wide": dict(hidden=48, layers=4, heads=4, kv=2, size=24, inter=96, vocab=288, mrope=[6, 3, 3], vdepth=4, vdim=32, vheads=2, vinter=44, vside=12, vdeep=[0, 1, 2]),
    "one": dict(hidden=96, layers=2, heads=6, kv=1, size=16, inter=160, vocab=352, mrope=[2, 3, 3], vdepth=2, vdim=48, vheads=3, vinter=100, vside=5, vdeep=[1]),
    "all": dict(hidden=64, layers=2, heads=4, kv=4, size=16, inter=96, vocab=320, mrope=[4, 2, 2], vdepth=3, vdim=80, vheads=2, vinter=130, vside=8, vdeep=[2, 0]),
    # of the stored folders
    "folder": dict(hidden=32, layers=2, heads=2, kv=1, size=16, inter=48, vocab=160, mrope=[4, 2, 2], vdepth=2, vdim=16, vheads=2, vinter=20, vside=6, vdeep=[0]),
}


def flat_config(dims, tie):
    """config.json in the style of the hub's Qwen3-VL checkpoints."""
    ids = special_ids(dims["vocab"])
    return dict(
        architectures=["Qwen3VLForConditionalGeneration"],
        model_type="qwen3_vl",
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["vstart"],
        vision_end_token_id=ids["vend"],
        tie_word_embeddings=tie,
        text_config=dict(
            model_type="qwen3_vl_text",
            attention_bias=False,
            bos_token_id=ids["eos"],
            eos_token_id=ids["eos"],
            hidden_act="silu",
            hidden_size=dims["hidden"],
            head_dim=dims["size"],
            intermediate_size=dims["inter"],
            max_position_embeddings=4096,
            num_attention_heads=dims["heads"],
            num_hidden_layers=dims["layers"],
            num_key_value_heads=dims["kv"],
            rms_norm_eps=1e-6,
            rope_theta=5000000,
            rope_scaling=dict(rope_type="default", mrope_interleaved=True, mrope_section=dims["mrope"]),
            tie_word_embeddings=tie,
            vocab_size=dims["vocab"],
        ),
        vision_config=dict(
            model_type="qwen3_vl",
            depth=dims["vdepth"],
            deepstack_visual_indexes=dims["vdeep"],
            hidden_act="gelu_pytorch_tanh",
            hidden_size=dims["vdim"],
            in_channels=3,
            intermediate_size=dims["vinter"],
            num_heads=dims["vheads"],
            num_position_embeddings=dims["vside"] ** 2,
            out_hidden_size=dims["hidden"],
            patch_size=16,
            spatial_merge_size=2,
            temporal_patch_size=2,
        ),
    )


def build(dims, seed, tie=False, dtype=torch.float32):
    config = Qwen3VLConfig(**flat_config(dims, tie))
    assert config.text_config.rope_parameters["mrope_section"] == dims["mrope"]
    assert config.text_config.rope_parameters["rope_theta"] == 5000000
    return drawn(Qwen3VLForConditionalGeneration, config, seed, tie, dtype)


def with_features(model, asked):
    """Patches that are put in again bring their DeepStack features along."""

    def further(sources):
        # A place's features are those of the prompt's place whose embedding stands there.
        places = sources.clamp(min=0)
        mask = image_places(asked).gather(1, places) & (sources >= 0)
        levels = [level.gather(1, places[..., None].expand(-1, -1, level.shape[-1])) for level in asked.features]
        return dict(visual_pos_masks=mask, deepstack_visual_embeds=[level[mask] for level in levels])

    return further if asked.features is not None else no_features


def embedding_only(model, asked):
    """Only the prompt's own image tokens have DeepStack features."""

    def further(sources):
        image = image_places(asked)
        mask = torch.zeros_like(sources, dtype=torch.bool)
        mask[:, : image.shape[1]] = image
        return dict(visual_pos_masks=mask, deepstack_visual_embeds=[level[image] for level in asked.features])

    return further if asked.features is not None else no_features


def no_features(sources):
    return {}


def image_places(asked):
    """(B, P): where image tokens stand in the prompt."""
    mask = torch.zeros_like(asked.mask, dtype=torch.bool)
    for row, places in enumerate(asked.places):
        mask[row, places] = True
    return mask


further = with_features

__all__ = ["SHAPES", "build", "embedding_only", "flat_config", "further", "prompt", "special_ids"]
