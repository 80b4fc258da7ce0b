"""qwen3-prompts.json: conversations and questions through Qwen3-VL's processor with the real vocabulary: `text` of the chat template, and ids."""

import os
from numbers_json import versions, write_cases
from plain_answers import WAYS, picture_of, processor_of
from token_cases import IMAGE, QWEN3_TEMPLATE, load, words


def turn(role, *content):
    return dict(role=role, content=content[0] if isinstance(content[0], str) else list(content))


# messages, and the pictures of the picture set that their image parts stand for
ASKED = [
    ([turn("user", IMAGE, words("Which shape is largest?"))], ["photo.jpg"]),
    ([turn("user", IMAGE, words("[Question]:{Which?}\n[Options]:\n(A).{x}\n(B).{größer}\nAnswer:\n"))], ["tall.png"]),
    ([turn("system", "Answer in one word."), turn("user", words("Look: "), IMAGE, words(" and say its colour."))], ["rgba.png"]),
    ([turn("user", words("Hello  there"))], []),
    ([turn("user", words("Before: "), IMAGE, words(" after: "), IMAGE, words("\nWhat changed?"))], ["photo.jpg", "wide.png"]),
    (
        [
            turn("user", IMAGE, IMAGE, words("第二个问题:")),
            turn("assistant", words("Ein Bäcker.\n\n- steht\n- lacht")),
            turn("user", words("warum?"), words(" Et pourquoi pas ?")),
            turn("assistant", words("Two. ")),
            turn("user", IMAGE, words("and here 1234567 + 89 = ?\t")),
        ],
        ["exif-6.jpg", "palette.png", "photo.jpg"],
    ),
]


def make(out, tokenizer_folder):
    processor = processor_of("qwen3", load(tokenizer_folder))
    cases = []
    for messages, names in ASKED:
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        given = processor(text=[text], images=[picture_of(out, name) for name in names] or None, return_tensors="pt")
        tokens = [grid.prod().item() // 4 for grid in given.get("image_grid_thw", [])]
        cases.append(dict(messages=messages, pictures=names, tokens=tokens, text=text, input_ids=given["input_ids"][0].tolist()))
    header = dict(made_with=versions(), template=QWEN3_TEMPLATE, preprocessor=WAYS["qwen3"][3])
    write_cases(os.path.join(out, "qwen3-prompts.json"), header, cases)
