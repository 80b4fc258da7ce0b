"""official-generate.json and official-train.json: what the official code does on tiny models."""

import contextlib
import io
import os
import torch
import official_qwen
from numbers_json import rounded, versions, write_cases
from tiny_model import SHAPES, TextSource, draw_pixels, flat_config, image_tokens, weights_check

NEW_TOKENS = 16
TRAINED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LR, WEIGHT_DECAY = 4e-5, 0.01

# shape, tied, T latent steps, K patches, grid (height, width), text tokens around the image
GENERATE = [
    ("gqa", False, 0, 8, (8, 12), 20),
    ("gqa", False, 1, 1, (4, 4), 6),
    ("gqa", False, 1, 8, (12, 20), 33),
    ("gqa", False, 2, 8, (12, 20), 60),
    ("gqa", False, 3, 32, (20, 20), 60),
    ("gqa", False, 4, 5, (20, 8), 17),
    ("gqa", False, 5, 12, (20, 20), 48),
    ("gqa", True, 0, 4, (12, 12), 15),
    ("gqa", True, 1, 32, (20, 20), 30),
    ("gqa", True, 2, 3, (8, 12), 9),
    ("gqa", True, 3, 20, (12, 20), 60),
    ("gqa", True, 4, 25, (20, 20), 22),
    ("mha", False, 1, 16, (8, 20), 12),
    ("mha", False, 2, 32, (16, 20), 44),
    ("mha", False, 3, 8, (8, 12), 26),
    ("mha", False, 4, 1, (4, 4), 10),
    ("mha", False, 5, 2, (8, 8), 31),
    ("mha", True, 2, 12, (12, 8), 18),
    ("mha", True, 5, 7, (20, 12), 39),
    ("mqa", False, 0, 32, (20, 20), 50),
    ("mqa", False, 1, 24, (8, 12), 8),
    ("mqa", False, 2, 10, (20, 4), 14),
    ("mqa", False, 3, 32, (20, 20), 61),
    ("mqa", True, 3, 6, (4, 20), 23),
    ("mqa", False, 5, 32, (24, 32), 70),
    ("deep", False, 1, 9, (12, 12), 27),
    ("deep", False, 2, 4, (4, 8), 5),
    ("deep", False, 3, 32, (20, 20), 55),
    ("deep", True, 3, 15, (12, 16), 36),
    ("deep", False, 4, 11, (20, 16), 64),
    ("deep", False, 5, 20, (20, 20), 19),
    ("deep", True, 0, 2, (4, 4), 3),
]
# the same, but the eos id is the n-th generated token of the undisturbed run (counted from 0)
STOPPED = [("gqa", False, 2, 6, (8, 12), 16, 4), ("mqa", False, 1, 4, (8, 8), 11, 9)]

# more picks than patches: used ones come back, in the order the kernel gives equal scores
EXHAUSTED = [
    ("gqa", False, 3, 12, (8, 8), 21),
    ("mha", False, 3, 16, (8, 8), 14),
    ("mqa", False, 5, 5, (8, 6), 18),
    ("deep", True, 2, 20, (8, 12), 25),
]

# shape, tied, T, K, grids (one per row), text tokens of the first row (+7 per further row), AdamW steps
TRAIN = [
    ("gqa", False, 1, 8, [(12, 20)], 40, 1),
    ("gqa", False, 2, 8, [(12, 20), (12, 20)], 30, 1),
    ("gqa", True, 3, 32, [(20, 20)], 60, 1),
    ("mha", False, 3, 6, [(8, 12), (8, 12)], 22, 1),
    ("mha", True, 1, 16, [(8, 20), (12, 12)], 19, 1),
    ("mqa", False, 2, 20, [(20, 20)], 45, 1),
    ("mqa", False, 3, 4, [(8, 8), (12, 4)], 13, 1),
    ("deep", False, 1, 12, [(12, 12)], 28, 1),
    ("deep", True, 2, 5, [(4, 12), (12, 12)], 35, 1),
    ("deep", False, 3, 10, [(12, 16), (16, 12)], 25, 1),
    ("gqa", False, 0, 8, [(8, 8), (8, 12)], 17, 1),
    ("gqa", False, 2, 8, [(12, 20), (8, 12)], 24, 20),
    ("mqa", True, 3, 12, [(12, 12)], 32, 20),
]


def prompt(text, count, grid, ids):
    words = text.ids(count)
    image = [ids["vstart"]] + [ids["image"]] * image_tokens(grid) + [ids["vend"]]
    return words[: count // 3] + image + words[count // 3 :]


def base_record(name, shape, tie, seed, ids, latents, patches, grids, model):
    dims = SHAPES[shape]
    config = dict(flat_config(dims, tie), eos_token_id=ids["eos"])
    return dict(
        name=name,
        seed=seed,
        dims=dims,
        tie=tie,
        config=config,
        ids=ids,
        latents=latents,
        patches=patches,
        image_grid_thw=[[1, *g] for g in grids],
        weights=weights_check(model),
    )


def clear(gaps):
    """(smallest gap between the K-th and the next score, smallest gap of any two scores) over all picks."""
    pick = min((g[0] for g in gaps), default=float("inf"))
    order = min((g[1] for g in gaps), default=float("inf"))
    return pick, order


def generate_case(official, row, seed, eos=None):
    shape, tie, latents, patches, grid, count = row
    network, backbone, model, ids = official_qwen.assemble(official, shape, seed, tie, patches, eos)
    input_ids = prompt(TextSource(seed, SHAPES[shape]["vocab"]), count, grid, ids) + [ids["latent"]] * latents
    pixels, thw = draw_pixels(seed, [grid])
    given = torch.tensor([input_ids])
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        out = network.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            pixel_values=pixels,
            image_grid_thw=thw,
            max_new_tokens=NEW_TOKENS,
        )
    tokens = out[0, len(input_ids) :].tolist()
    rows = backbone.last_rows[latents : latents + len(tokens)]
    assert [int(r.argmax()) for r in rows] == tokens and len(official_qwen.picks) == latents
    top = torch.stack(rows).topk(2, dim=-1).values
    pick_gap, order_gap = clear(official_qwen.gaps)
    name = f"{shape}{' tied' if tie else ''}, T {latents}, K {patches}, {grid[0]}x{grid[1]}, {count} text tokens"
    record = base_record(name, shape, tie, seed, ids, latents, patches, [grid], model)
    record.update(
        input_ids=input_ids,
        picked=[list(p) for p in official_qwen.picks],
        new_tokens=tokens,
        last_logits=rounded(rows[0]),
        gaps=dict(
            logit=rounded((top[:, 0] - top[:, 1]).min().item()),
            pick=rounded(pick_gap) if pick_gap < 1 else None,
            order=rounded(order_gap) if order_gap < 1 else None,
        ),
    )
    ordinary = max(tokens) < ids["video"] and (eos is not None or len(tokens) == NEW_TOKENS)
    safe = (
        record["gaps"]["logit"] > 1e-3 and pick_gap > 1e-6 and order_gap > (5e-8 if image_tokens(grid) <= 100 else 1e-8)
    )
    return record, ordinary and safe


def first_safe(make, seed):
    """The first seed from here on whose choices are all clear."""
    for candidate in range(seed, seed + 100):
        record, safe = make(candidate)
        if safe:
            return record
    raise SystemExit(f"no clear case from seed {seed} on")


def make_generate(out, checkout):
    official, cases = official_qwen.load(checkout), []
    for index, row in enumerate(GENERATE):
        record = first_safe(lambda s: generate_case(official, row, s), 1000 + 100 * index)
        print(f"  {record['name']}: seed {record['seed']}, gaps {record['gaps']}", flush=True)
        cases.append(record)
    for index, (*row, at) in enumerate(STOPPED):

        def stopped(seed):
            whole, safe = generate_case(official, row, seed)
            eos = whole["new_tokens"][at]
            if eos in whole["new_tokens"][:at] or not safe:
                return whole, False
            record, safe = generate_case(official, row, seed, eos)
            return dict(record, name=record["name"] + ", stops at eos"), safe and len(record["new_tokens"]) == at + 1

        cases.append(first_safe(stopped, 9000 + 100 * index))
    exhausted = [
        first_safe(lambda s: generate_case(official, row, s), 12000 + 100 * index)
        for index, row in enumerate(EXHAUSTED)
    ]
    header = dict(made_with=versions(), dtype="float32", max_new_tokens=NEW_TOKENS, exhausted=exhausted)
    write_cases(os.path.join(out, "official-generate.json"), header, cases)


def collated(rows_in, ids, latents):
    """Left-padded to the first latent slot, then right-padded; pad id = eos; positions 0 on pads, else 0..n-1."""
    first = max(len(q) for q, _ in rows_in)
    rows, labels, mask, positions = [], [], [], []
    for question, steps in rows_in:
        pad = first - len(question)
        body = question + [ids["latent"]] * latents + steps
        rows.append([ids["eos"]] * pad + body)
        labels.append([-100] * (first + latents) + steps)
        mask.append([0] * pad + [1] * len(body))
        positions.append([0] * pad + list(range(len(body))))
    width = max(map(len, rows))
    for lists, value in ((rows, ids["eos"]), (labels, -100), (mask, 0), (positions, 0)):
        for r in lists:
            r += [value] * (width - len(r))
    return rows, labels, mask, positions


def train_case(official, row, seed):
    shape, tie, latents, patches, grids, count, steps = row
    network, _, model, ids = official_qwen.assemble(official, shape, seed, tie, patches)
    text = TextSource(seed, SHAPES[shape]["vocab"])
    pairs = [(prompt(text, count + 7 * i, g, ids), text.ids(25 + 3 * i)) for i, g in enumerate(grids)]
    rows, labels, mask, positions = collated(pairs, ids, latents)
    pixels, thw = draw_pixels(seed, grids)
    name = f"{shape}{' tied' if tie else ''}, batch {len(grids)}, T {latents}, K {patches}, {steps} steps"
    record = base_record(name, shape, tie, seed, ids, latents, patches, grids, model)
    trained = official_names(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    before = {n: p.detach().clone() for n, p in trained.items()}
    optimiser = torch.optim.AdamW(list(trained.values()), lr=LR, weight_decay=WEIGHT_DECAY)
    losses, gradients, picked, safe = [], None, None, True
    for _ in range(steps):
        official_qwen.picks.clear()
        official_qwen.gaps.clear()
        out = network(
            input_ids=torch.tensor(rows),
            attention_mask=torch.tensor(mask),
            labels=torch.tensor(labels),
            position_ids=torch.tensor(positions),
            pixel_values=pixels,
            image_grid_thw=thw,
        )
        out.loss.backward()
        pick_gap, order_gap = clear(official_qwen.gaps)
        safe = safe and pick_gap > 1e-6 and order_gap > 1e-8
        losses.append(out.loss.item())
        if gradients is None:
            gradients = {n: rounded(p.grad.double().norm().item()) for n, p in trained.items()}
            norm = sum(v * v for v in gradients.values()) ** 0.5
            batch = len(grids)
            picked = [official_qwen.picks[t * batch : (t + 1) * batch] for t in range(latents)]
        optimiser.step()
        optimiser.zero_grad()
    moved = {n: rounded((p.detach() - before[n]).double().norm().item()) for n, p in trained.items()}
    record.update(
        input_ids=rows,
        labels=labels,
        attention_mask=mask,
        position_ids=positions,
        steps=steps,
        losses=rounded(losses),
        picked=picked,
        gradient_norm=rounded(norm),
        gradient_norms=gradients,
        moved_norms=moved,
    )
    return record, safe


def official_names(model):
    """Trained parameters by hub name: weights and biases of the decoder's seven projections."""
    from tiny_model import hub_name

    named = {hub_name(n): p for n, p in model.named_parameters()}
    return {n: named[n] for n in sorted(named) if any(t in n for t in TRAINED)}


def make_train(out, checkout):
    official, cases = official_qwen.load(checkout), []
    for index, row in enumerate(TRAIN):
        record = first_safe(lambda s: train_case(official, row, s), 20000 + 100 * index)
        print(
            f"  {record['name']}: seed {record['seed']}, losses {record['losses'][0]} .. {record['losses'][-1]}",
            flush=True,
        )
        cases.append(record)
    header = dict(
        made_with=versions(),
        dtype="float32",
        trained=list(TRAINED),
        optimiser=dict(name="AdamW", lr=LR, betas=[0.9, 0.999], eps=1e-8, weight_decay=WEIGHT_DECAY, clipping=None),
    )
    write_cases(os.path.join(out, "official-train.json"), header, cases)
