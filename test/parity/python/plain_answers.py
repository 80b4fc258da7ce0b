"""plain-answers.json: what transformers' generate writes for a Qwen2-VL that was taught no latent steps, asked as its makers meant.

The whole way that `ivtlr infer` goes without latent steps: decoding, native-size resizing, chat template, M-RoPE, greedy text, end-of-text ids.
"""

import os
import torch
from PIL import Image, ImageOps
from transformers import Qwen2VLImageProcessorPil
from numbers_json import rounded, versions, write_cases
from official_cases import first_safe
from tiny_model import SHAPES, build, flat_config, weights_check
from token_cases import TEMPLATE, load, render

NEW_TOKENS = 8
SHAPES["plain"] = dict(
    hidden=32, layers=2, heads=2, kv=1, inter=48, vocab=151680, vdepth=1, vdim=16, vheads=2, mrope=[2, 3, 3]
)
IDS = dict(image_token_id=151655, video_token_id=151656, vision_start_token_id=151652, vision_end_token_id=151653)
CHOICES = '\nEnd with "The answer is" and the letter of the right choice.'

# picture, question, choices, place of the token that generation_config names as a second end of text (None: it names none)
ASKED = [
    ("photo.jpg", "What is shown?", [], None),
    ("large.jpg", " Which is\nlargest? ", ["the disk", " the box "], None),
    ("exif-6.jpg", "Größe?", [], 3),
    ("rgba.png", "数学?", ["{x}", "y", "z"], None),
    ("wide.png", "How wide", [], None),
]


def prompt_text(question, choices):
    if not choices:
        return question
    return question + "\n" + "\n".join(f"({chr(65 + i)}) {c}" for i, c in enumerate(choices)) + CHOICES


def one_case(tokenizer, out, row, seed):
    file, question, choices, stop = row
    model = build(SHAPES["plain"], seed)
    for name, value in IDS.items():
        setattr(model.config, name, value)
    picture = ImageOps.exif_transpose(Image.open(os.path.join(out, "preprocess", "images", file)))
    processed = Qwen2VLImageProcessorPil()(images=picture, return_tensors="pt")
    grid = processed["image_grid_thw"]
    message = dict(role="user", content=[dict(type="image"), dict(type="text", text=prompt_text(question, choices))])
    chat = render(TEMPLATE, [message], True)
    tokens = grid[0].prod().item() // 4
    ids = tokenizer.encode(chat.replace("<|image_pad|>", "<|image_pad|>" * tokens), add_special_tokens=False).ids
    given = torch.tensor([ids])
    inputs = dict(
        input_ids=given,
        attention_mask=torch.ones_like(given),
        mm_token_type_ids=(given == IDS["image_token_id"]).int(),
        **processed,
    )
    greedy = dict(do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0, return_dict_in_generate=True, output_logits=True)
    answer = model.generate(**inputs, **greedy)
    new = answer.sequences[0, len(ids) :].tolist()
    top = torch.stack(answer.logits).topk(2, dim=-1).values
    gap = (top[..., 0] - top[..., 1]).min().item()
    eos = None
    if stop is not None:
        eos, whole = new[stop], new
        if eos in whole[:stop]:
            return None, False
        model.model.rope_deltas = None
        new = model.generate(**inputs, **greedy, eos_token_id=[151645, eos]).sequences[0, len(ids) :].tolist()
        assert new == whole[: stop + 1]
    record = dict(
        name=file,
        seed=seed,
        config=dict(flat_config(SHAPES["plain"], False), **IDS),
        file=file,
        question=question,
        choices=choices,
        prompt_ids=ids,
        grid=grid[0].tolist(),
        generation_eos=eos,
        new_tokens=new,
        gap=rounded(gap),
        weights=weights_check(model),
    )
    return record, gap > 1e-3 and 151645 not in new


def make(out, tokenizer_folder):
    tokenizer = load(tokenizer_folder)
    cases = [first_safe(lambda s: one_case(tokenizer, out, row, s), 90000 + 100 * i) for i, row in enumerate(ASKED)]
    write_cases(os.path.join(out, "plain-answers.json"), dict(made_with=versions(), max_new_tokens=NEW_TOKENS), cases)
