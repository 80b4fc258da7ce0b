"""Rows of both tasks for render.json: one for every rule of rendering, then random mixtures (seeded)."""

import random

WORDS = (
    "leaf stone river the a of heat metal which moves under pressure {x} {{y}} (A). A. 3.5 e.g. i.e. etc. Größe café "
    "数学 光合作用 🚀 👩‍💻 Ω→∞ naïve “quoted” it's don't [Options]: Answer: \\n \\frac{1}{2} $x^2$ <b> & ... end. So. "
    "Therefore, the answer is B"
).split(" ")
SPACE = "\u00a0\u2003 \t"  # Python strips these, JavaScript's trim agrees; U+001C..1F and U+0085 are where they differ
ODD = "\x1c\x1d\x85"

RATIONALES = [
    "One step only",
    "One. Two",
    "One. Two. Three",
    "One. Two. Three. Four",
    "One. Two. Three. Four. Five",
    "One. Two. Three. Four. Five. Six",
    "A. B. C. D. E. F. G. H. I. J. K",
    "Ends with a stop. Like this.",
    "Ends with a stop and a space. Like this. ",
    "Ends twice. Like this. . ",
    "Empty. . middle",
    ". starts empty",
    "Double.  space",
    "Line\nbreaks.\nare spaces. \nyes\n",
    "\n\n leading and trailing \n\n",
    "Number 3.14 is no border, 3. 14 is one",
    "e.g. abbreviations. i.e. borders too. etc.",
    "Tabs.\tare no spaces. here",
    "Windows\r\nline ends.\r\nstay. half",
    "braces {like} {{this}} stay. {0} %s $1 too",
    "Grüße. 数学は楽しい。 日本語の句点。 ここ. 👩‍💻🚀. e\u0301 stays",
    "No-break\u00a0space.\u00a0stays inside",
    SPACE + "white space around. it" + SPACE,
    ODD + "odd white space around. it" + ODD,
    "Therefore, the answer is C. <b>not</b> markup. Answer: D",
    "",
    " \n ",
    ".",
    ". ",
]

QUESTIONS = [
    "Which is it?",
    "  spaces around  ",
    "{braces} in the {{question}}",
    "Ends with a newline\n",
    "Two\nlines?",
    "",
    "Größe — 数学 🚀?",
    "[Question]:{no} [Options]: (A).{x}\nAnswer:",
    ODD + "odd space" + ODD,
]

CHOICES = [
    ["oak", "ash"],
    ["a", "b", "c"],
    ["a", "b", "c", "d"],
    ["one", "two", "three", "four", "five"],
    [],
    [" spaces ", "\nlines\n", ""],
    ["{x}", "}{", "{{y}}"],
    ["Größe", "数学", "🚀👩‍💻", "e\u0301"],
    ["(A). A", "Answer:", "\\n"],
    ["only one"],
]


def sentence(draw, length):
    return " ".join(draw.choice(WORDS) for _ in range(length))


def m3cot_rows():
    draw = random.Random(7)
    rows = []
    for index, rationale in enumerate(RATIONALES):
        rows.append(dict(question=QUESTIONS[index % len(QUESTIONS)], choices=CHOICES[index % len(CHOICES)], rationale=rationale))
    for index in range(18):
        rationale = ". ".join(sentence(draw, draw.randint(1, 25)) for _ in range(draw.randint(1, 9)))
        choices = [sentence(draw, draw.randint(1, 5)) for _ in range(index % 6)]
        rows.append(dict(question=sentence(draw, draw.randint(3, 40)), choices=choices, rationale=rationale))
    for index, row in enumerate(rows):
        row.update(id=f"m3cot-{index}", answer=chr(65 + index % max(1, len(row["choices"]))), domain="science", topic="t")
    return rows


def scienceqa_rows():
    draw = random.Random(8)
    pairs = [
        ("A lecture. With two sentences.", "A solution."),
        ("", "Only a solution. Here"),
        ("Only a lecture. Here", ""),
        ("", ""),
        (None, None),
        (None, "Only a solution"),
        ("Only a lecture", None),
        (" padded lecture \n", "\n padded solution "),
        ("   ", "a solution after white space"),
        ("a lecture before white space", "   "),
        ("  ", ""),
        ("", " \n"),
        ("Ends with a stop. ", ". starts with one"),
        ("One. Two. Three", "Four. Five. Six. Seven"),
        (ODD + "odd", "white space" + ODD),
    ]
    rows = [dict(lecture=lecture, solution=solution) for lecture, solution in pairs]
    rows += [dict(lecture=text, solution=RATIONALES[-1 - index]) for index, text in enumerate(RATIONALES[5:24])]
    for _ in range(10):
        parts = [". ".join(sentence(draw, draw.randint(1, 20)) for _ in range(draw.randint(0, 6))) for _ in range(2)]
        rows.append(dict(lecture=parts[0], solution=parts[1]))
    for index, row in enumerate(rows):
        choices = CHOICES[index % len(CHOICES)]
        row.update(question=QUESTIONS[index % len(QUESTIONS)], choices=choices, answer=index % max(1, len(choices)))
        row.update(hint="" if index % 3 else "Look.", grade=f"grade{index % 12 + 1}", subject="natural science")
        row.update(topic="biology", category="Plants", skill="Tell apart")
    return rows
