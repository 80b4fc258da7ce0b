"""Goldens of latent reasoning on Qwen-like families that have no official code: latent_reference.py run on tiny models.

A family is a module with SHAPES, flat_config(dims, tie), build(dims, seed, tie) and
prompt(model, ids, mask, pixels, grids, positions), which fills a latent_reference.Prompt; where its decoder takes further arguments, also
further(model, prompt), which gives what latent_reference.decoder_pass is given as `further`; memory(prompt) gives its `memory`, where there is one. Formats: official-generate.json and
official-train.json, with `positions` beside them.

Where a row of GENERATE or TRAIN has a grid, and the number of text tokens around it, it may also have a list of parts as forward_cases.CASES have
them: several pictures, or none. Then a step takes what is left where it is fewer than K.
"""

import torch
import latent_reference
from numbers_json import rounded, versions, write_cases
from official_cases import LR, NEW_TOKENS, TRAINED, WEIGHT_DECAY, collated, first_safe
from official_cases import prompt as prompt_ids
from forward_cases import row_of
from tiny_model import PATCH_VALUES, TextSource, draw_pixels, hub_name, image_tokens, special_ids, weights_check

STEPS = 10


def record_of(family, name, shape, tie, seed, latents, patches, grids, positions, model):
    dims = family.SHAPES[shape]
    return dict(
        name=f"{shape}{' tied' if tie else ''}, {name}",
        seed=seed,
        dims=dims,
        tie=tie,
        config=family.flat_config(dims, tie),
        ids=special_ids(dims["vocab"]),
        positions=positions,
        latents=latents,
        patches=patches,
        image_grid_thw=[[1, *g] for g in grids],
        weights=weights_check(model),
    )


def pixels_of(family, seed, grids):
    return draw_pixels(seed, grids, getattr(family, "PATCH_VALUES", PATCH_VALUES)) if grids else (None, None)


def asked_of(text, asked, count, ids):
    """(ids of the question, its grids): `asked` is a grid among `count` text tokens, or the parts of a row."""
    if isinstance(asked, list):
        return row_of(text, asked, ids), [part for part in asked if not isinstance(part, int)]
    return prompt_ids(text, count, asked, ids), [asked]


def decoder_of(family, model, prompt):
    further = getattr(family, "further", None)
    rest = dict(further=further(model, prompt)) if further else {}
    if hasattr(family, "memory"):
        rest["memory"] = family.memory(prompt)
    return latent_reference.decoder_pass(model.model.language_model, **rest)


def generate_case(family, row, seed):
    shape, tie, latents, patches, given, count, positions = row
    dims = family.SHAPES[shape]
    model, ids = family.build(dims, seed, tie), special_ids(dims["vocab"])
    asked, own = asked_of(TextSource(seed, dims["vocab"]), given, count, ids)
    pixels, grids = pixels_of(family, seed, own)
    fewer = isinstance(given, list)
    with torch.no_grad():
        prompt = family.prompt(model, torch.tensor([asked]), torch.ones(1, len(asked), dtype=torch.long), pixels, grids, positions)
        decode = decoder_of(family, model, prompt)
        told = latent_reference.answer(decode, model.get_input_embeddings(), model.lm_head, prompt, latents, patches, NEW_TOKENS, fewer=fewer)
    gaps = told["gaps"]
    shown = " and ".join(f"{h}x{w}" for h, w in own) or "no picture"
    name = f"T {latents}, K {patches}, {shown}, {count or len(asked)} {'text ' if count else ''}tokens, {positions}"
    record = record_of(family, name, shape, tie, seed, latents, patches, own, positions, model)
    record.update(
        input_ids=asked + [ids["latent"]] * latents,
        picked=told["picked"],
        new_tokens=told["tokens"],
        last_logits=rounded(told["first_logits"]),
        gaps={key: rounded(value) if value < float("inf") else None for key, value in vars(gaps).items()},
    )
    # A near tie could go either way on another machine; a special token would be read in two ways.
    order = 5e-8 if sum(map(image_tokens, own)) <= 100 else 1e-8
    safe = gaps.logit > 1e-3 and gaps.pick > 1e-6 and gaps.order > order and max(told["tokens"]) < ids["video"]
    return record, safe


def generated(rows, first_seed, family):
    """(header of the file, its cases)"""
    cases = []
    for index, row in enumerate(rows):
        record = first_safe(lambda s: generate_case(family, row, s), first_seed + 100 * index)
        print(f"  {record['name']}: seed {record['seed']}, gaps {record['gaps']}", flush=True)
        cases.append(record)
    return dict(made_with=versions(), dtype="float32", max_new_tokens=NEW_TOKENS), cases


def make_generate(file, rows, first_seed, family):
    write_cases(file, *generated(rows, first_seed, family))


def train_case(family, row, seed):
    shape, tie, latents, patches, given, count, positions, *rest = row
    through, fewer = rest == ["through"], isinstance(given[0], list)
    dims = family.SHAPES[shape]
    model, ids = family.build(dims, seed, tie), special_ids(dims["vocab"])
    text = TextSource(seed, dims["vocab"])
    pairs, grids = [], []
    for i, asked in enumerate(given):
        question, own = asked_of(text, asked, count + 7 * i, ids)
        pairs.append((question, text.ids(25 + 3 * i)))
        grids += own
    rows, labels, mask, _ = collated(pairs, ids, latents)
    pixels, thw = pixels_of(family, seed, grids)
    split = max(len(question) for question, _ in pairs)
    before = [torch.tensor([r[:split] for r in values]) for values in (rows, mask)]
    after = [torch.tensor([r[split + latents :] for r in values]) for values in (rows, labels, mask)]
    name = f"batch {len(given)}, {f'{len(grids)} pictures, ' if fewer else ''}T {latents}, K {patches}, {STEPS} steps, {positions}{', through the latent steps' if through else ''}"
    record = record_of(family, name, shape, tie, seed, latents, patches, grids, positions, model)
    named = {hub_name(n): p for n, p in model.model.language_model.named_parameters(prefix="model.language_model")}
    trained = {n: named[n] for n in sorted(named) if any(t in n for t in TRAINED)}
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    start = {n: p.detach().clone() for n, p in trained.items()}
    optimiser = torch.optim.AdamW(list(trained.values()), lr=LR, weight_decay=WEIGHT_DECAY)
    losses, gradients, picks, gaps = [], None, None, latent_reference.Gaps()
    for _ in range(STEPS):
        prompt = family.prompt(model, *before, pixels, thw, positions)
        loss, picked = latent_reference.training_loss(
            decoder_of(family, model, prompt), model.get_input_embeddings(), model.lm_head, prompt, latents, patches, *after, gaps, through, fewer
        )
        loss.backward()
        losses.append(loss.item())
        if gradients is None:
            gradients = {n: rounded(p.grad.double().norm().item()) for n, p in trained.items()}
            picks = picked
        optimiser.step()
        optimiser.zero_grad()
    moved = {n: rounded((p.detach() - start[n]).double().norm().item()) for n, p in trained.items()}
    record.update(
        **(dict(through=True) if through else {}),
        input_ids=rows,
        labels=labels,
        attention_mask=mask,
        steps=STEPS,
        losses=rounded(losses),
        picked=picks,
        gradient_norms=gradients,
        moved_norms=moved,
    )
    return record, gaps.pick > 1e-6 and gaps.order > 1e-8


def trained(rows, first_seed, family):
    """(header of the file, its cases)"""
    cases = []
    for index, row in enumerate(rows):
        record = first_safe(lambda s: train_case(family, row, s), first_seed + 100 * index)
        print(f"  {record['name']}: seed {record['seed']}, losses {record['losses'][0]} .. {record['losses'][-1]}", flush=True)
        cases.append(record)
    optimiser = dict(name="AdamW", lr=LR, betas=[0.9, 0.999], eps=1e-8, weight_decay=WEIGHT_DECAY, clipping=None)
    return dict(made_with=versions(), dtype="float32", trained=list(TRAINED), optimiser=optimiser), cases


def make_train(file, rows, first_seed, family):
    write_cases(file, *trained(rows, first_seed, family))
