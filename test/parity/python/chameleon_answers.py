"""chameleon-answers.json: from picture file and question to the official code's picks and text, through transformers' processor.

The whole way that `ivtlr infer` goes: decoding, resizing, prompt, delimiters, separator behind the latent slots, latent steps, text.
"""

import contextlib
import io
import os
import torch
from PIL import Image, ImageOps
from transformers import ChameleonConfig, ChameleonForConditionalGeneration, ChameleonProcessor
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil
import official_chameleon
import official_qwen
from chameleon_cases import CLEAR_CODE, weights_check
from chameleon_model import SHAPES, codes_of, draw_weights, flat_config
from chameleon_official import CLEAR_ORDER, CLEAR_PICK
from chameleon_render import Processor, image_code, prompt_texts, small_tokenizer
from numbers_json import rounded, versions, write_cases
from official_cases import clear, first_safe

NEW_TOKENS, PATCHES = 10, 64

# task, picture, question, choices, T
ASKED = [
    ("scienceqa", "preprocess/images/photo.jpg", "Which is largest?", ["the disk", "the box"], 3),
    ("scienceqa", "preprocess/images/rgba.png", " What colour {is} it? ", [], 3),
    ("m3cot", "preprocess/images/exif-6.jpg", "Größe?\n", ["eins", "zwei", "drei"], 3),
    ("m3cot", "preprocess/images/palette-transparent.png", "Which one", ["a", "b", "c", "d", "e"], 0),
    ("m3cot", "chameleon-images/odd-301x517.png", "Where?", ["left", "right"], 1),
    ("scienceqa", "preprocess/images/tall.png", "数学?", ["{x}", " y "], 4),
]


def one_case(official, out, row, seed):
    task, file, question, choices, latents = row
    processor = Processor(small_tokenizer())
    tokens = {t: i for t, i in processor.fast.get_vocab().items()}
    config = flat_config(dict(SHAPES["full"], vocab=len(processor.fast)))
    config["vocabulary_map"] = {t: tokens[t] for t in [image_code(i) for i in range(64)] + ["<image>"]}
    given = ChameleonConfig(**{k: v for k, v in config.items() if k not in ("torch_dtype", "rope_scaling")})
    given._attn_implementation = "eager"
    model = draw_weights(ChameleonForConditionalGeneration(given).eval(), seed)
    ids = dict(latent=tokens["<|latent|>"], slat=tokens["<|start-latent|>"], elat=tokens["<|end-latent|>"], eos=tokens["</s>"], image=tokens["<image>"])
    backbone = official_chameleon.Backbone(model)
    network = official_chameleon.network_of(official, backbone, ids, PATCHES)
    picture = ImageOps.exif_transpose(Image.open(os.path.join(out, file)))
    prompt = prompt_texts(task, dict(question=question, choices=choices))["official"]["infer"]
    full = ChameleonProcessor(ChameleonImageProcessorPil(), processor.fast, image_seq_length=1024)
    inputs = full(images=picture, text=prompt + "<|latent|>" * latents, return_tensors="pt")
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        answer = network.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values=inputs["pixel_values"],
            max_new_tokens=NEW_TOKENS,
        )
    start = inputs["input_ids"][0].tolist().index(ids["image"])
    new = answer[0, inputs["input_ids"].shape[1] :].tolist()
    top = torch.stack(backbone.last_rows[latents : latents + len(new)]).topk(2, dim=-1).values
    pick_gap, order_gap = clear(official_qwen.gaps)
    gaps = dict(code=codes_of(model, inputs["pixel_values"])[1], logit=(top[:, 0] - top[:, 1]).min().item())
    safe = gaps["code"] > CLEAR_CODE and gaps["logit"] > 1e-3 and pick_gap > CLEAR_PICK and order_gap > CLEAR_ORDER
    record = dict(
        task=task,
        file=file,
        question=question,
        choices=choices,
        latents=latents,
        patches=PATCHES,
        name=f"{task}, {file}",
        seed=seed,
        config=config,
        weights=weights_check(model),
        picked=[[place - start for place in step] for step in official_qwen.picks],
        new_tokens=new,
        text=full.decode(new, skip_special_tokens=True),
        gaps=dict(rounded(list(gaps.items()))),
    )
    return record, safe and len(record["picked"]) == latents


def make(out, checkout):
    official = official_chameleon.load(checkout)
    cases = [first_safe(lambda s: one_case(official, out, row, s), 80000 + 100 * index) for index, row in enumerate(ASKED)]
    write_cases(os.path.join(out, "chameleon-answers.json"), dict(made_with=versions(), max_new_tokens=NEW_TOKENS), cases)
