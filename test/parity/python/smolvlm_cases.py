"""smolvlm-forward.json, smolvlm-generate.json and smolvlm-train.json: transformers' SmolVLM and Idefics3 on tiny models.

Picture features, logits, attention, greedy tokens; latent reasoning and its training by the plain rendering of the method (latent_reference.py).
"""

import os
import torch
from forward_cases import greedy, read_out
from latent_reference import Gaps, Prompt, answer, decoder_pass, training_loss
from numbers_json import rounded, stats, versions, write_cases
from official_cases import first_safe
from smolvlm_model import SHAPES, build, draw_tiles, hub_config, picture_ids, special_ids, text_source, tile_tokens, tiles_of
from tiny_model import weights_check

# rows: per row a list of parts, a number is that many text tokens, a pair is a picture by the rows and columns that it is cut into
FORWARD = [
    dict(name="one tile", shape="gqa", tie=False, rows=[[9, (0, 0), 14]]),
    dict(name="two tiles beside each other", shape="gqa", tie=False, rows=[[5, (1, 2), 21]]),
    dict(name="four patches of a side to a token, 3x2 tiles", shape="mha", tie=False, rows=[[3, (3, 2), 7]]),
    dict(name="tiles that are no multiple of a patch, one key head", shape="odd", tie=True, rows=[[11, (2, 2), 6]]),
    dict(name="tiles smaller than the learned positions", shape="small tiles", tie=False, rows=[[8, (2, 1), 17]]),
    dict(name="tiles larger than the learned positions", shape="large tiles", tie=False, rows=[[6, (1, 1), 19]]),
    dict(name="two rows of as many tiles, left-padded", shape="odd", tie=False, rows=[[7, (1, 2), 9], [5, (2, 1), 30]]),
    dict(name="three rows of different numbers of tiles, left-padded", shape="gqa", tie=True, rows=[[9, (2, 2), 30], [4, (0, 0), 12], [6, (1, 3), 3]]),
    dict(name="four rows, one without picture", shape="mha", tie=False, rows=[[4, (1, 1), 8], [6, (0, 0), 5], [13], [2, (4, 4), 22]]),
    dict(name="text only", shape="large tiles", tie=True, rows=[[24]]),
    dict(name="two pictures, one of them cut", shape="gqa", tie=False, rows=[[5, (1, 2), 9, (0, 0), 8]]),
    dict(name="three pictures, two of them side by side and one last", shape="mha", tie=True, rows=[[(2, 1), (0, 0), 4, (3, 2)]]),
    dict(name="three rows of two, no and three pictures, left-padded", shape="odd", tie=False, rows=[[3, (1, 1), 4, (2, 1), 6], [9], [7, (1, 2), 2, (0, 0), (0, 0), 5]]),
]

# shape, tied, tiles of each picture, T, K, text tokens, and where steps pick from one picture alone which, from 0
GENERATE = [
    ("gqa", False, [(0, 0)], 0, 4, 20),
    ("gqa", False, [(1, 2)], 1, 8, 31),
    ("gqa", False, [(2, 2)], 2, 16, 18),
    ("gqa", True, [(2, 3)], 3, 32, 25),
    ("gqa", True, [(0, 0)], 4, 4, 12),
    ("mha", False, [(4, 4)], 3, 32, 27),
    ("mha", False, [(3, 2)], 2, 9, 40),
    ("mha", True, [(1, 1)], 4, 5, 22),
    ("mha", True, [(4, 3)], 0, 8, 15),
    ("odd", False, [(2, 2)], 3, 10, 33),
    ("odd", True, [(1, 3)], 1, 32, 24),
    ("odd", False, [(0, 0)], 2, 4, 29),
    ("small tiles", False, [(2, 1)], 4, 6, 35),
    ("small tiles", False, [(3, 3)], 3, 20, 16),
    ("large tiles", False, [(1, 2)], 2, 12, 21),
    ("large tiles", True, [(2, 2)], 4, 16, 26),
    ("gqa", False, [(1, 2), (0, 0)], 3, 8, 20),
    ("mha", True, [(0, 0), (2, 2), (1, 1)], 4, 6, 24),
    ("odd", False, [(1, 1), (2, 1)], 2, 12, 31),
    ("gqa", True, [(0, 0), (0, 0), (1, 2)], 3, 5, 27, 1),
    ("large tiles", False, [(1, 1), (2, 1)], 2, 9, 18, 0),
    ("mha", False, [(2, 1), (1, 2)], 4, 4, 23, 1),
]
NEW_TOKENS = 16

# shape, tied, per row the tiles of each picture and the tokens of question and of written text, T, K
TRAIN = [
    ("gqa", False, [([(1, 2)], 21, 14)], 0, 8),
    ("gqa", False, [([(2, 2)], 27, 9), ([(0, 0)], 12, 15)], 2, 8),
    ("mha", True, [([(4, 4)], 18, 12)], 3, 20),
    ("odd", False, [([(1, 1)], 16, 8), ([(2, 1)], 9, 11)], 4, 4),
    ("gqa", True, [([(0, 0), (1, 2)], 18, 10), ([(1, 1)], 14, 7)], 3, 6),
]
TRAINED = ["text_model.layers"]
STEPS, LR, WEIGHT_DECAY = 10, 4e-5, 0.01
# Scores that differ by less may change places on another machine.
CLEAR_PICK, CLEAR_ORDER = 1e-8, 2e-10


def record_of(name, shape, tie, seed, model, pictures):
    dims = SHAPES[shape]
    return dict(
        name=name,
        seed=seed,
        tie=tie,
        config=hub_config(dims, tie),
        ids=special_ids(dims["vocab"]),
        tile=dims["tile"],
        pictures=[list(picture) for picture in pictures],
        weights=weights_check(model),
    )


def pixel_inputs(seed, dims, rows):
    """pixel_values (rows, most tiles, 3, side, side) and their mask, as the processor pads them, and the tiles of each picture; `rows` has the pictures of each."""
    counts = [tiles_of(picture) for pictures in rows for picture in pictures]
    if not counts:
        return {}, []
    side = dims["tile"]
    drawn = draw_tiles(seed, sum(counts), side)
    own = drawn.split([sum(map(tiles_of, pictures)) for pictures in rows])
    most = max(map(len, own))
    values = torch.zeros(len(rows), most, 3, side, side)
    mask = torch.zeros(len(rows), most, side, side, dtype=torch.long)
    for b, tiles in enumerate(own):
        values[b, : len(tiles)], mask[b, : len(tiles)] = tiles, 1
    return dict(pixel_values=values, pixel_attention_mask=mask), list(drawn.split(counts))


def features_of(model, tiles):
    """(tokens, D) of one picture."""
    return model.get_image_features(pixel_values=tiles[None]).pooler_output.flatten(0, 1)


def left_padded(rows):
    width = max(map(len, rows))
    ids = [[0] * (width - len(row)) + row for row in rows]
    return torch.tensor(ids), torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def forward_case(case, seed):
    dims = SHAPES[case["shape"]]
    text = text_source(seed, dims)
    rows = [sum((picture_ids(p, dims, text) if isinstance(p, tuple) else text.ids(p) for p in parts), []) for parts in case["rows"]]
    pictures = [[part for part in parts if isinstance(part, tuple)] for parts in case["rows"]]
    ids, mask = left_padded(rows)
    model = build(dims, seed, case["tie"])
    pixels, drawn = pixel_inputs(seed, dims, pictures)
    inputs = dict(input_ids=ids, attention_mask=mask, **pixels)
    result = record_of(case["name"], case["shape"], case["tie"], seed, model, sum(pictures, []))
    result.update(input_ids=ids.tolist(), attention_mask=mask.tolist(), features=[stats(features_of(model, tiles), 24) for tiles in drawn])
    result.update(read_out(model, inputs, (mask.cumsum(-1) - 1).clamp(min=0)))
    tokens, gap = greedy(model, inputs)
    result.update(greedy=tokens, gaps=dict(logit=rounded(gap)))
    return result, gap > 1e-3 and max(map(max, tokens)) < result["ids"]["elat"]


def prompt_of(model, ids, mask, drawn):
    """What enters the decoder: embeddings of the ids, features of all pictures in row order at the image tokens."""
    image = ids == model.config.image_token_id
    embeddings = model.get_input_embeddings()(ids)
    features = torch.cat([features_of(model, tiles) for tiles in drawn])
    embeddings = embeddings.masked_scatter(image[..., None].expand_as(embeddings), features)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return Prompt(embeddings, positions, mask, [row.nonzero().flatten().tolist() for row in image])


def question(text, dims, pictures, count):
    """Ids of `count` words, a third of them before each picture as long as there are some."""
    words, third = text.ids(count), count // 3
    ids = []
    for picture in pictures:
        ids, words = ids + words[:third] + picture_ids(picture, dims, text), words[third:]
    return ids + words


def clear_gaps(gaps, latents):
    chosen = latents == 0 or (gaps.pick > CLEAR_PICK and gaps.order > CLEAR_ORDER)
    told = {name: rounded(getattr(gaps, name)) if latents else None for name in ("pick", "order")}
    return chosen, told


def generate_case(row, seed, memory=lambda prompt: None):
    shape, tie, pictures, latents, patches, count, *pick_from = row
    dims, ids = SHAPES[shape], special_ids(SHAPES[shape]["vocab"])
    model = build(dims, seed, tie)
    row = question(text_source(seed, dims), dims, pictures, count)
    _, drawn = pixel_inputs(seed, dims, [pictures])
    with torch.no_grad():
        prompt = prompt_of(model, torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long), drawn)
        for only in pick_from:
            own = [tiles_of(picture) * tile_tokens(dims) for picture in pictures]
            places = prompt.places[0]
            prompt.closed = [places[: sum(own[:only])] + places[sum(own[: only + 1]) :]]
        decode = decoder_pass(model.model.text_model, memory=memory(prompt))
        told = answer(decode, model.get_input_embeddings(), model.lm_head, prompt, latents, patches, NEW_TOKENS)
    chosen, gaps = clear_gaps(told["gaps"], latents)
    logit = told["gaps"].logit
    cut = " and ".join("x".join(map(str, picture)) for picture in pictures)
    alone = "".join(f", of picture {only + 1} alone" for only in pick_from)
    record = record_of(f"{shape}{' tied' if tie else ''}, {cut} tiles, T {latents}, K {patches}{alone}", shape, tie, seed, model, pictures)
    record.update(**({"pick_from": pick_from[0]} if pick_from else {}))
    record.update(
        latents=latents,
        patches=patches,
        input_ids=row + [ids["latent"]] * latents,
        picked=told["picked"],
        new_tokens=told["tokens"],
        last_logits=rounded(told["first_logits"]),
        gaps=dict(gaps, logit=rounded(logit)),
    )
    return record, chosen and logit > 1e-3 and max(told["tokens"]) < ids["elat"] and ids["eos"] not in told["tokens"]


def train_case(row, seed, memory=lambda prompt: None, through=False):
    shape, tie, rows, latents, patches = row
    dims, ids = SHAPES[shape], special_ids(SHAPES[shape]["vocab"])
    model, text = build(dims, seed, tie), text_source(seed, dims)
    asked, mask = left_padded([question(text, dims, pictures, count) for pictures, count, _ in rows])
    pictures = [pictures for pictures, _, _ in rows]
    _, drawn = pixel_inputs(seed, dims, pictures)
    most = max(count for _, _, count in rows)
    written = [text.ids(count) for _, _, count in rows]
    pad = lambda row, filler: row + [filler] * (most - len(row))
    answers, labels = (torch.tensor([pad(row, filler) for row in written]) for filler in (0, -100))
    text_mask = torch.tensor([pad([1] * len(row), 0) for row in written])
    trained = {n: p for n, p in model.named_parameters() if any(part in n for part in TRAINED)}
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    before = {n: p.detach().clone() for n, p in trained.items()}
    slots = torch.full((len(rows), latents), ids["latent"])
    none = torch.full((len(rows), asked.shape[1] + latents), -100)
    record = record_of(f"{shape}{' tied' if tie else ''}, {len(rows)} rows, T {latents}, K {patches}", shape, tie, seed, model, sum(pictures, []))
    record.update(
        latents=latents,
        patches=patches,
        input_ids=torch.cat([asked, slots, answers], 1).tolist(),
        labels=torch.cat([none, labels], 1).tolist(),
        attention_mask=torch.cat([mask, torch.ones_like(slots), text_mask], 1).tolist(),
        steps=STEPS,
    )
    prompt = prompt_of(model, asked, mask, drawn)
    decode = decoder_pass(model.model.text_model, memory=memory(prompt))
    optimiser = torch.optim.AdamW(list(trained.values()), lr=LR, weight_decay=WEIGHT_DECAY)
    losses, safe = [], True
    for step in range(STEPS):
        gaps = Gaps()
        loss, picked = training_loss(decode, model.get_input_embeddings(), model.lm_head, prompt, latents, patches, answers, labels, text_mask, gaps, through)
        safe = safe and clear_gaps(gaps, latents)[0]
        loss.backward()
        losses.append(rounded(loss.item()))
        if step == 0:
            record["picked"] = picked
            record["gradient_norms"] = {n: rounded(p.grad.norm().item()) for n, p in trained.items()}
        optimiser.step()
        optimiser.zero_grad()
    moved = {n: rounded((p.detach() - before[n]).norm().item()) for n, p in trained.items()}
    record.update(losses=losses, moved_norms=moved)
    return record, safe


def make(out):
    header = dict(made_with=versions(), dtype="float32")
    for index, case in enumerate(FORWARD):
        with torch.no_grad():
            FORWARD[index] = first_safe(lambda seed: forward_case(case, seed), 80000 + 100 * index)
    write_cases(os.path.join(out, "smolvlm-forward.json"), header, FORWARD)
    cases = [first_safe(lambda seed: generate_case(row, seed), 82000 + 100 * index) for index, row in enumerate(GENERATE)]
    write_cases(os.path.join(out, "smolvlm-generate.json"), dict(header, max_new_tokens=NEW_TOKENS), cases)
    cases = [first_safe(lambda seed: train_case(row, seed), 84000 + 100 * index) for index, row in enumerate(TRAIN)]
    optimiser = dict(name="AdamW", lr=LR, weight_decay=WEIGHT_DECAY)
    write_cases(os.path.join(out, "smolvlm-train.json"), dict(header, optimiser=optimiser, trained=TRAINED), cases)
