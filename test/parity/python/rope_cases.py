"""rope.json: logits of tiny models with linear and YaRN rotary positions, at positions beyond the original ones."""

import os
import torch
from transformers import ChameleonConfig, ChameleonForConditionalGeneration, Qwen2VLConfig, Qwen2VLForConditionalGeneration
import chameleon_model
import tiny_model
from chameleon_model import draw_pictures, draw_weights, text_source
from forward_cases import layout, read_out
from numbers_json import versions, write_cases
from tiny_model import draw, draw_pixels, hub_name, weights_check

ORIGINAL = 64

# `rope`: the file's rope_scaling, `more`: its other keys. The rows are three times as long as the original positions.
QWEN = [
    dict(name="linear", shape="gqa", rope=dict(type="linear", factor=4.0)),
    dict(name="yarn", shape="gqa", rope=dict(type="yarn", factor=4.0, original_max_position_embeddings=ORIGINAL)),
    dict(name="yarn, original positions from the file", shape="mqa", rope=dict(rope_type="yarn", factor=4.0)),
    dict(
        name="yarn, wide ramp without whole borders, own magnitude",
        shape="deep",
        rope=dict(
            rope_type="yarn",
            factor=3.5,
            original_max_position_embeddings=ORIGINAL,
            attention_factor=1.25,
            beta_fast=6.0,
            beta_slow=0.02,
            truncate=False,
        ),
        more=dict(max_position_embeddings=256, rope_theta=10000.0),
    ),
    dict(
        name="yarn, magnitude of two scales",
        shape="deep",
        rope=dict(
            rope_type="yarn", factor=4.0, original_max_position_embeddings=ORIGINAL, beta_slow=0.1, mscale=0.7, mscale_all_dim=1.5
        ),
        more=dict(rope_theta=5000.0),
    ),
]
CHAMELEON = [
    dict(name="linear", shape="gqa", rope=dict(type="linear", factor=4.0)),
    dict(name="yarn", shape="mha", rope=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=ORIGINAL)),
    dict(name="yarn, norms after", shape="swin", rope=dict(type="yarn", factor=8.0, beta_fast=4.0, beta_slow=0.05)),
]


def built(model, seed):
    named = {hub_name(n): p for n, p in model.named_parameters()}
    torch.manual_seed(seed)
    for name in sorted(named):
        named[name].copy_(draw(name, tuple(named[name].shape)))
    return model


def without_dtype(config):
    return {name: value for name, value in config.items() if name != "torch_dtype"}


def record(case, seed, config, ids, model, inputs):
    return dict(
        name=case["name"],
        seed=seed,
        config=config,
        ids=ids,
        weights=weights_check(model),
        input_ids=inputs["input_ids"].tolist(),
        attention_mask=inputs["attention_mask"].tolist(),
    )


def qwen_case(case, seed):
    dims = tiny_model.SHAPES[case["shape"]]
    config = tiny_model.flat_config(dims, False) | dict(max_position_embeddings=ORIGINAL) | case.get("more", {})
    config["rope_scaling"] = dict(case["rope"], mrope_section=dims["mrope"])
    ids, mask, grids = layout(dict(rows=[[9, (8, 12), 170], [120]]), seed, dims["vocab"])
    built_config = Qwen2VLConfig(**without_dtype(config))
    built_config._attn_implementation = "eager"
    model = built(Qwen2VLForConditionalGeneration(built_config).eval(), seed)
    assert model.model.language_model.rotary_emb.rope_type == (case["rope"].get("rope_type") or case["rope"]["type"])
    input_ids, attention_mask = torch.tensor(ids), torch.tensor(mask)
    pixels, thw = draw_pixels(seed, grids)
    special = tiny_model.special_ids(dims["vocab"])
    inputs = dict(
        input_ids=input_ids,
        attention_mask=attention_mask,
        mm_token_type_ids=(input_ids == special["image"]).long(),
        pixel_values=pixels,
        image_grid_thw=thw,
    )
    result = record(case, seed, config, special, model, inputs) | dict(image_grid_thw=thw.tolist())
    mrope, _ = model.model.get_rope_index(
        input_ids, inputs["mm_token_type_ids"], image_grid_thw=thw, attention_mask=attention_mask
    )
    sequential = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    assert min(mrope.max(), sequential.max()) > 2.5 * ORIGINAL
    return result | dict(mrope=read_out(model, inputs, mrope), sequential=read_out(model, inputs, sequential))


def chameleon_case(case, seed):
    dims = chameleon_model.SHAPES[case["shape"]]
    config = chameleon_model.flat_config(dims) | dict(max_position_embeddings=ORIGINAL, rope_scaling=case["rope"])
    built_config = ChameleonConfig(**without_dtype(config))
    built_config._attn_implementation = "eager"
    model = draw_weights(ChameleonForConditionalGeneration(built_config).eval(), seed)
    assert model.model.rotary_emb.rope_type == (case["rope"].get("rope_type") or case["rope"]["type"])
    ids, text = chameleon_model.special_ids(dims["vocab"]), text_source(seed, dims)
    row = text.ids(9) + [ids["image"]] * chameleon_model.image_tokens(dims) + text.ids(170)
    pixels = draw_pictures(seed, 1, dims["vq"]["res"])
    codes, gap = chameleon_model.codes_of(model, pixels)
    assert gap > 1e-5, "choose another seed: two image codes are nearly as near"
    inputs = dict(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long), pixel_values=pixels)
    masked = model.model.vocabulary_mapping.image_tokens
    kept = [i for i in range(dims["vocab"]) if i not in masked]
    result = record(case, seed, config, ids, model, inputs) | dict(pictures=1, masked=masked)
    return result | read_out(model, inputs, torch.arange(len(row))[None], kept)


def make(out):
    with torch.no_grad():
        qwen = [qwen_case(case, 700 + index) for index, case in enumerate(QWEN)]
        chameleon = [chameleon_case(case, 60000 + index) for index, case in enumerate(CHAMELEON)]
    header = dict(made_with=versions(), dtype="float32", original=ORIGINAL, chameleon=chameleon)
    write_cases(os.path.join(out, "rope.json"), header, qwen, "qwen")
