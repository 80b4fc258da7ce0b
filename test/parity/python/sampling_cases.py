"""sampling.json: what transformers' own list of logits processors makes of logits, and what generate writes under a repetition penalty."""

import os
import torch
from transformers import GenerationConfig
from numbers_json import rounded, versions, write_cases
from official_cases import first_safe
from tiny_model import SHAPES, build, flat_config, special_ids, weights_check

TOP = 5
NEW_TOKENS = 12

# name, vocabulary, spread of the logits, options of generate
OPTIONS = [
    ("temperature 0.7", 40, 3.0, dict(temperature=0.7)),
    ("temperature 2.5", 40, 3.0, dict(temperature=2.5)),
    ("top-k 5", 40, 3.0, dict(top_k=5)),
    ("top-k 1", 40, 3.0, dict(top_k=1)),
    ("top-k above the vocabulary", 40, 3.0, dict(top_k=100)),
    ("top-p 0.9", 40, 3.0, dict(top_p=0.9)),
    ("top-p 0.3", 40, 3.0, dict(top_p=0.3)),
    ("top-p 0", 40, 3.0, dict(top_p=0.0)),
    ("min-p 0.05", 40, 3.0, dict(min_p=0.05)),
    ("min-p 1", 40, 3.0, dict(min_p=1.0)),
    ("penalty 1.3", 40, 3.0, dict(repetition_penalty=1.3)),
    ("penalty 0.8", 40, 3.0, dict(repetition_penalty=0.8)),
    ("all", 40, 3.0, dict(repetition_penalty=1.2, temperature=0.8, top_k=12, top_p=0.85, min_p=0.02)),
    ("all, wide", 60, 1.0, dict(repetition_penalty=1.5, temperature=1.7, top_k=40, top_p=0.95, min_p=0.1)),
    ("penalty and top-p", 60, 2.0, dict(repetition_penalty=1.1, top_p=0.7)),
    # more kept tokens than are looked at first, and fewer
    ("large vocabulary, top-p 0.95, flat", 1300, 0.3, dict(top_p=0.95)),
    ("large vocabulary, top-p 0.8", 1300, 4.0, dict(top_p=0.8, temperature=1.2)),
]


def processors(model, options):
    config = GenerationConfig(do_sample=True, **(dict(top_k=0) | options))
    return model._get_logits_processor(config, input_ids_seq_length=6, device="cpu")


def clear(before, after, options):
    """Whether rounding could decide nothing of what is left out: no two scores at the edge are equal, no sum is at the limit of top-p."""
    for own, kept in zip(before, after.isfinite()):
        own, kept = own[own.isfinite()], kept[own.isfinite()]
        if kept.all():
            continue
        if own[kept].min() - own[~kept].max() < 1e-5:
            return False
        sums = own.double().softmax(dim=-1).sort(descending=True).values.cumsum(dim=-1)
        if "top_p" in options and (sums - options["top_p"]).abs().min() < 1e-6:
            return False
    return True


def option_case(model, row, seed):
    name, vocabulary, spread, options = row
    rows = 4 if vocabulary < 100 else 2
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocabulary, generator=generator) * spread
    ids = torch.randint(0, vocabulary, (rows, 6), generator=generator)
    used = processors(model, options)
    scores, safe = logits.clone(), True
    for processor in used:
        before, scores = scores, processor(ids, scores)
        if type(processor).__name__.startswith(("TopK", "TopP", "MinP")):
            safe = safe and clear(before, scores, options)
    probabilities = scores.softmax(dim=-1)
    logprobs = logits.log_softmax(dim=-1)
    top = logprobs.topk(TOP, dim=-1)
    record = dict(name=name, seed=seed, options=options, processors=[type(p).__name__ for p in used])
    record |= dict(ids=ids.tolist(), logits=rounded(logits))
    places = [row.nonzero().flatten().tolist() for row in probabilities]
    record |= dict(kept=[len(own) for own in places])
    record |= dict(
        probabilities=[[[i, *rounded([probabilities[r, i].item()])] for i in own] for r, own in enumerate(places)],
        top_logprobs=[
            [[i, *rounded([v])] for i, v in zip(top.indices[r].tolist(), top.values[r].tolist())] for r in range(rows)
        ],
    )
    return record, safe


def penalty_case(penalty, seed):
    shape = SHAPES["gqa"]
    model = build(shape, seed)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 300, (1, 9), generator=generator)
    greedy = dict(do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0, eos_token_id=None)
    more = dict(return_dict_in_generate=True, output_scores=True)
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), repetition_penalty=penalty, **greedy, **more)
    model.model.rope_deltas = None
    plain = model.generate(ids, attention_mask=torch.ones_like(ids), **greedy)
    new = answer.sequences[0, ids.shape[1] :].tolist()
    top = torch.stack(answer.scores).topk(2, dim=-1).values
    gap = (top[..., 0] - top[..., 1]).min().item()
    record = dict(name=f"greedy, penalty {penalty}", seed=seed, config=flat_config(shape, False), ids=special_ids(shape["vocab"]))
    record |= dict(input_ids=ids[0].tolist(), penalty=penalty, new_tokens=new, gap=rounded(gap), weights=weights_check(model))
    return record, gap > 1e-3 and new != plain[0, ids.shape[1] :].tolist()


def make(out):
    model = build(SHAPES["gqa"], 1)
    cases = [first_safe(lambda s: option_case(model, row, s), 120000 + 100 * i) for i, row in enumerate(OPTIONS)]
    greedy = [first_safe(lambda s: penalty_case(p, s), 125000 + 100 * i) for i, p in enumerate([1.3, 0.9])]
    header = dict(made_with=versions(), greedy=greedy)
    write_cases(os.path.join(out, "sampling.json"), header, cases)
