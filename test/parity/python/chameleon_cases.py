"""chameleon-tokens.json and chameleon-forward.json: transformers' Chameleon on tiny models: image codes, logits, attention, greedy tokens."""

import os
import torch
from chameleon_model import (
    SHAPES,
    bare,
    build,
    codes_of,
    draw_pictures,
    draw_weights,
    flat_config,
    image_tokens,
    special_ids,
    text_source,
)
from forward_cases import greedy, read_out
from numbers_json import rounded, versions, write_cases
from tiny_model import weights_check

PICTURES = 20
# Two code vectors that are nearly as near could change places on another machine.
CLEAR_CODE = 1e-5

# rows: per row the text tokens before and after its picture, or one number without a picture
CASES = [
    dict(name="one row", shape="mha", tie=False, rows=[(9, 14)]),
    dict(name="grouped keys, 36 image tokens, theta 5e5", shape="gqa", tie=False, rows=[(5, 21)]),
    dict(name="norms after", shape="swin", tie=False, rows=[(3, 7)]),
    dict(name="norms after, one key head, picture without attention", shape="mqa", tie=True, rows=[(11, 6)]),
    dict(name="attention at one level", shape="deep", tie=False, rows=[(8, 17)]),
    dict(name="1024 image tokens", shape="full gqa", tie=False, rows=[(6, 19)]),
    dict(name="two rows, left-padded", shape="mha", tie=True, rows=[(7, 9), (5, 30)]),
    dict(name="three rows, left-padded", shape="gqa", tie=False, rows=[(9, 30), (4, 12), (6, 3)]),
    dict(name="four rows, one without picture", shape="deep", tie=False, rows=[(4, 8), (6, 5), 13, (2, 22)]),
    dict(name="three rows, norms after", shape="swin", tie=True, rows=[(1, 6), (12, 3), (5, 18)]),
    dict(name="text only", shape="mha", tie=False, rows=[24]),
]


def record_of(name, shape, tie, seed, model, pictures):
    dims = SHAPES[shape]
    return dict(
        name=name,
        seed=seed,
        tie=tie,
        config=flat_config(dims, tie),
        ids=special_ids(dims["vocab"]),
        pictures=pictures,
        weights=weights_check(model),
    )


def one_case(case, seed):
    dims = SHAPES[case["shape"]]
    ids, text = special_ids(dims["vocab"]), text_source(seed, dims)
    image = [ids["image"]] * image_tokens(dims)
    parts = [row if isinstance(row, tuple) else (row, None) for row in case["rows"]]
    rows = [text.ids(before) + (image + text.ids(after) if after is not None else []) for before, after in parts]
    width = max(map(len, rows))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    pictures = sum(after is not None for _, after in parts)
    model = build(dims, seed, case["tie"])
    codes, gap = [], float("inf")
    inputs = dict(input_ids=padded, attention_mask=mask)
    if pictures:
        pixels = draw_pictures(seed, pictures, dims["vq"]["res"])
        codes, gap = codes_of(model, pixels)
        inputs["pixel_values"] = pixels
    result = record_of(case["name"], case["shape"], case["tie"], seed, model, pictures)
    masked = model.model.vocabulary_mapping.image_tokens
    kept = [i for i in range(dims["vocab"]) if i not in masked]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    result.update(input_ids=padded.tolist(), attention_mask=mask.tolist(), masked=masked, codes=codes)
    result.update(read_out(model, inputs, positions, kept))
    tokens, logit_gap = greedy(model, inputs)
    result.update(greedy=tokens, gaps=dict(code=rounded(gap) if pictures else None, logit=rounded(logit_gap)))
    return result, logit_gap > 1e-3 and gap > CLEAR_CODE and max(map(max, tokens)) < ids["elat"]


def make_forward(out):
    cases = []
    for index, case in enumerate(CASES):
        with torch.no_grad():
            for seed in range(40000 + 100 * index, 40100 + 100 * index):
                result, clear = one_case(case, seed)
                if clear:
                    break
        assert clear, case["name"]
        print(f"  {case['name']}: seed {seed}, gaps {result['gaps']}", flush=True)
        cases.append(result)
    write_cases(os.path.join(out, "chameleon-forward.json"), dict(made_with=versions(), dtype="float32"), cases)


def make_tokens(out):
    """Image codes of twenty pictures, each with its own weights and seed."""
    dims, cases = SHAPES["tokens"], []
    model = bare(dims)
    for index in range(PICTURES):
        for seed in range(50000 + 100 * index, 50100 + 100 * index):
            draw_weights(model, seed)
            codes, gap = codes_of(model, draw_pictures(seed, 1, dims["vq"]["res"]))
            if gap > CLEAR_CODE:
                break
        print(f"  picture {index}: seed {seed}, {len(set(codes[0]))} codes, gap {gap:.2g}", flush=True)
        assert gap > CLEAR_CODE and codes[0] == model.model.vqmodel.encode(draw_pictures(seed, 1, 512)).image_tokens.flatten().tolist()
        cases.append(dict(seed=seed, gap=rounded(gap), codes=codes[0]))
    header = dict(made_with=versions(), dtype="float32", config=flat_config(dims), ids=special_ids(dims["vocab"]), weights=weights_check(model))
    write_cases(os.path.join(out, "chameleon-tokens.json"), header, cases)


def make(out):
    make_tokens(out)
    make_forward(out)
