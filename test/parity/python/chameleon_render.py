"""chameleon-render.json and chameleon-tokenizer/: what rows of both tasks become for Chameleon.

A small reference written from the description; inference ids come from transformers' ChameleonProcessor. With a checkout of the official code its
own functions are run on the same rows and must agree: training for both tasks, the inference prompt for ScienceQA (it has none for M3CoT).
"""

import contextlib
import io
import itertools
import json
import logging
import os
from types import SimpleNamespace
import tokenizers
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ChameleonProcessor, PreTrainedTokenizerFast
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil
from numbers_json import versions, write_cases
from render_cases import STAGES, Rows, encode, fitting, function, merged, over_long, pieces_of, rationale_of, stage_plan
from render_rows import m3cot_rows, scienceqa_rows

IMAGE_TOKENS, MAX_TOKENS, CODES = 1024, 1400, 64
MARKERS = ["<racm3:break>", "<eoss>", "<reserved08706>", "<image>"]
LATENT_TOKENS = ["<|start-latent|>", "<|end-latent|>", "<|latent|>"]


def image_code(index):
    """Names as in the published vocabulary: the digits of the code as letters, and Z."""
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(index)) + "Z"


def small_tokenizer():
    """Byte-level BPE with Chameleon's special tokens and post-processor, trained on the rows."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>"] + [image_code(i) for i in range(CODES)] + MARKERS
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + 256 + 700,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [row["question"] + "\n" + row["rationale"] for row in m3cot_rows()]
    tokenizer.train_from_iterator(texts + ["[Question]:{}\n[Options]:\n(A).{}Answer:\nTherefore, the answer is"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def prompt_texts(task, row):
    """Texts with one <image>; official training has the image inside the braces and strips the question's end only."""
    question, choices = row["question"], [c.strip() for c in row["choices"]]
    options = lambda bare: "\n".join((f"{chr(65 + i)}." if bare else f"({chr(65 + i)}).") + "{" + c + "}" for i, c in enumerate(choices))
    heading = f"[Options]:\n{options(task == 'm3cot')}\n"
    plain = f"[Options]:\n{options(False)}\n" if choices else ""
    if task == "scienceqa" and not choices:
        heading = ""
    asked = "[Question]:{" + question.strip() + "}\n"
    return dict(
        official=dict(
            train="[Question]:{<image>" + question.rstrip() + "}\n[Options]:\n" + options(False),
            infer="<image>" + asked + heading + "Answer:",
        ),
        consistent="<image>" + asked + plain + "Answer:\n",
    )


class Processor:
    """transformers' processor around the small tokenizer."""

    def __init__(self, tokenizer):
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", sep_token="<reserved08706>"
        )
        fast.add_special_tokens({"additional_special_tokens": LATENT_TOKENS})
        self.fast = fast
        self.full = ChameleonProcessor(ChameleonImageProcessorPil(size=dict(shortest_edge=16), crop_size=dict(height=16, width=16)), fast, image_seq_length=IMAGE_TOKENS)
        self.image = Image.new("RGB", (16, 16))

    def ids(self, text):
        return self.full(images=self.image, text=text, return_tensors="pt")["input_ids"][0].tolist()


def folded(ids, image):
    """Ids with the image's run as one."""
    at = ids.index(image)
    assert ids[at : at + IMAGE_TOKENS] == [image] * IMAGE_TOKENS and ids.count(image) == IMAGE_TOKENS
    return ids[:at] + ids[at + IMAGE_TOKENS - 1 :]


def make_case(tokenizer, processor, task, row, max_tokens=MAX_TOKENS):
    image, eos, latent = (tokenizer.token_to_id(t) for t in ("<image>", "</s>", "<|latent|>"))
    steps = merged(pieces_of(rationale_of(task, row)), 3)
    prompts = prompt_texts(task, row)
    ids = encode(tokenizer, prompts["official"]["train"])
    step_ids = [encode(tokenizer, step + "\n") for step in steps]
    answer_ids = encode(tokenizer, f"Therefore, the answer is {row['answer']}") + [eos]
    length = len(ids) + IMAGE_TOKENS - 1
    if callable(max_tokens):
        max_tokens = max_tokens(length, step_ids, len(answer_ids))
    kept = step_ids[: fitting(step_ids, max_tokens - length - len(answer_ids))]
    plans = []
    for stage, most, pad in STAGES:
        latents, dropped = stage_plan(stage, most, pad, len(kept))
        plans.append(dict(stage=stage, max_latent_stage=most, pad_latent_to_max=pad, latents=latents, written=list(range(len(kept)))[dropped:]))
    infer = {}
    for profile, text in (("official", prompts["official"]["infer"]), ("consistent", prompts["consistent"])):
        whole = folded(processor.ids(text + "<|latent|>" * 3), image)
        assert whole.count(latent) == 3
        infer[profile] = whole
    return dict(
        task=task,
        row=row,
        max_tokens=max_tokens,
        steps=steps,
        prompts=dict(official=prompts["official"], consistent=prompts["consistent"]),
        prompt_ids=ids,
        infer_ids=infer,
        step_ids=kept,
        truncated=len(step_ids) - len(kept),
        answer_ids=answer_ids,
        plans=plans,
    )


def check_official(folder, tokenizer, processor, cases):
    at = lambda name: os.path.join(folder, "chameleon", name)
    quiet = dict(logging=logging, torch=torch, itertools=itertools)
    process = function(at("chameleon_run_sqa.py"), "process_example")
    get_dataset = function(at("chameleon_dataset.py"), "get_dataset", **quiet)
    get_stage = function(at("chameleon_dataset.py"), "get_cot_latent_dataset", **quiet)
    ask = function(at("infer_chameleon_scienceqa.py"), "format_prompt")
    eos = tokenizer.token_to_id("</s>")
    slat, elat, latent = (tokenizer.token_to_id(t) for t in LATENT_TOKENS)
    encoder = SimpleNamespace(encode=lambda text, add_special_tokens: encode(tokenizer, text), eos_token_id=eos)
    pixels = lambda images, text, return_tensors: dict(pixel_values=torch.zeros(1, 1))

    def tokenized(base, max_length):
        """get_dataset gives the length limit as a default of an inner function: set it there."""

        class Watch(Rows):
            def map(self, work, **options):
                if work.__name__ != "tokenize_sample":
                    return Watch(super().map(work, **options))
                return Rows(work(dict(row), max_length) for row in self)

        return get_dataset(Watch(base), encoder, pixels)

    for case in cases:
        row, task = case["row"], case["task"]
        source = dict(row, image=None)
        if task == "scienceqa":
            assert ask(dict(source))[0] == case["prompts"]["official"]["infer"]
            source = process(source)
            assert source["steps"] == case["steps"]
        else:
            # The question's form is that of the one training script; M3CoT's rationale is split as everywhere.
            source = dict(process(dict(source, lecture="x", solution="")), steps=case["steps"])
        base = tokenized([source], case["max_tokens"])
        image = tokenizer.token_to_id("<image>")
        assert folded(base[0]["question_tokenized"], image) == case["prompt_ids"], row
        assert base[0]["steps_tokenized"] == case["step_ids"], row
        assert base[0]["answer_tokenized"] == case["answer_ids"]
        base[0]["question_tokenized"] = case["prompt_ids"]
        for plan in case["plans"]:
            configs = SimpleNamespace(max_latent_stage=plan["max_latent_stage"], pad_latent_to_max=plan["pad_latent_to_max"])
            made = get_stage(plan["stage"], base, configs, slat, latent, elat)[0]
            rest = [i for step in plan["written"] for i in case["step_ids"][step]] + case["answer_ids"]
            front = case["prompt_ids"] + [latent] * plan["latents"]
            assert made["input_ids"] == front + rest, plan
            assert made["labels"] == [-100] * len(front) + rest, plan


def make(out, official=None):
    tokenizer = small_tokenizer()
    stored = os.path.join(out, "chameleon-tokenizer")
    os.makedirs(stored, exist_ok=True)
    definition = json.loads(tokenizer.to_str())
    with open(os.path.join(stored, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump(definition, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")
    named = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", sep_token="<reserved08706>", tokenizer_class="PreTrainedTokenizerFast")
    with open(os.path.join(stored, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump(named, file, indent=1)
        file.write("\n")
    processor = Processor(tokenizer)
    tokenizer = processor.fast.backend_tokenizer  # now with the latent tokens
    cases = []
    for task, rows in (("m3cot", m3cot_rows()), ("scienceqa", scienceqa_rows())):
        cases += [make_case(tokenizer, processor, task, row) for row in rows]
        limits = over_long(task)
        cases += [make_case(tokenizer, processor, task, row, limit) for row, limit in limits[:-1]]
        long = "A sentence that is repeated until the row is longer than a model may read. " * 60
        row = dict(limits[-1][0], **({"rationale": long} if task == "m3cot" else {"lecture": long}))
        cases.append(make_case(tokenizer, processor, task, row))
        assert sum(case["task"] == task for case in cases) >= 40
    if official:
        with contextlib.redirect_stdout(io.StringIO()):
            check_official(official, tokenizer, processor, cases)
        print(f"the official code agrees on all {len(cases)} rows")
    else:
        print("chameleon-render.json: no --official DIR was given, so the official code was not asked")
    header = dict(
        made_with=versions(tokenizers=tokenizers.__version__),
        image_tokens=IMAGE_TOKENS,
        latent_id=tokenizer.token_to_id("<|latent|>"),
        eos_id=tokenizer.token_to_id("</s>"),
        image_id=tokenizer.token_to_id("<image>"),
        separator_id=tokenizer.token_to_id("<reserved08706>"),
    )
    write_cases(os.path.join(out, "chameleon-render.json"), header, cases)
