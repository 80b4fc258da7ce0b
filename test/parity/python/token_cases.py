"""tokens.json: token ids of the real Qwen2 vocabulary, chat templates, and the pieces a streaming decoder must print."""

import json
import os
import tokenizers
from tokenizers import AddedToken, Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template
from numbers_json import versions, write_cases
from token_texts import SYSTEM, all_texts

LATENT_TOKENS = ["<|start-latent|>", "<|end-latent|>", "<|latent|>"]
BASE_TOKENS = 151657  # Qwen2-VL's tokenizer stops here; the package's later added tokens are Qwen2.5's
# Ours: gives the strings Qwen3-VL-Instruct's template gives for text, image and video parts.
TURNS = (
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part['type'] == 'video' %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- else %}{{- part['text'] }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
QWEN3_TEMPLATE = "{%- for message in messages %}" + TURNS
# Ours: gives those of Qwen2-VL-Instruct and Qwen2.5-VL-Instruct.
TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if loop.first and message['role'] != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}"
) + TURNS
IMAGE = dict(type="image")


def words(text):
    return dict(type="text", text=text)


CHATS = [
    (
        [
            dict(
                role="user",
                content=[
                    IMAGE,
                    words("[Question]:{Which material?}\n[Options]:\n(A).{rubber}\n(B).{cotton}\nAnswer:\n"),
                ],
            )
        ],
        True,
    ),
    ([dict(role="user", content=[IMAGE, words("[Question]:{Which?}\n[Options]:\nA.{x}\nB.{y}\nAnswer:")])], True),
    ([dict(role="user", content="Just text.")], True),
    ([dict(role="user", content="Just text.")], False),
    (
        [
            dict(role="system", content="Be brief."),
            dict(role="user", content=[words("Two pictures: "), IMAGE, words(" and "), IMAGE]),
        ],
        True,
    ),
    (
        [
            dict(role="user", content="Hi"),
            dict(role="assistant", content="Hello!"),
            dict(role="user", content=[IMAGE, words("What is this?")]),
        ],
        True,
    ),
    (
        [
            dict(role="user", content=[IMAGE, words("Q")]),
            dict(role="assistant", content=[words("Therefore, the answer is A")]),
        ],
        False,
    ),
    ([dict(role="user", content="  spaces kept  \n<b>{{ braces }}</b> & 'quotes' \"too\"")], True),
    ([dict(role="user", content=[])], True),
]
PLAIN_CHATS = [c for c in CHATS if all(isinstance(m["content"], str) for m in c[0])]


def render(template, messages, prompt):
    return render_jinja_template(conversations=[messages], chat_template=template, add_generation_prompt=prompt)[0][0]


def load(folder):
    """The package's tokenizer cut to Qwen2-VL's tokens, with the three latent ones added in the official order."""
    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as file:
        spec = json.load(file)
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["id"] < BASE_TOKENS]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    assert tokenizer.get_vocab_size() == BASE_TOKENS
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in LATENT_TOKENS])
    assert [tokenizer.token_to_id(t) for t in LATENT_TOKENS] == [151657, 151658, 151659]
    return tokenizer


def pieces(tokenizer, ids):
    """What a streaming decoder prints after each id: nothing while a character is still incomplete; the rest comes last."""
    printed, out = "", []
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], skip_special_tokens=True)
        if text.endswith("\ufffd"):
            out.append("")
        else:
            out.append(text[len(printed) :])
            printed = text
    return out


def one_case(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    case = dict(text=text, ids=ids)
    decoded, skipped = (tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True))
    if decoded != text:
        case["decoded"] = decoded
    if skipped != decoded:
        case["skipped"] = skipped
    return case


def make(out, folder):
    tokenizer = load(folder)
    with open(os.path.join(folder, "..", "package.json"), encoding="utf-8") as file:
        package = json.load(file)
    with open(os.path.join(folder, "tokenizer_config.json"), encoding="utf-8") as file:
        package_template = json.load(file)["chat_template"]
    texts = all_texts()
    assert len(texts) == 500 and len(set(texts)) > 490
    chats = []
    for messages, prompt in CHATS:
        text = render(TEMPLATE, messages, prompt)
        full = text.replace("<|image_pad|>", "<|image_pad|>" * 100) + ("<|latent|>" * 3 if prompt else "")
        chats.append(
            dict(
                messages=messages,
                add_generation_prompt=prompt,
                rendered=text,
                image_tokens=100,
                latents=3 if prompt else 0,
                expanded_ids=tokenizer.encode(full, add_special_tokens=False).ids,
            )
        )
    assert (
        chats[1]["rendered"]
        == SYSTEM
        + "<|vision_start|><|image_pad|><|vision_end|>[Question]:{Which?}\n[Options]:\nA.{x}\nB.{y}\nAnswer:"
        + "<|im_end|>\n<|im_start|>assistant\n"
    )
    streams = [
        dict(ids=ids, pieces=pieces(tokenizer, ids))
        for ids in (
            tokenizer.encode(t, add_special_tokens=False).ids
            for t in (
                "\U0001f469\u200d\U0001f4bb and \U0002a6d6 \u0e2a\u0e27\u0e31",
                "Therefore, the answer is B<|im_end|>",
                "\u4e2d\u6587 caf\u00e9 \U0001f680\U0001f680!",
            )
        )
    ]
    header = dict(
        made_with=versions(tokenizers=tokenizers.__version__),
        package=dict(name=package["name"], version=package["version"], file="models/tokenizer.json"),
        drop_added_from=BASE_TOKENS,
        added=LATENT_TOKENS,
        added_ids=[151657, 151658, 151659],
        chat_template=TEMPLATE,
        chats=chats,
        package_chats=[
            dict(messages=m, add_generation_prompt=p, rendered=render(package_template, m, p)) for m, p in PLAIN_CHATS
        ],
        streams=streams,
    )
    write_cases(os.path.join(out, "tokens.json"), header, [one_case(tokenizer, t) for t in texts])
