"""Five hundred varied strings: what tokenizers get wrong, official prompts, and random mixtures (seeded)."""

import random
import string

BASIC = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\t\t\t", " \n", "\n ", "  \n  \n", "a", " a", "a ",
    "  a  ", "\ta\n", "Hello, world!", "hello world", "HELLO WORLD", "The quick brown fox jumps over the lazy dog.",
    "don't won't I'll we've they're I'm he'd it's", "DON'T WON'T I'LL WE'VE THEY'RE I'M HE'D IT'S",
    "'s 't 're 've 'm 'll 'd", "o'clock 'tis rock'n'roll", "'S'T'RE'VE'M'LL'D", "it\u2019s don\u2019t",
    "\u017f '\u017f it'\u017f", "0", "7", "42", "123", "1234567890", "3.14159", "-273.15", "1,000,000", "1e-9",
    "0x1F600", "2026-11-22T15:06:22Z", "192.168.0.1", "50%", "$19.99", "H2O CO2 x\u00b2 y\u2083",
    "\u0661\u0662\u0663 \u096a\u096b \u216b \u00bd \u2460", "a1b2c3", "v1.2.3-rc.4+build.5", "ABCdefGHI",
    "snake_case_name", "camelCaseName", "kebab-case-name", "SCREAMING_SNAKE", "http://example.org/a/b?c=d&e=f#g",
    "me@example.org", "!", "!!", "!!!", "...", "....", "?!?!", "---", "***", "###", "@@@", "(((", ")))", "[[]]",
    "{{}}", "{{{x}}}", "<<>>", "<|", "|>", "<||>", "\\n", "\\\\", '"quoted"', "'single'", "`code`", "``", "```",
    "~~~", "^_^", "a!b?c.d,e;f:g", "!\n", "...\n\n\n", "?\r\n", " !\n x", "word.\nNext", "end).\r\n\r\nStart",
    ",\n\t,", ":\n\n- a\n- b", "x" * 40, "ab" * 50, " " * 17, " " * 64, "\n" * 9, "\n" * 40, "\t" * 12, " \t" * 10,
    "\n \n \n", "   x   y   z   ", "a\u00a0b", "\u00a0\u00a0", "a\u3000b", "\u2003\u2009x", "a\u200bb", "\ufeffstart",
    "a\u2028b\u2029c", "x\u0085y", "\u000b\u000c", "a\u00adb", "\u0000", "a\u0000b", "\u0001\u0002\u001f", "\u007f",
    "\ufffd", "\ufffd\ufffdx", "\U0010fffd", "\ue000 private", "\u202eright to left\u202c", "caf\u00e9", "cafe\u0301",
    "\u00c5 A\u030a \u212b", "e\u0301e\u0301e\u0301", "\u1e9b\u0323", "\u0344", "\u0958 \u0915\u093c",
    "\ufb01 \ufb03 \ufb4b", "\u1112\u1161\u11ab", "\ud55c", "\uac00\u11a8", "\u0061\u0315\u0300\u05ae\u0062",
    "n\u0303o\u0308", "Z\u0351\u036b\u0343a\u0306l\u0311g\u034a\u0313o\u0310", "\u0130stanbul I\u0307 \u0131",
    "stra\u00dfe STRASSE \u1e9e", "Stra\u00dfe, \u00c4pfel, \u00d6l, \u00fcber",
    "\u00bfQu\u00e9 tal? \u00a1Ma\u00f1ana!", "\u00c0 bient\u00f4t, \u0153uvre, na\u00efve",
    "Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144",
    "P\u0159\u00edli\u0161 \u017elu\u0165ou\u010dk\u00fd k\u016f\u0148", "\u0130yi ak\u015famlar",
    "Ti\u1ebfng Vi\u1ec7t c\u00f3 d\u1ea5u", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u0397 \u03b3\u03bb\u03ce\u03c3\u03c3\u03b1", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u0645\u064f\u062d\u064e\u0645\u0651\u064e\u062f",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0", "\u12a0\u121b\u122d\u129b",
    "\u1019\u103c\u1014\u103a\u1019\u102c", "\u4f60\u597d\uff0c\u4e16\u754c\uff01",
    "\u4e2d\u6587\u548cEnglish\u6df7\u5408\u6587\u672c123",
    "\u5982\u56fe\u6240\u793a\uff0c\u6c42\u4e09\u89d2\u5f62\u7684\u9762\u79ef\u3002",
    "\u7e41\u9ad4\u4e2d\u6587\u6e2c\u8a66", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c",
    "\u30ab\u30bf\u30ab\u30ca \u3072\u3089\u304c\u306a \u6f22\u5b57", "\u304b\u3099 \u30cf\u309a",
    "\uff8a\uff9d\uff76\uff78 \uff21\uff22\uff23\uff11\uff12", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\U00020000\U0002a6d6 \u3400", "\u300c\u5f15\u7528\u300d\u3010\u62ec\u53f7\u3011\u300a\u4e66\u300b", "\U0001f600",
    "\U0001f600\U0001f601\U0001f602", "I \u2764\ufe0f you", "\U0001f469\u200d\U0001f4bb",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea\U0001f1ef\U0001f1f5", "1\ufe0f\u20e3 #\ufe0f\u20e3", "a\U0001f600b \U0001f680c",
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", "\u263a\u2639\u2713\u2717\u2605",
    "\U0001d54f\U0001d7d8 \U0001d4d0", "\u2200x\u2208\u211d: x\u00b2\u22650 \u21d2 \u221a(x\u00b2)=|x|",
    "\u222b\u2080^\u221e e^{-x\u00b2}dx = \u221a\u03c0/2", "\\frac{a}{b} \\sum_{i=1}^{n} x_i^2", "$$E = mc^2$$",
    "\u2190\u2191\u2192\u2193 \u2588\u2593\u2592\u2591 \u250c\u2500\u2510", "def f(x):\n    return x ** 2\n",
    "for (let i = 0; i < n; ++i) {\n\ta[i] += `${i}`;\n}\n", "#include <stdio.h>\nint main(void) { return 0; }",
    "SELECT * FROM t WHERE a >= 10 AND b LIKE '%x_%';", '<div class="a b">&nbsp;&lt;</div>\n<!-- c -->',
    '{"key": [1, 2.5, null, true], "\\u00e9": "x\\ny"}', "if __name__ == '__main__':\n        main()\n\n\n",
    "a = b if c else d  # why?", "fn main() -> Result<(), Box<dyn Error>> { Ok(()) }",
    "| a | b |\n|---|---|\n| 1 | 2 |", "\t\tif (x) {\r\n\t\t\treturn;\r\n\t\t}", 'let s = "\\u{1F600}";',
    "rm -rf ./build && make -j2 2>&1 | tee log.txt", "x=1;y=2;;z", "/* c */ // d", "a->b::c.d?.e!.f",
    "#!/usr/bin/env python3\n# -*- coding: utf-8 -*-",
]

SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|latent|>", "<|latent|><|latent|><|latent|>",
    "<|start-latent|><|latent|><|end-latent|>", "<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>" * 5,
    "text<|im_end|>text", " <|im_end|> ", "a <|latent|> b", "\n<|latent|>\n", "<|im_start|>user\nHi<|im_end|>\n",
    "<|im_start|><|im_start|>", "<|im_start", "im_end|>", "<|im_END|>", "<| im_end |>", "<|latent |>",
    "<|video_pad|>x<|vision_pad|>", "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
    "<|quad_start|><|quad_end|>", "caf\u00e9<|im_end|>caf\u0065\u0301", "\u4f60\u597d<|endoftext|>\u4e16\u754c",
    "<|<|im_end|>|>", "<|fim_prefix|>a<tool_call>b</tool_call>",
]

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
QUESTIONS = [
    ("Which material is this spatula made of?", ["rubber", "cotton"]),
    ("What is the area of the shaded region?\n", ["12 cm\u00b2", " 16\u03c0 ", "3/4", "None of the above"]),
    ("\u4e0b\u5217\u54ea\u9879\u6b63\u786e\uff1f", ["\u7532", "\u4e59", "\u4e19", "\u4e01"]),
    ("Is the object {round}?", ["yes", "no"]),
    ("", ["only one"]),
    ("How many dots are on the domino next to the [red] one?", ["1", "2", "3", "4", "5", "6"]),
]


def prompts():
    """The prompts of both phases, as strings, with a few image tokens."""
    made = []
    for question, choices in QUESTIONS:
        q, letters = "{" + question.strip() + "}", string.ascii_uppercase
        plain = "\n".join(f"{letters[i]}.{{{c.strip()}}}" for i, c in enumerate(choices))
        braced = "\n".join(f"({letters[i]}).{{{c.strip()}}}" for i, c in enumerate(choices))
        bodies = [
            f"[Question]:{q}\n[Options]:\n{braced}\nAnswer:\n",
            f"[Question]:{q}\n[Options]:\n{plain}\nAnswer:",
            f"[Question]:{q}\n[Options]:\n{braced}\nAnswer:",
            f"[Question]:{q}\nAnswer:",
        ]
        for i, body in enumerate(bodies):
            head = SYSTEM + "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
            made.append(head + body + "<|im_end|>\n<|im_start|>assistant\n" + "<|latent|>" * i)
            made.append(body)
    steps = [
        "The picture shows a spatula",
        "Rubber bends easily and does not melt at low heat",
        "So the answer must be a material that bends.",
        "Step 1: 3 \u00d7 4 = 12",
    ]
    made += [s + "\n" for s in steps] + [
        "Therefore, the answer is A<|im_end|>",
        "Therefore, the answer is 2<|im_end|>",
        "Therefore, the answer is B",
    ]
    return made


def mixtures(count):
    """Random pieces glued together: borders between scripts, spaces, digits and special tokens."""
    rng, made = random.Random(20260), []
    words = [w for text in BASIC for w in text.split(" ") if 0 < len(w) < 12]
    spaces = [" ", "  ", "\n", "\n\n", "\t", "", "", " ", "\r\n", "\u00a0", "   "]
    ranges = [
        (0x20, 0x7E),
        (0xA1, 0x24F),
        (0x300, 0x36F),
        (0x370, 0x4FF),
        (0x590, 0x6FF),
        (0x900, 0x97F),
        (0xE00, 0xE7F),
        (0x1100, 0x11FF),
        (0x2000, 0x206F),
        (0x2190, 0x22FF),
        (0x3040, 0x30FF),
        (0x4E00, 0x9FFF),
        (0xAC00, 0xD7A3),
        (0xFF00, 0xFFEF),
        (0x1F300, 0x1F6FF),
    ]
    while len(made) < count:
        kind, parts = rng.randrange(4), []
        for _ in range(rng.randint(1, 12)):
            low, high = rng.choice(ranges)
            piece = {
                0: rng.choice(words),
                1: "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))),
                2: rng.choice(words + SPECIAL[:8]),
                3: str(rng.randint(0, 10 ** rng.randint(1, 9))),
            }[kind if rng.random() < 0.7 else rng.randrange(4)]
            parts += [piece, rng.choice(spaces)]
        made.append("".join(parts))
    return made


def all_texts():
    texts = list(dict.fromkeys(BASIC + SPECIAL + prompts()))
    return texts + mixtures(500 - len(texts))
