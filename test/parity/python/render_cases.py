"""render.json: what rows of both tasks become, by a small reference written from the method's description alone.

With a checkout of the official code its own functions are run on the same rows and must agree wherever they say anything.
"""

import ast
import contextlib
import io
import itertools
import logging
import os
from types import SimpleNamespace
import tokenizers
import torch
from numbers_json import versions, write_cases
from render_rows import m3cot_rows, scienceqa_rows
from token_cases import TEMPLATE, load, render

IMAGE_TOKENS = 5
MAX_TOKENS = 3400
STAGES = [  # stage, max_latent_stage, pad_latent_to_max
    (0, 5, True),
    (1, 5, True),
    (2, 5, False),
    (3, 5, True),
    (5, 5, False),
    (6, 5, True),
    (6, 5, False),
    (3, 2, False),
    (9, 1, True),
]


def rationale_of(task, row):
    if task == "m3cot":
        return row["rationale"]
    lecture, solution = row["lecture"] or "", row["solution"] or ""
    if lecture and solution:
        return (lecture.strip() + " " + solution.strip()).strip()
    return (lecture or solution or str(row["answer"])).strip()


def pieces_of(rationale):
    pieces = rationale.replace("\n", " ").strip().split(". ")
    return pieces[:-1] if pieces[-1] == "" else pieces


def merged(pieces, most):
    if len(pieces) <= most:
        return pieces
    sizes = [len(pieces) // most + (run < len(pieces) % most) for run in range(most)]
    ends = list(itertools.accumulate(sizes))
    return [". ".join(pieces[end - size : end]) for size, end in zip(sizes, ends)]


def prompt_text(profile, task, phase, row):
    question, choices = row["question"].strip(), [c.strip() for c in row["choices"]]
    bare = profile == "official" and task == "m3cot" and phase == "infer"
    options = "\n".join((f"{chr(65 + i)}." if bare else f"({chr(65 + i)}).") + "{" + c + "}" for i, c in enumerate(choices))
    heading = f"[Options]:\n{options}\n"
    if not choices and (profile == "consistent" or (task == "scienceqa" and phase == "infer")):
        heading = ""
    ending = "Answer:" if profile == "official" and phase == "infer" else "Answer:\n"
    return "[Question]:{" + question + "}\n" + heading + ending


def prompt_ids(tokenizer, text):
    message = dict(role="user", content=[dict(type="image"), dict(type="text", text=text)])
    chat = render(TEMPLATE, [message], True)
    return encode(tokenizer, chat.replace("<|image_pad|>", "<|image_pad|>" * IMAGE_TOKENS))


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def fitting(steps, room):
    """The number of first steps whose tokens fit together."""
    sums = list(itertools.accumulate(len(s) for s in steps))
    return sum(total <= room for total in sums)


def stage_plan(stage, most, pad, steps):
    if stage <= most:
        return stage, stage
    return (most if pad else min(steps, most)), steps


def make_case(tokenizer, eos, task, row, max_tokens=MAX_TOKENS, most_steps=3):
    steps = merged(pieces_of(rationale_of(task, row)), most_steps)
    prompts = {p: {ph: prompt_text(p, task, ph, row) for ph in ("train", "infer")} for p in ("official", "consistent")}
    ids = prompt_ids(tokenizer, prompts["official"]["train"])
    step_ids = [encode(tokenizer, step + "\n") for step in steps]
    answer_ids = encode(tokenizer, f"Therefore, the answer is {row['answer']}") + [eos]
    if callable(max_tokens):
        max_tokens = max_tokens(len(ids), step_ids, len(answer_ids))
    kept = step_ids[: fitting(step_ids, max_tokens - len(ids) - len(answer_ids))]
    plans = []
    for stage, most, pad in STAGES:
        latents, dropped = stage_plan(stage, most, pad, len(kept))
        plans.append(dict(stage=stage, max_latent_stage=most, pad_latent_to_max=pad, latents=latents, written=list(range(len(kept)))[dropped:]))
    return dict(
        task=task,
        row=row,
        max_tokens=max_tokens,
        max_steps=most_steps,
        steps=steps,
        prompts=prompts,
        prompt_ids=ids,
        infer_ids={p: prompt_ids(tokenizer, prompts[p]["infer"]) for p in prompts},
        step_ids=kept,
        truncated=len(step_ids) - len(kept),
        answer_ids=answer_ids,
        plans=plans,
    )


def over_long(task):
    """Limits around every border: everything fits exactly, one token too many, room for two, one and no step."""
    limits = [
        lambda p, s, a: p + sum(map(len, s)) + a,
        lambda p, s, a: p + sum(map(len, s)) + a - 1,
        lambda p, s, a: p + len(s[0]) + len(s[1]) + a,
        lambda p, s, a: p + len(s[0]) + a,
        lambda p, s, a: p + len(s[0]) + a - 1,
        lambda p, s, a: 1,
    ]
    text = "First some words. Then more of them. And the last ones"
    row = dict(m3cot_rows()[0], rationale=text) if task == "m3cot" else dict(scienceqa_rows()[0], lecture=text, solution="")
    real = "A sentence that is repeated until the row is longer than a model may read. " * 230
    long = dict(row, rationale=real) if task == "m3cot" else dict(row, lecture=real)
    return [(row, limit) for limit in limits] + [(long, MAX_TOKENS)]


def function(path, name, fix=lambda text: text, **names):
    """A function of a file, wherever it is defined there, with the given names around it and nothing else of the file run."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(fix(file.read()))
    found = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
    module = ast.Module(body=[found], type_ignores=[])
    exec(compile(module, path, "exec"), names)
    return names[name]


class Rows(list):
    features = {}

    def map(self, work, with_indices=False, remove_columns=None, num_proc=None):
        if with_indices:
            return Rows({**row, **work(row, index)} for index, row in enumerate(self))
        return Rows({**({} if remove_columns is not None else row), **work(dict(row))} for row in self)


def check_official(folder, tokenizer, eos, cases):
    def processor(text, **_):
        ids = encode(tokenizer, text[0].replace("<|image_pad|>", "<|image_pad|>" * IMAGE_TOKENS))
        return dict(input_ids=torch.tensor([ids]), image_grid_thw=torch.zeros(1, 3), pixel_values=torch.zeros(1))

    stub = type("Processor", (), {
        "__call__": lambda self, **inputs: processor(**inputs),
        "apply_chat_template": lambda self, messages, **_: render(TEMPLATE, messages, True),
    })()
    at = lambda *parts: os.path.join(folder, *parts)
    mend = lambda text: text.replace('len(sample["steps"])}', "len(sample['steps'])}")  # Python before 3.12
    quiet = dict(logging=logging, torch=torch, itertools=itertools)
    train = function(at("qwen_vl", "qwenvl_run.py"), "process_example", processor=stub, process_vision_info=lambda m: (None, None), torch=torch)
    get_dataset = function(at("qwen_vl", "dataset.py"), "get_dataset", mend, **quiet)
    get_stage = function(at("qwen_vl", "dataset.py"), "get_cot_latent_dataset", mend, **quiet)
    infer = function(at("qwen_vl", "infer.py"), "format_prompt")
    science = function(at("chameleon", "chameleon_run_sqa.py"), "process_example")
    science_infer = function(at("chameleon", "infer_chameleon_scienceqa.py"), "format_prompt")
    encoder = SimpleNamespace(encode=lambda text, add_special_tokens: encode(tokenizer, text), eos_token_id=eos)

    def tokenized(base, max_length):
        """get_dataset gives the length limit as a default of an inner function: set it there."""
        inner = []

        class Watch(Rows):
            def map(self, work, **options):
                if work.__name__ != "tokenize_sample":
                    return Watch(super().map(work, **options))
                inner.append(work)
                return Rows(work(dict(row), max_length) for row in self)

        return get_dataset(Watch(base), encoder, stub)

    for case in cases:
        row, task = case["row"], case["task"]
        source = dict(row, image=None)
        if task == "scienceqa":
            steps = science(dict(source))["steps"]
            assert steps == case["steps"], (steps, case["steps"])
            assert science_infer(dict(source))[0] == "<image>" + case["prompts"]["official"]["infer"]
            source.update(rationale=rationale_of(task, row), answer=str(row["answer"]))
        else:
            assert infer(dict(source))[0] == case["prompts"]["official"]["infer"]
        example = train(dict(source))
        assert example["steps"] == case["steps"], (example["steps"], case["steps"])
        base = tokenized([dict(source, **example)], case["max_tokens"])
        assert base[0]["question_tokenized"].tolist() == case["prompt_ids"]
        assert base[0]["steps_tokenized"] == case["step_ids"], case["row"]
        assert base[0]["answer_tokenized"] == case["answer_ids"]
        base[0]["question_tokenized"] = case["prompt_ids"]
        for plan in case["plans"]:
            configs = SimpleNamespace(max_latent_stage=plan["max_latent_stage"], pad_latent_to_max=plan["pad_latent_to_max"])
            made = get_stage(plan["stage"], base, configs, 151657, 151659, 151658)[0]
            rest = [i for step in plan["written"] for i in case["step_ids"][step]] + case["answer_ids"]
            front = case["prompt_ids"] + [151659] * plan["latents"]
            assert made["input_ids"] == front + rest, plan
            assert made["labels"] == [-100] * len(front) + rest, plan


def make(out, folder, official=None):
    tokenizer = load(folder)
    eos = tokenizer.token_to_id("<|im_end|>")
    cases = []
    for task, rows in (("m3cot", m3cot_rows()), ("scienceqa", scienceqa_rows())):
        cases += [make_case(tokenizer, eos, task, row) for row in rows]
        cases += [make_case(tokenizer, eos, task, row, limit) for row, limit in over_long(task)]
        cases += [make_case(tokenizer, eos, task, row, most_steps=most) for row in rows[5:7] for most in (1, 2, 4, 100)]
        assert sum(case["task"] == task for case in cases) >= 40
    if official:
        with contextlib.redirect_stdout(io.StringIO()):
            check_official(official, tokenizer, eos, [case for case in cases if case["max_steps"] == 3])
        print(f"the official code agrees on {sum(case['max_steps'] == 3 for case in cases)} of {len(cases)} rows, the others use other step limits")
    else:
        print("render.json: no --official DIR was given, so the official code was not asked")
    header = dict(
        made_with=versions(tokenizers=tokenizers.__version__),
        image_tokens=IMAGE_TOKENS,
        latent_id=151659,
        eos_id=eos,
    )
    write_cases(os.path.join(out, "render.json"), header, cases)
