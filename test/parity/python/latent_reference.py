"""IVT-LR's latent reasoning over any vision-language model of transformers, as plainly as it can be written.

There is no cache: every step and every token runs the whole sequence again, as the official code does on Qwen2-VL. Families for which no official
code exists are compared with this rendering. `python latent_reference.py` vouches for it: on Qwen2-VL it must give the picks, tokens, logits,
losses and gradients that the official code gave (goldens official-generate.json and official-train.json).

How a family uses it:

1. Build the model with eager attention (`config._attn_implementation = "eager"`), for only that returns attention probabilities.
2. Fill a `Prompt` with what enters the decoder at the prompt's places: embeddings of the ids, with picture features already put in at the image
   tokens; positions as the family numbers them, (B, P), or (3, B, P) for M-RoPE; the mask of left-padded rows; and for each row the places of
   the image tokens that a step may pick. The latent slots are no part of it.
3. `decode = decoder_pass(model.model.language_model)`. A decoder that takes more than embeddings, positions and mask (DeepStack's features, say)
   gets it from `further(sources)`, a function that is called for every pass. `sources` (B, S) says whose embedding stands at each place: a
   place of the prompt (its own, or that of a patch put in again), or -1 for latent text and written tokens.
   Rules of who sees whom (`latentMemory: last`) are given as `memory`, see `memory_of_one_step`.
4. `answer(..)` for one row, `training_loss(..)` for a batch. For training, the prompt must be made anew for every step if the embeddings are
   trained.

Shapes: B rows, P places of the prompt, S places so far, D width, V vocabulary, K patches, T latent steps, R places of the written text.
"""

import dataclasses
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@dataclasses.dataclass
class Prompt:
    embeddings: torch.Tensor  # (B, P, D)
    positions: torch.Tensor  # (B, P) or (axes, B, P) int64
    mask: torch.Tensor  # (B, P) int64, 0 for pads
    places: list  # for each row, the places of its image tokens, in order
    # For each row, those of them that no step may pick, if there are some. Picks then stand in the order of their scores (pickOrder: score), for that
    # of an unsorted topk depends on how they are kept out.
    closed: list = None


@dataclasses.dataclass
class Sequence:
    """What the decoder is given: the prompt, and what has been put behind it."""

    embeddings: torch.Tensor  # (B, S, D)
    positions: torch.Tensor  # (.., B, S)
    mask: torch.Tensor  # (B, S)
    sources: torch.Tensor  # (B, S)
    steps: torch.Tensor  # (S,): 0 the prompt, t what latent step t (from 1) put in, -1 written text


@dataclasses.dataclass
class Gaps:
    """How clear the choices were: with a gap near the rounding error, another machine may choose otherwise."""

    pick: float = float("inf")  # smallest difference of the K-th score and the next one
    order: float = float("inf")  # smallest difference of any two scores that can be picked
    logit: float = float("inf")  # smallest difference of the two best logits


def decoder_pass(decoder, further=lambda sources: {}, memory=None):
    """A function Sequence -> (hidden states (B, S, D) after the final norm, attention probabilities of the last place (B, S))."""

    def run(sequence, wants_scores=True):
        mask = sequence.mask
        if memory is not None:
            seen, scored = memory(sequence)
            mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
            use_two_masks(decoder, scored)
        out = decoder(
            inputs_embeds=sequence.embeddings,
            position_ids=sequence.positions,
            attention_mask=mask,
            use_cache=False,
            output_attentions=wants_scores,
            **further(sequence.sources),
        )
        if not wants_scores:
            return out.last_hidden_state, None
        # (B, layers * heads, S, S) -> the mean over layers and heads, of the last place
        return out.last_hidden_state, torch.cat(out.attentions, dim=1).mean(dim=1)[:, -1]

    return run


def memory_of_one_step(prompt, hide_from_text):
    """`latentMemory: last` as a rule: Sequence -> (who sees whom (B, S, S) bool, what the last place's scores are about (B, S) bool).

    The rows of a latent step see the prompt but for the picture, and each other; written text sees the prompt (with `hide_from_text` but for the
    picture), the rows of the last step, and itself. Scores of a latent step are about the whole prompt and the step's own rows. A picture reaches from
    its first token to its last, with what stands between them; rows have one picture each.
    """

    def rule(sequence):
        steps, there = sequence.steps, sequence.mask.bool()
        size = steps.shape[0]
        picture = torch.zeros(there.shape, dtype=torch.bool)  # (B, S)
        for row, places in enumerate(prompt.places):
            picture[row, min(places) : max(places) + 1] = True
        last = steps.max()
        asks, asked = steps[:, None], steps[None, :]
        seen = (asks == asked) | (asked == 0) | ((asks == -1) & (asked == last))
        seen = seen & torch.ones(size, size, dtype=torch.bool).tril()
        blind = (steps > 0) | ((steps == -1) if hide_from_text else torch.zeros_like(steps, dtype=torch.bool))
        seen = seen[None] & ~(blind[None, :, None] & picture[:, None, :]) & there[:, None, :]
        # Pads see themselves: a row without anything to see would be no number.
        return seen | torch.eye(size, dtype=torch.bool), there & ((steps == 0) | (steps == steps[-1]))

    return rule


def use_two_masks(decoder, scored):
    """Attention under the mask that the decoder is given; what it tells as probabilities are those of the last place over `scored` (B, S)."""

    def attention(module, query, key, value, attention_mask, scaling, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ key.transpose(2, 3) * scaling
        mixed = (logits + attention_mask).softmax(-1, dtype=torch.float32) @ value
        told = logits[:, :, -1:].masked_fill(~scored[:, None, None], float("-inf")).softmax(-1, dtype=torch.float32)
        return mixed.transpose(1, 2).contiguous(), told

    ALL_ATTENTION_FUNCTIONS["two_masks"] = attention
    decoder.config._attn_implementation = "two_masks"


def start(prompt):
    columns = torch.arange(prompt.mask.shape[1]).expand(prompt.mask.shape)
    return Sequence(prompt.embeddings, prompt.positions, prompt.mask, columns, torch.zeros(prompt.mask.shape[1], dtype=torch.long))


def appended(sequence, rows, sources=None, mask=None, steps=-1):
    """The sequence with rows (B, R, D) behind it. Positions go on from the largest one of each row, the same on all axes; pads take none."""
    counted = torch.ones(rows.shape[:2], dtype=torch.long) if mask is None else mask
    flat = sequence.positions.reshape(-1, *sequence.mask.shape).masked_fill(sequence.mask == 0, -1)
    largest = flat.amax(dim=(0, 2))  # (B,)
    new = (largest[:, None] + counted.cumsum(1)).clamp(min=0)
    new = new.expand(*sequence.positions.shape[:-2], *new.shape)
    return Sequence(
        torch.cat([sequence.embeddings, rows], 1),
        torch.cat([sequence.positions, new], -1),
        torch.cat([sequence.mask, counted], 1),
        torch.cat([sequence.sources, torch.full_like(counted, -1) if sources is None else sources], 1),
        torch.cat([sequence.steps, torch.as_tensor(steps).expand(rows.shape[1])]),
    )


def latent_steps(decode, prompt, latents, patches, gaps=None, fewer=False):
    """T latent steps. Returns the sequence with what they put in, and the picked places: [step][row][up to K], in the order picked.

    Where fewer than K are free, picked patches come again, as in the official code; with `fewer` a step takes what is left.
    """
    sequence, picked = start(prompt), []
    closed = prompt.closed or [[] for _ in prompt.places]
    free = [torch.tensor([place not in shut for place in places]) for places, shut in zip(prompt.places, closed)]
    for step in range(latents):
        hidden, scores = decode(sequence)
        chosen = []
        for row, places in enumerate(prompt.places):
            # Picked ones stand as -inf, so they come last.
            own = scores[row, places].detach().masked_fill(~free[row], float("-inf"))
            count = min(patches, int(free[row].sum())) if fewer else patches
            if gaps is not None:
                note_pick(gaps, own, count)
            best = own.topk(count, sorted=prompt.closed is not None)[1]
            free[row][best] = False
            chosen.append([places[i] for i in best.tolist()])
        picked.append(chosen)
        # Rows that picked fewer are padded in front: every row ends in its latent text.
        pads = [max(map(len, chosen)) - len(row) for row in chosen]
        columns = torch.tensor([[0] * pad + row for pad, row in zip(pads, chosen)], dtype=torch.long)
        sources = torch.tensor([[-1] * pad + row + [-1] for pad, row in zip(pads, chosen)])
        mask = torch.tensor([[0] * pad + [1] * (len(row) + 1) for pad, row in zip(pads, chosen)])
        vision = torch.stack([prompt.embeddings[row, places] for row, places in enumerate(columns)])
        sequence = appended(sequence, torch.cat([vision, hidden[:, -1:]], 1), sources, mask, step + 1)
    return sequence, picked


def note_pick(gaps, scores, patches):
    ordered = scores[scores.isfinite()].sort(descending=True).values.double()
    steps = (ordered[:-1] - ordered[1:]).tolist()
    if 0 < patches <= len(steps):
        gaps.pick = min(gaps.pick, steps[patches - 1])
    gaps.order = min([gaps.order, *steps])


@torch.no_grad()
def answer(decode, embed, head, prompt, latents, patches, new_tokens, eos=None, fewer=False):
    """Greedy decoding of one row. dict of picked [step][K], tokens, first_logits (V) and gaps; `eos`, where it comes, is the last token."""
    gaps = Gaps()
    sequence, picked = latent_steps(decode, prompt, latents, patches, gaps, fewer)
    tokens, first = [], None
    while len(tokens) < new_tokens and (eos is None or eos not in tokens):
        logits = head(decode(sequence, False)[0][:, -1])[0]
        first = logits if first is None else first
        best = logits.topk(2).values
        gaps.logit = min(gaps.logit, (best[0] - best[1]).item())
        tokens.append(int(logits.argmax()))
        sequence = appended(sequence, embed(torch.tensor([tokens[-1:]])))
    return dict(picked=[rows[0] for rows in picked], tokens=tokens, first_logits=first, gaps=gaps)


def training_loss(decode, embed, head, prompt, latents, patches, text, labels, text_mask, gaps=None, through=False, fewer=False):
    """(mean cross-entropy over the labelled tokens, with its graph; picked as latent_steps gives them).

    text, labels, text_mask (B, R): what follows the latent slots, right-padded; labels are -100 where there is no loss. Every row of the prompt
    ends in the last column. The rows that latent steps put in are constants, as in the official code; with `through` gradients flow back to them.
    """
    with torch.set_grad_enabled(through):
        steps, picked = latent_steps(decode, prompt, latents, patches, gaps, fewer)
    sequence = start(prompt)
    before = prompt.mask.shape[1]
    if latents > 0:
        sequence = appended(sequence, steps.embeddings[:, before:], steps.sources[:, before:], steps.mask[:, before:], steps.steps[before:])
    written = sequence.mask.shape[1]
    sequence = appended(sequence, embed(text), mask=text_mask)
    hidden = decode(sequence, False)[0]
    logits = head(hidden[:, written - 1 : -1])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten()), picked


def vouch():
    """Runs the official goldens' cases on Qwen2-VL and says how far the numbers are from the official code's."""
    import json
    import os
    import tiny_model

    here = os.path.dirname(os.path.abspath(__file__))

    def read(name):
        with open(os.path.join(here, "..", "goldens", name), encoding="utf8") as file:
            return json.load(file)

    def rebuilt(case, ids, mask):
        model = tiny_model.build(case["dims"], case["seed"], case["tie"])
        pixels, grids = tiny_model.draw_pixels(case["seed"], [tuple(grid[1:]) for grid in case["image_grid_thw"]])
        embed = model.get_input_embeddings()
        ids, mask = torch.tensor(ids), torch.tensor(mask)
        image = ids == case["ids"]["image"]

        def prompt():
            embeddings = embed(ids)
            features = model.model.visual(pixels, grid_thw=grids).pooler_output
            embeddings = embeddings.masked_scatter(image[..., None].expand_as(embeddings), features)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            return Prompt(embeddings, positions, mask, [row.nonzero().flatten().tolist() for row in image])

        return model, embed, decoder_pass(model.model.language_model), prompt

    def close(got, wanted):
        got, wanted = torch.as_tensor(got).double(), torch.as_tensor(wanted).double()
        return ((got - wanted).abs().max() / wanted.abs().max()).item()

    golden, worst = read("official-generate.json"), 0.0
    cases = golden["cases"] + golden["exhausted"]
    for case in cases:
        ids = case["input_ids"][: len(case["input_ids"]) - case["latents"]]
        model, embed, decode, prompt = rebuilt(case, [ids], [[1] * len(ids)])
        with torch.no_grad():
            told = answer(decode, embed, model.lm_head, prompt(), case["latents"], case["patches"], golden["max_new_tokens"], case["ids"]["eos"])
        assert told["picked"] == case["picked"], case["name"]
        assert told["tokens"] == case["new_tokens"], case["name"]
        worst = max(worst, close(told["first_logits"], case["last_logits"]))
    print(f"{len(cases)} answers: picks and tokens equal, largest relative difference of the first logits {worst:.1e}")
    assert worst < 1e-5

    golden, worst = read("official-train.json"), 0.0
    for case in golden["cases"]:
        rows, latent = case["input_ids"], case["ids"]["latent"]
        split = rows[0].index(latent) if case["latents"] else next(i for i, label in enumerate(case["labels"][0]) if label != -100)
        after = split + case["latents"]
        model, embed, decode, prompt = rebuilt(case, [r[:split] for r in rows], [m[:split] for m in case["attention_mask"]])
        trained = {n: p for n, p in model.named_parameters() if any(t in n for t in golden["trained"])}
        model.requires_grad_(False)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        text, labels, mask = (torch.tensor([r[after:] for r in case[key]]) for key in ("input_ids", "labels", "attention_mask"))
        optimiser = torch.optim.AdamW(list(trained.values()), lr=golden["optimiser"]["lr"], weight_decay=golden["optimiser"]["weight_decay"])
        losses = []
        for step in range(case["steps"]):
            loss, picked = training_loss(decode, embed, model.lm_head, prompt(), case["latents"], case["patches"], text, labels, mask)
            loss.backward()
            losses.append(loss.item())
            if step == 0:
                assert picked == case["picked"], case["name"]
                for name, parameter in trained.items():
                    wanted = case["gradient_norms"][tiny_model.hub_name(name)]
                    # A bias of the keys shifts all scores of a row alike: its gradient is rounding only.
                    assert abs(parameter.grad.norm().item() - wanted) < 1e-4 * max(wanted, 0.01), (case["name"], name)
            optimiser.step()
            optimiser.zero_grad()
        worst = max(worst, close(losses, case["losses"]))
    print(f"{len(golden['cases'])} trainings: picks and gradients equal, largest relative difference of the losses {worst:.1e}")
    assert worst < 1e-5


if __name__ == "__main__":
    torch.set_num_threads(2)
    vouch()
