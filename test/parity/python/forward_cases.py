"""qwen-forward.json: transformers' Qwen2-VL on tiny models: vision, positions, logits, attention, greedy tokens."""

import os
import tiny_model
import torch
from numbers_json import rounded, stats, versions, write_cases
from tiny_model import TextSource, draw_pixels, image_tokens, special_ids, weights_check

# rows: per row a list of parts, a number is that many text tokens, a pair is an image grid (height, width in patches)
CASES = [
    dict(name="gqa, 8x12", shape="gqa", tie=False, rows=[[9, (8, 12), 14]]),
    dict(name="gqa tied, 20x20", shape="gqa", tie=True, rows=[[5, (20, 20), 21]]),
    dict(name="mha, smallest image 4x4", shape="mha", tie=False, rows=[[3, (4, 4), 7]]),
    dict(name="mha tied, 12x20", shape="mha", tie=True, rows=[[11, (12, 20), 6]]),
    dict(name="mqa, tall 20x6", shape="mqa", tie=False, rows=[[2, (20, 6), 9]]),
    dict(name="deep vision, 12x20", shape="deep", tie=False, rows=[[8, (12, 20), 17]]),
    dict(name="two images in one row", shape="gqa", tie=False, rows=[[4, (4, 4), 6, (12, 8), 10]]),
    dict(name="two rows, two grids", shape="deep", tie=True, rows=[[7, (8, 12), 9], [5, (12, 20), 9]]),
    dict(
        name="three rows, left-padded, one grid",
        shape="gqa",
        tie=False,
        rows=[[9, (8, 8), 30], [4, (8, 8), 12], [6, (8, 8), 3]],
    ),
    dict(
        name="three rows, two, one and no image",
        shape="mqa",
        tie=False,
        rows=[[4, (4, 8), 3, (8, 4), 8], [6, (12, 12), 5], [13]],
    ),
    dict(name="text only", shape="gqa", tie=False, rows=[[24]]),
    dict(name="text only, left-padded", shape="mha", tie=False, rows=[[7], [19], [1]]),
    dict(name="image first and last", shape="mha", tie=False, rows=[[(4, 12), 5, (8, 4)]]),
]
GREEDY_STEPS = 12


def row_of(text, parts, ids):
    """The ids of a row: so many text tokens, or an image grid with its markers."""
    row = []
    for part in parts:
        row += text.ids(part) if isinstance(part, int) else [ids["vstart"]] + [ids["image"]] * image_tokens(part) + [ids["vend"]]
    return row


def layout(case, seed, vocab):
    """Left-padded ids and mask (pad id = eos), the grids in row order."""
    ids, text, rows, grids = special_ids(vocab), TextSource(seed, vocab), [], []
    for parts in case["rows"]:
        rows.append(row_of(text, parts, ids))
        grids += [part for part in parts if not isinstance(part, int)]
    width = max(map(len, rows))
    padded = [[ids["eos"]] * (width - len(r)) + r for r in rows]
    mask = [[0] * (width - len(r)) + [1] * len(r) for r in rows]
    return padded, mask, grids


def read_out(model, inputs, positions, kept=slice(None)):
    """Last logits, logits at a few positions (of the vocabulary ids `kept`) and the mean attention row of the last query."""
    out = model(**inputs, position_ids=positions, output_attentions=True)
    rows = torch.cat(out.attentions, dim=1)[:, :, -1, :].mean(dim=1)
    mask, probes = inputs["attention_mask"], []
    for b in range(mask.shape[0]):
        live = mask[b].nonzero().flatten().tolist()
        for p in sorted({live[0], live[len(live) // 2], live[-2] if len(live) > 1 else live[-1]}):
            probes.append(dict(row=b, column=p, logits=rounded(out.logits[b, p, kept][:24])))
    return dict(last_logits=rounded(out.logits[:, -1, kept]), probes=probes, attention_row=rounded(rows))


def greedy(model, inputs):
    """Tokens of `generate` (cache, M-RoPE positions) and the smallest gap between the two best logits on the way."""
    out = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=GREEDY_STEPS,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    top = torch.stack(out.logits).topk(2, dim=-1).values
    return out.sequences[:, inputs["input_ids"].shape[1] :].tolist(), (top[..., 0] - top[..., 1]).min().item()


def usable(result):
    """A near tie could go either way on another machine; a generated special token would be read in two ways."""
    first_special = result["ids"]["video"]
    greedy_tokens = [t for row in result["mrope"]["greedy"] for t in row]
    return result["mrope"]["greedy_gap"] > 1e-3 and max(greedy_tokens) < first_special


def one_case(case, seed, family):
    dims = family.SHAPES[case["shape"]]
    ids, mask, grids = layout(case, seed, dims["vocab"])
    model = family.build(dims, seed, case["tie"])
    image = special_ids(dims["vocab"])["image"]
    input_ids, attention_mask = torch.tensor(ids), torch.tensor(mask)
    inputs = dict(input_ids=input_ids, attention_mask=attention_mask, mm_token_type_ids=(input_ids == image).long())
    result = dict(
        name=case["name"],
        seed=seed,
        dims=dims,
        tie=case["tie"],
        config=family.flat_config(dims, case["tie"]),
        ids=special_ids(dims["vocab"]),
        weights=weights_check(model),
        input_ids=ids,
        attention_mask=mask,
        image_grid_thw=[[1, *g] for g in grids],
    )
    sequential = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    mrope = sequential.expand(3, -1, -1)
    deltas = torch.zeros(len(ids), 1, dtype=torch.long)
    if grids:
        pixels, thw = draw_pixels(seed, grids, getattr(family, "PATCH_VALUES", tiny_model.PATCH_VALUES))
        inputs.update(pixel_values=pixels, image_grid_thw=thw)
        encoded = model.model.get_image_features(pixels, thw)
        result["pixels"] = rounded(pixels.reshape(-1)[:8])
        result["vision"] = [stats(f) for f in encoded.pooler_output]
        if hasattr(encoded, "deepstack_features"):
            counts = [image_tokens(grid) for grid in grids]
            levels = [level.split(counts) for level in encoded.deepstack_features]
            # For each image, its features of all levels.
            result["deepstack"] = [[stats(level[i]) for level in levels] for i in range(len(grids))]
        mrope, deltas = model.model.get_rope_index(
            input_ids, inputs["mm_token_type_ids"], image_grid_thw=thw, attention_mask=attention_mask
        )
    result["mrope"] = dict(
        position_ids=mrope.tolist(), deltas=deltas.flatten().tolist(), **read_out(model, inputs, mrope)
    )
    result["sequential"] = dict(position_ids=sequential.tolist(), **read_out(model, inputs, sequential))
    model.model.rope_deltas = None
    tokens, gap = greedy(model, inputs)
    result["mrope"].update(greedy=tokens, greedy_gap=rounded(gap))
    return result


def make(out):
    make_cases(os.path.join(out, "qwen-forward.json"), CASES, 100, tiny_model)


def make_cases(file, wanted, first_seed, family):
    """`family` is a module with SHAPES, flat_config(dims, tie) and build(dims, seed, tie), as tiny_model."""
    cases = []
    with torch.no_grad():
        for index, case in enumerate(wanted):
            seed = first_seed + 10 * index
            result = one_case(case, seed, family)
            while not usable(result):
                seed += 1
                result = one_case(case, seed, family)
            print(f"  {case['name']}: seed {seed}, gap {result['mrope']['greedy_gap']:.4f}", flush=True)
            cases.append(result)
    write_cases(file, dict(made_with=versions(), dtype="float32"), cases)
