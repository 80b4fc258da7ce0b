"""chameleon-generate.json and chameleon-train.json: what the official code does on tiny Chameleon models with 1024 image tokens."""

import contextlib
import io
import os
import torch
import official_chameleon
import official_qwen
from chameleon_cases import CLEAR_CODE, record_of
from chameleon_model import SHAPES, codes_of, draw_pictures, image_tokens, text_source
from numbers_json import rounded, versions, write_cases
from official_cases import LR, TRAINED, WEIGHT_DECAY, clear, collated, first_safe, official_names

NEW_TOKENS = 12

# shape, tied, T latent steps, K patches, text tokens around the picture
GENERATE = [
    ("full", False, 0, 64, 20),
    ("full", False, 1, 64, 33),
    ("full", False, 2, 64, 60),
    ("full", False, 3, 64, 47),
    ("full", False, 4, 64, 18),
    ("full", True, 3, 64, 25),
    ("full", False, 3, 1, 9),
    ("full gqa", False, 0, 32, 14),
    ("full gqa", False, 1, 8, 41),
    ("full gqa", False, 2, 100, 22),
    ("full gqa", False, 3, 64, 52),
    ("full gqa", True, 4, 32, 30),
    ("full mqa", False, 1, 64, 12),
    ("full mqa", False, 2, 17, 36),
    ("full mqa", False, 3, 64, 28),
    ("full deep", False, 2, 64, 44),
    ("full deep", False, 3, 200, 16),
    ("full deep", False, 4, 64, 39),
]
# the same, but the eos id is the n-th generated token of the undisturbed run (counted from 0)
STOPPED = [("full gqa", False, 2, 64, 26, 3)]

# shape, tied, T, K, text tokens, AdamW steps
TRAIN = [
    ("full", False, 0, 64, 21, 10),
    ("full", False, 1, 64, 40, 10),
    ("full", False, 3, 64, 27, 10),
    ("full gqa", False, 2, 64, 33, 10),
    ("full gqa", True, 3, 32, 18, 10),
    ("full mqa", False, 3, 64, 24, 10),
]


def prompt(text, dims, count, ids):
    words = text.ids(count)
    return words[: count // 3] + [ids["image"]] * image_tokens(dims) + words[count // 3 :]


def pictures_of(model, dims, seed):
    pixels = draw_pictures(seed, 1, dims["vq"]["res"])
    return pixels, codes_of(model, pixels)[1]


# Scores of 1024 places lie close together, and equal codes at neighbouring places closer still: the order of two picks says more about the
# kernel than about the method where they differ by less.
CLEAR_ORDER, CLEAR_PICK = 2e-10, 1e-8


def generate_case(official, row, seed, eos=2):
    shape, tie, latents, patches, count = row
    dims = SHAPES[shape]
    network, backbone, model, ids = official_chameleon.assemble(official, shape, seed, tie, patches, eos)
    input_ids = prompt(text_source(seed, dims), dims, count, ids) + [ids["latent"]] * latents
    pixels, code_gap = pictures_of(model, dims, seed)
    given = torch.tensor([input_ids])
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        out = network.generate(
            input_ids=given, attention_mask=torch.ones_like(given), pixel_values=pixels, max_new_tokens=NEW_TOKENS
        )
    tokens = out[0, len(input_ids) :].tolist()
    rows = backbone.last_rows[latents : latents + len(tokens)]
    assert [int(r.argmax()) for r in rows] == tokens and len(official_qwen.picks) == latents
    top = torch.stack(rows).topk(2, dim=-1).values
    pick_gap, order_gap = clear(official_qwen.gaps)
    masked = model.model.vocabulary_mapping.image_tokens
    kept = [i for i in range(dims["vocab"]) if i not in masked]
    record = record_of(f"{shape}{' tied' if tie else ''}, T {latents}, K {patches}, {count} text tokens", shape, tie, seed, model, 1)
    logit_gap = (top[:, 0] - top[:, 1]).min().item()
    record.update(
        ids=ids,
        latents=latents,
        patches=patches,
        input_ids=input_ids,
        masked=masked,
        picked=[list(p) for p in official_qwen.picks],
        new_tokens=tokens,
        last_logits=rounded(rows[0][kept]),
        gaps=dict(
            code=rounded(code_gap),
            logit=rounded(logit_gap),
            pick=rounded(pick_gap) if latents else None,
            order=rounded(order_gap) if latents else None,
        ),
    )
    ordinary = max(tokens) < ids["elat"] and (eos != 2 or len(tokens) == NEW_TOKENS)
    safe = logit_gap > 1e-3 and code_gap > CLEAR_CODE and pick_gap > CLEAR_PICK and order_gap > CLEAR_ORDER
    return record, ordinary and safe


def make_generate(out, checkout):
    official, cases = official_chameleon.load(checkout), []
    for index, row in enumerate(GENERATE):
        record = first_safe(lambda s: generate_case(official, row, s), 60000 + 100 * index)
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

        cases.append(first_safe(stopped, 69000 + 100 * index))
    header = dict(made_with=versions(), dtype="float32", max_new_tokens=NEW_TOKENS)
    write_cases(os.path.join(out, "chameleon-generate.json"), header, cases)


def train_case(official, row, seed):
    shape, tie, latents, patches, count, steps = row
    dims = SHAPES[shape]
    network, _, model, ids = official_chameleon.assemble(official, shape, seed, tie, patches)
    text = text_source(seed, dims)
    rows, labels, mask, positions = collated([(prompt(text, dims, count, ids), text.ids(25))], ids, latents)
    pixels, code_gap = pictures_of(model, dims, seed)
    record = record_of(f"{shape}{' tied' if tie else ''}, T {latents}, K {patches}", shape, tie, seed, model, 1)
    trained = official_names(model)
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    before = {n: p.detach().clone() for n, p in trained.items()}
    optimiser = torch.optim.AdamW(list(trained.values()), lr=LR, weight_decay=WEIGHT_DECAY)
    losses, gradients, picked, safe = [], None, None, code_gap > CLEAR_CODE
    for _ in range(steps):
        official_qwen.picks.clear()
        official_qwen.gaps.clear()
        out = network(
            input_ids=torch.tensor(rows),
            attention_mask=torch.tensor(mask),
            labels=torch.tensor(labels),
            position_ids=torch.tensor(positions),
            pixel_values=pixels,
        )
        out.loss.backward()
        pick_gap, order_gap = clear(official_qwen.gaps)
        safe = safe and pick_gap > CLEAR_PICK and (gradients is not None or order_gap > CLEAR_ORDER)
        losses.append(out.loss.item())
        if gradients is None:
            gradients = {n: rounded(p.grad.double().norm().item()) for n, p in trained.items()}
            picked = [[p] for p in official_qwen.picks]
        optimiser.step()
        optimiser.zero_grad()
    record.update(
        latents=latents,
        patches=patches,
        input_ids=rows,
        labels=labels,
        attention_mask=mask,
        steps=steps,
        losses=rounded(losses),
        picked=picked,
        gradient_norms=gradients,
        moved_norms={n: rounded((p.detach() - before[n]).double().norm().item()) for n, p in trained.items()},
    )
    return record, safe


def make_train(out, checkout):
    official, cases = official_chameleon.load(checkout), []
    for index, row in enumerate(TRAIN):
        record = first_safe(lambda s: train_case(official, row, s), 70000 + 100 * index)
        print(f"  {record['name']}: seed {record['seed']}, losses {record['losses'][0]} .. {record['losses'][-1]}", flush=True)
        cases.append(record)
    header = dict(
        made_with=versions(),
        dtype="float32",
        trained=list(TRAINED),
        optimiser=dict(name="AdamW", lr=LR, betas=[0.9, 0.999], eps=1e-8, weight_decay=WEIGHT_DECAY, clipping=None),
    )
    write_cases(os.path.join(out, "chameleon-train.json"), header, cases)


def make(out, checkout):
    make_generate(out, checkout)
    make_train(out, checkout)
