"""plain-answers.json: what transformers' generate writes for a Qwen model that was taught no latent steps, asked as its makers meant.

The whole way that `ivtlr infer` goes without latent steps: decoding, native-size resizing, chat template, M-RoPE, greedy text, end-of-text ids.
"""

import os
import torch
from PIL import Image, ImageOps
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil, Qwen2VLProcessor, Qwen3VLProcessor
import qwen25_model
import qwen3_model
import tiny_model
from numbers_json import rounded, versions, write_cases
from official_cases import first_safe
from qwen_folders import FAMILIES
from tiny_model import weights_check
from token_cases import QWEN3_TEMPLATE, TEMPLATE, load, render

NEW_TOKENS = 8
SHAPE = dict(hidden=32, layers=2, heads=2, kv=1, inter=48, vocab=151680, vdepth=1, vdim=16, vheads=2, mrope=[2, 3, 3])
tiny_model.SHAPES["plain"] = SHAPE
qwen25_model.SHAPES["plain"] = dict(SHAPE, vdepth=2, vinter=20, vwindow=112, vfull=[1])
qwen3_model.SHAPES["plain"] = dict(SHAPE, vdepth=2, vinter=20, size=16, vside=12, vdeep=[0])
IDS = dict(image_token_id=151655, video_token_id=151656, vision_start_token_id=151652, vision_end_token_id=151653)

# family -> tiny models, processor, template, preprocessor_config.json (nothing: the processor's defaults)
WAYS = {
    "qwen2": (tiny_model, Qwen2VLProcessor, TEMPLATE, {}),
    "qwen25": (qwen25_model, Qwen2_5_VLProcessor, TEMPLATE, FAMILIES["qwen25"].preprocessor),
    "qwen3": (qwen3_model, Qwen3VLProcessor, QWEN3_TEMPLATE, FAMILIES["qwen3"].preprocessor),
}
CHOICES = '\nEnd with "The answer is" and the letter of the right choice.'

# family, picture, question, choices, place of the token that generation_config names as a second end of text (None: it names none)
ASKED = [
    ("qwen2", "photo.jpg", "What is shown?", [], None),
    ("qwen2", "large.jpg", " Which is\nlargest? ", ["the disk", " the box "], None),
    ("qwen2", "exif-6.jpg", "Größe?", [], 3),
    ("qwen2", "rgba.png", "数学?", ["{x}", "y", "z"], None),
    ("qwen2", "wide.png", "How wide", [], None),
    ("qwen25", "photo.jpg", "What is shown?", [], None),
    ("qwen25", "tall.png", " Which is\nlargest? ", ["the disk", " the box "], 2),
    ("qwen3", "photo.jpg", "What is shown?", [], None),
    ("qwen3", "exif-6.jpg", "Größe?", [], 3),
    ("qwen3", "rgba.png", "数学?", ["{x}", "y", "z"], None),
]


def prompt_text(question, choices):
    if not choices:
        return question
    return question + "\n" + "\n".join(f"({chr(65 + i)}) {c}" for i, c in enumerate(choices)) + CHOICES


def processor_of(way, tokenizer):
    """The family's processor with the tokenizer and pictures read by Pillow."""
    _, processor, template, preprocessor = WAYS[way]

    class WithoutVideos(processor):
        """The part for videos needs torchvision, which is not installed here."""

        def check_argument_for_proper_class(self, name, argument):
            return argument if name == "video_processor" else super().check_argument_for_proper_class(name, argument)

    texts = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    return WithoutVideos(image_processor=Qwen2VLImageProcessorPil(**preprocessor), tokenizer=texts, chat_template=template)


def picture_of(out, name):
    return ImageOps.exif_transpose(Image.open(os.path.join(out, "preprocess", "images", name)))


def one_case(tokenizer, out, row, seed):
    way, file, question, choices, stop = row
    tiny, _, template, preprocessor = WAYS[way]
    model = tiny.build(tiny.SHAPES["plain"], seed)
    for name, value in IDS.items():
        setattr(model.config, name, value)
    message = dict(role="user", content=[dict(type="image"), dict(type="text", text=prompt_text(question, choices))])
    chat = render(template, [message], True)
    inputs = processor_of(way, tokenizer)(text=[chat], images=[picture_of(out, file)], return_tensors="pt")
    grid, ids = inputs["image_grid_thw"], inputs["input_ids"][0].tolist()
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
        name=f"{way}: {file}",
        seed=seed,
        config=dict(tiny.flat_config(tiny.SHAPES["plain"], False), **IDS),
        template=template,
        preprocessor=preprocessor or None,
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
