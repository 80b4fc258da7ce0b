"""latent-memory-generate.json and latent-memory-train.json: latent steps that remember one step (`latentMemory: last`), in every family.

Plain masked passes over transformers' models, without a cache (latent_reference.memory_of_one_step). Formats: official-generate.json and
official-train.json, with `family`, and `hide_from_text` where the written text does not see the picture either.
"""

import os
import types
import chameleon_cases
import chameleon_model
import latent_cases
import qwen25_model
import qwen3_model
import smolvlm_cases
import tiny_model
import torch
from latent_reference import Gaps, Prompt, answer, decoder_pass, memory_of_one_step, training_loss
from numbers_json import rounded, versions, write_cases
from official_cases import LR, TRAINED, WEIGHT_DECAY, first_safe

QWEN = {"qwen2-vl": tiny_model, "qwen2.5-vl": qwen25_model, "qwen3-vl": qwen3_model}
NEW_TOKENS = latent_cases.NEW_TOKENS

# family, whether text does not see the picture, then what the family's cases are made from
GENERATE = [
    ("qwen2-vl", False, ("gqa", False, 3, 8, (8, 12), 20, "sequential")),
    ("qwen2-vl", True, ("mqa", True, 4, 5, (12, 12), 31, "sequential")),
    ("qwen2.5-vl", False, ("gqa", False, 2, 6, (8, 12), 26, "mrope")),
    ("qwen2.5-vl", True, ("mha", False, 3, 4, (12, 8), 18, "mrope")),
    ("qwen3-vl", False, ("gqa", False, 3, 5, (8, 12), 22, "mrope")),
    ("qwen3-vl", True, ("wide", False, 2, 7, (12, 8), 27, "mrope")),
    ("smolvlm", False, ("gqa", False, [(1, 2)], 3, 8, 31)),
    ("smolvlm", True, ("odd", True, [(2, 2)], 2, 10, 24)),
    ("chameleon", False, ("mha", False, 3, 4, 21)),
    ("chameleon", True, ("swin", False, 2, 5, 33)),
]
TRAIN = [
    ("qwen2-vl", False, ("gqa", False, 3, 5, [(8, 12), (8, 8)], 24, "sequential")),
    ("qwen2-vl", True, ("mha", True, 2, 6, [(8, 12), (12, 8)], 19, "sequential", "through")),
    ("qwen2.5-vl", True, ("gqa", False, 3, 4, [(8, 12), (12, 8)], 22, "mrope")),
    ("qwen2.5-vl", False, ("mqa", False, 2, 5, [(12, 8)], 28, "mrope", "through")),
    ("qwen3-vl", False, ("gqa", False, 2, 4, [(8, 12), (8, 8)], 17, "mrope", "through")),
    ("smolvlm", True, ("gqa", False, [([(1, 2)], 21, 14), ([(0, 0)], 12, 15)], 3, 5), False),
    ("smolvlm", False, ("odd", False, [([(1, 1)], 16, 8), ([(2, 1)], 9, 11)], 2, 4), True),
    ("chameleon", False, ("mha", False, 3, 4, [21, 14]), False),
    ("chameleon", True, ("gqa", False, 2, 6, [18, 25]), True),
]


def qwen_prompt(model, ids, mask, pixels, grids, kind):
    """As qwen25_model.prompt; Qwen2-VL's cases number every token in order."""
    assert kind == "sequential"
    return qwen25_model.prompt(model, ids, mask, pixels, grids, kind)


def with_memory(family, memory):
    made = types.SimpleNamespace(**vars(QWEN[family]), memory=memory)
    if family == "qwen2-vl":
        made.prompt = qwen_prompt
    return made


def chameleon_prompt(model, ids, mask, pictures):
    codes = model.model.get_image_tokens(pictures)
    image = ids == model.config.vocabulary_map["<image>"]
    embeddings = model.get_input_embeddings()(ids.masked_scatter(image, codes.flatten().long()))
    return Prompt(embeddings, (mask.cumsum(-1) - 1).clamp(min=0), mask, [row.nonzero().flatten().tolist() for row in image])


def chameleon_head(model):
    """Image tokens are never written."""
    return lambda hidden: model.lm_head(hidden).index_fill(-1, torch.tensor(model.model.vocabulary_mapping.image_tokens), torch.finfo(torch.float32).min)


def chameleon_question(text, dims, count):
    words = text.ids(count)
    image = [chameleon_model.special_ids(dims["vocab"])["image"]] * chameleon_model.image_tokens(dims)
    return words[: count // 3] + image + words[count // 3 :]


def chameleon_start(row, seed, counts, name):
    shape, tie, latents, patches = row[:4]
    dims = chameleon_model.SHAPES[shape]
    model, text = chameleon_model.build(dims, seed, tie), chameleon_model.text_source(seed, dims)
    rows = [chameleon_question(text, dims, count) for count in counts]
    ids, mask = smolvlm_cases.left_padded(rows)
    pictures = chameleon_model.draw_pictures(seed, len(counts), dims["vq"]["res"])
    _, code_gap = chameleon_model.codes_of(model, pictures)
    record = chameleon_cases.record_of(f"{shape}, T {latents}, K {patches}, {name}", shape, tie, seed, model, len(counts))
    record.update(latents=latents, patches=patches, masked=model.model.vocabulary_mapping.image_tokens)
    return model, text, ids, mask, pictures, record, code_gap > chameleon_cases.CLEAR_CODE


def chameleon_generate(row, seed, memory):
    latents, patches, count = row[2:]
    model, _, ids, mask, pictures, record, safe = chameleon_start(row, seed, [count], f"{count} text tokens")
    with torch.no_grad():
        prompt = chameleon_prompt(model, ids, mask, pictures)
        decode = decoder_pass(model.model, memory=memory(prompt))
        told = answer(decode, model.get_input_embeddings(), chameleon_head(model), prompt, latents, patches, NEW_TOKENS)
    kept = [i for i in range(model.config.vocab_size) if i not in record["masked"]]
    record.update(
        input_ids=ids[0].tolist() + [record["ids"]["latent"]] * latents,
        picked=told["picked"],
        new_tokens=told["tokens"],
        last_logits=rounded(told["first_logits"][kept]),
        gaps={name: rounded(gap) for name, gap in vars(told["gaps"]).items()},
    )
    gaps = told["gaps"]
    ordinary = max(told["tokens"]) < record["ids"]["elat"] and record["ids"]["eos"] not in told["tokens"]
    return record, safe and ordinary and gaps.logit > 1e-3 and gaps.pick > 1e-6 and gaps.order > 5e-8


def chameleon_train(row, seed, memory, through):
    latents, patches, counts = row[2:]
    model, text, ids, mask, pictures, record, safe = chameleon_start(row, seed, counts, f"{len(counts)} rows")
    written = torch.tensor([text.ids(12) for _ in counts])
    named = {n: p for n, p in model.named_parameters() if n.startswith("model.layers")}
    trained = {n: named[n] for n in sorted(named) if any(part in n for part in TRAINED)}
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    before = {n: p.detach().clone() for n, p in trained.items()}
    slots = torch.full((len(counts), latents), record["ids"]["latent"])
    prompt = chameleon_prompt(model, ids, mask, pictures)
    decode = decoder_pass(model.model, memory=memory(prompt))
    optimiser = torch.optim.AdamW(list(trained.values()), lr=LR, weight_decay=WEIGHT_DECAY)
    losses, gaps = [], Gaps()
    for step in range(latent_cases.STEPS):
        loss, picked = training_loss(decode, model.get_input_embeddings(), chameleon_head(model), prompt, latents, patches, written, written, torch.ones_like(written), gaps, through)
        loss.backward()
        losses.append(rounded(loss.item()))
        if step == 0:
            record["picked"] = picked
            record["gradient_norms"] = {n: rounded(p.grad.norm().item()) for n, p in trained.items()}
        optimiser.step()
        optimiser.zero_grad()
    record.update(
        input_ids=torch.cat([ids, slots, written], 1).tolist(),
        labels=torch.cat([torch.full((len(counts), ids.shape[1] + latents), -100), written], 1).tolist(),
        attention_mask=torch.cat([mask, torch.ones_like(slots), torch.ones_like(written)], 1).tolist(),
        steps=latent_cases.STEPS,
        losses=losses,
        moved_norms={n: rounded((p.detach() - before[n]).norm().item()) for n, p in trained.items()},
    )
    return record, safe and gaps.pick > 1e-6 and gaps.order > 1e-8


def one_case(kind, entry, seed):
    family, hide, row, *rest = entry
    memory = lambda prompt: memory_of_one_step(prompt, hide)
    if family in QWEN:
        make = latent_cases.generate_case if kind == "generate" else latent_cases.train_case
        record, safe = make(with_memory(family, memory), row, seed)
    elif kind == "generate":
        record, safe = (smolvlm_cases.generate_case if family == "smolvlm" else chameleon_generate)(row, seed, memory)
    else:
        record, safe = (smolvlm_cases.train_case if family == "smolvlm" else chameleon_train)(row, seed, memory, *rest)
    through = dict(through=True) if rest == [True] else {}
    return dict(family=family, hide_from_text=hide, **through, **record), safe


def make(out):
    header = dict(made_with=versions(), dtype="float32")
    for kind, entries, first in (("generate", GENERATE, 90000), ("train", TRAIN, 92000)):
        cases = []
        for index, entry in enumerate(entries):
            case = first_safe(lambda seed: one_case(kind, entry, seed), first + 100 * index)
            print(f"  {case['family']}: {case['name']}: seed {case['seed']}", flush=True)
            cases.append(case)
        more = dict(max_new_tokens=NEW_TOKENS) if kind == "generate" else dict(trained=list(TRAINED))
        write_cases(os.path.join(out, f"latent-memory-{kind}.json"), dict(header, **more), cases)
