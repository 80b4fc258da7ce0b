"""smolvlm-tokenizer/, smolvlm-inputs.json and smolvlm-prompts.json: what transformers' processors make of pictures and questions.

The tokenizer is a small one of SmolVLM's kind (byte-level BPE of GPT-2's style that cuts digits apart, with the family's special tokens), trained
on the sentences below. Pictures are those of preprocess/ and chameleon-images/, and large ones drawn by a formula.
"""

import base64
import hashlib
import json
import os
import shutil
import zlib
import numpy
import PIL
from PIL import Image, ImageOps
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE, get_image_prompt_string
from chameleon_pictures import drawn
from numbers_json import rounded, versions, write_cases

SENTENCES = """The picture shows a red disk, a blue box and a green triangle on grey ground.
Which figure stands to the left of the box? The disk is red. So the first figure is it.
Therefore, the answer is B. [Question]:{Which picture?} [Options]: (A).{disk} (B).{box} Answer:
User: Assistant: System: You look at a picture and answer the question with the letter of the right choice.
Count the rows and columns: 1 2 3 4 5 6 7 8 9 10 12 24 100.\n\nEnd with "The answer is" and the letter.\n"""

MARKERS = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<global-img>", *MARKERS, "<fake_token_around_image>", "<image>", "<end_of_utterance>"]

# The family's chat template in words of our own; that both say the same is checked below.
TEMPLATE = """<|im_start|>{% for turn in messages -%}
{{ turn.role | capitalize }}:{% if turn.content[0].type != 'image' %}{{ ' ' }}{% endif %}
{%- for part in turn.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""

STRIDE = 9973  # of the flat (tiles, 3, H, W) levels
HUB = dict(size=dict(longest_edge=2048), max_image_size=dict(longest_edge=512))
SMALL = dict(size=dict(longest_edge=256), max_image_size=dict(longest_edge=64))
CONFIGS = {
    "small": SMALL,
    "hub": HUB,
    "defaults": {},
    "not cut": dict(SMALL, do_image_splitting=False),
    "one size": dict(SMALL, size=dict(height=128, width=192)),
    "one size, one tile": dict(SMALL, size=dict(height=64, width=64)),
    "as it is": dict(SMALL, do_resize=False),
    "odd edge": dict(size=dict(longest_edge=150), max_image_size=dict(longest_edge=76)),
    "beyond 4096": dict(size=dict(longest_edge=5000), max_image_size=dict(longest_edge=1024)),
    "other numbers": dict(SMALL, resample=3, rescale_factor=1 / 200, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.5]),
}
SOME = ("photo.jpg", "tall.png", "rgba.png", "odd-301x517.png", "wide.png")


def make_tokenizer(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + 200, initial_alphabet=alphabet, show_progress=False, special_tokens=[])
    tokenizer.train_from_iterator([SENTENCES] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    config = dict(bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|im_end|>", unk_token="<|endoftext|>", tokenizer_class="GPT2Tokenizer")
    for name, text in (("tokenizer_config.json", json.dumps(config, indent=1) + "\n"), ("chat_template.jinja", TEMPLATE)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    return tokenizer


def levels_of(values, options):
    """Back to the 8-bit levels: the processor's last two steps are one line through each channel."""
    scale = options.get("rescale_factor", 1 / 255)
    mean, std = (numpy.array(options.get(name, [0.5] * 3))[:, None, None] for name in ("image_mean", "image_std"))
    levels = (values.astype(numpy.float64) * std + mean) / scale
    assert abs(levels - levels.round()).max() < 2e-3
    return levels.round().astype(numpy.uint8)


def picture_case(picture, config, **fields):
    options = CONFIGS[config]
    out = SmolVLMImageProcessorPil(**options)(images=picture, return_tensors="np", return_row_col_info=True)
    other = Idefics3ImageProcessorPil(**options)(images=picture, return_tensors="np")
    values, mask = out["pixel_values"][0], out["pixel_attention_mask"][0]
    assert (values == other["pixel_values"][0]).all()
    # Tiles of one picture are all of one size: there is nothing to mask, whatever the picture.
    assert mask.all() and len(set(tile.shape for tile in values)) == 1 and values.shape[2] == values.shape[3]
    flat = levels_of(values, options).reshape(-1)
    return dict(
        **fields,
        config=config,
        mode=picture.mode,
        width=picture.width,
        height=picture.height,
        shape=list(values.shape),
        tiles=[out["rows"][0][0], out["cols"][0][0]],
        sha256=hashlib.sha256(flat.tobytes()).hexdigest(),
        strided=base64.b64encode(zlib.compress(flat[::STRIDE].tobytes(), 9)).decode(),
        values=rounded(values.reshape(-1)[:: 8 * STRIDE].tolist()),
    )


def make_pictures(out):
    cases = []
    for folder in ("preprocess/images", "chameleon-images"):
        for name in sorted(os.listdir(os.path.join(out, folder))):
            picture = ImageOps.exif_transpose(Image.open(os.path.join(out, folder, name)))
            configs = ["small", "not cut"]
            if name in SOME:
                configs += [config for config in CONFIGS if config not in ("small", "not cut", "hub", "beyond 4096")]
            if name in ("photo.jpg", "odd-301x517.png"):
                configs += ["hub"]
            if name == "thin.png":
                configs += ["beyond 4096"]
            cases += [picture_case(picture, config, file=f"{folder}/{name}") for config in configs]
    cases += [picture_case(drawn(*size), "hub", file=None) for size in ((1700, 2600), (512, 512))]
    header = dict(made_with=versions(pillow=PIL.__version__), stride=STRIDE, configs=CONFIGS)
    write_cases(os.path.join(out, "smolvlm-inputs.json"), header, cases)


QUESTIONS = [
    ("Which figure?", ["disk", "box"]),
    ("  How many of the 24 boxes are left of the disk?\n", ["12", " 100 ", "none of them"]),
    ("What is shown", []),
    ("Ist das größer als 3² ≤ 10?", ["já", "ไม่"]),
]
GRIDS = [(0, 0), (1, 1), (1, 2), (3, 2), (4, 4), (6, 6), (7, 1)]
# Beside questions about one picture of each grid: the grids of their pictures.
SEVERAL = [[], [(1, 2), (0, 0)], [(0, 0), (3, 2), (1, 1)], [(0, 0), (0, 0)]]
RUN = 3  # image tokens a tile
LATENT_TOKENS = ["<|start-latent|>", "<|end-latent|>", "<|latent|>"]


def asked(question, choices):
    letters = "".join(f"({'ABC'[i]}).{{{choice.strip()}}}\n" for i, choice in enumerate(choices))
    return "[Question]:{" + question.strip() + "}\n" + ("[Options]:\n" + letters if choices else "") + "Answer:\n"


class Grids(Idefics3ImageProcessorPil):
    """Says of the pictures that they are cut as `grids` has them."""

    grids = []

    def preprocess(self, images, **kwargs):
        out = super().preprocess(images, **kwargs)
        out["rows"], out["cols"] = ([[grid[axis] for grid in self.grids]] for axis in (0, 1))
        return out


IMAGE = dict(type="image")


def text(words):
    return dict(type="text", text=words)


def turn(role, *content):
    return dict(role=role, content=list(content))


# Pictures stand where their parts do; the grids of each in their order.
CONVERSATIONS = [
    ([turn("user", text("How many boxes?"))], []),
    ([turn("user", IMAGE, text("Which figure is that?"), IMAGE, text(" And here?"))], [(1, 2), (0, 0)]),
    (
        [
            turn("system", text("You look at a picture.")),
            turn("user", IMAGE, text("Which figure?")),
            turn("assistant", text("The disk.")),
            turn("user", IMAGE, IMAGE, text("And in these?")),
        ],
        [(0, 0), (2, 1), (3, 3)],
    ),
    (
        [
            turn("user", text("Count the rows.  ")),
            turn("assistant", text("Of what?\n")),
            turn("user", text("Of this: "), IMAGE),
            turn("assistant", text("")),
            turn("user", text("3² ≤ 10?"), text(" Ja.")),
        ],
        [(1, 1)],
    ),
]


def make_prompts(tokenizer, markers):
    """`markers`: whether the tokenizer knows the names of rows and columns, as those of the small models do."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end_of_utterance>", pad_token="<|im_end|>")
    images = Grids(size=dict(longest_edge=16), max_image_size=dict(longest_edge=16))
    processor = Idefics3Processor(images, fast, image_seq_len=RUN, chat_template=TEMPLATE)
    fast.add_special_tokens({"additional_special_tokens": LATENT_TOKENS})

    def prompt(turns, grids, latents=""):
        images.grids = grids
        text = processor.apply_chat_template(turns, add_generation_prompt=True)
        assert text == processor.apply_chat_template(turns, chat_template=DEFAULT_CHAT_TEMPLATE, add_generation_prompt=True)
        shown = dict(images=[[Image.new("RGB", (16, 16)) for _ in grids]]) if grids else {}
        ids = list(processor(text=[text + latents], **shown)["input_ids"][0])
        written = text + latents
        for grid in grids:
            one = get_image_prompt_string(*grid, RUN, processor.fake_image_token, "<IMAGE>", "<global-img>")
            written = written.replace(processor.image_token, one, 1)
        assert ids == fast(written.replace("<IMAGE>", processor.image_token))["input_ids"]
        return text, ids

    cases = []
    for grids in [[grid] for grid in GRIDS] + SEVERAL:
        for question, choices in QUESTIONS:
            turns = [turn("user", *[IMAGE for _ in grids], text(asked(question, choices)))]
            written, ids = prompt(turns, grids, "<|latent|>" * 2)
            cases.append(dict(markers=markers, grids=grids, question=question, choices=choices, text=written, input_ids=ids))
    conversations = []
    for messages, grids in CONVERSATIONS:
        written, ids = prompt(messages, grids)
        conversations.append(dict(markers=markers, grids=grids, messages=messages, text=written, input_ids=ids))
    return cases, conversations


def make(out):
    folder = os.path.join(out, "smolvlm-tokenizer")
    tokenizer = make_tokenizer(folder)
    cases, conversations = make_prompts(tokenizer, True)
    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as file:
        definition = json.load(file)
    # As in the 2.2B model, where rows, columns and the whole picture are named in ordinary text.
    plain = {"<global-img>", *MARKERS}
    kept = [token for token in definition["added_tokens"] if token["content"] not in plain]
    first = kept[0]["id"]
    definition["added_tokens"] = [dict(token, id=first + i) for i, token in enumerate(kept)]
    more, further = make_prompts(Tokenizer.from_str(json.dumps(definition)), False)
    header = dict(made_with=versions(), run=RUN, without=sorted(plain), conversations=conversations + further)
    write_cases(os.path.join(out, "smolvlm-prompts.json"), header, cases + more)
    make_pictures(out)
