"""official-checkpoint/: tiny checkpoints as the official code's training leaves them, and what the official code does with them.

The files are written by torch.save from the official class around a PEFT model: three tokens added, the embedding resized, LoRA on the decoder's
projections with a non-zero B. Keys are those of the transformers of the time (`model.layers.*`, `visual.*`) or today's.
"""

import contextlib
import io
import json
import os
import shutil
import torch
import peft
from peft import LoraConfig, get_peft_model
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
import official_qwen
from numbers_json import rounded, versions, write_cases
from tiny_model import SHAPES, TextSource, draw, draw_pixels, flat_config, hub_name, image_tokens

NEW_TOKENS = 12
RANK, ALPHA = 8, 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENIZER_ENTRIES = 317  # stands for Qwen2-VL's 151657
BASE_ROWS = 336  # stands for 151936 and 152064
SPECIALS = dict(eos=310, vstart=313, vend=314, image=315, video=316, slat=317, elat=318, latent=319)
ADDED = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

# name, tied, rows of the embedding, dtype of the frozen weights, key style, key prefix
FILES = [
    ("shrunk", False, TOKENIZER_ENTRIES + 3, torch.float32, "old", ""),
    ("module-tied-bf16", True, BASE_ROWS, torch.bfloat16, "new", "module."),
]

# T latent steps, K patches, grid (height, width), text tokens; five prompts a file
PROMPTS = [(3, 8, (12, 20), 30), (3, 32, (20, 20), 45), (2, 5, (8, 12), 17), (1, 12, (16, 12), 22), (3, 3, (8, 8), 9)]


def config_of(tie, rows):
    flat = flat_config(dict(SHAPES["gqa"], layers=2, vdepth=1, vocab=rows), tie)
    flat.update(
        vocab_size=rows,
        bos_token_id=SPECIALS["eos"],
        eos_token_id=SPECIALS["eos"],
        vision_start_token_id=SPECIALS["vstart"],
        vision_end_token_id=SPECIALS["vend"],
        image_token_id=SPECIALS["image"],
        video_token_id=SPECIALS["video"],
        vision_token_id=SPECIALS["video"],
    )
    return flat


def tokenizer_json(special=ADDED):
    """A byte-level BPE of 256 bytes, merges up to the first special token, and the family's special tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    signs = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    vocabulary, merges = {sign: i for i, sign in enumerate(signs)}, []
    for first in "etaoinshr":
        for second in "etaoin":
            vocabulary[first + second] = len(vocabulary)
            merges.append(f"{first} {second}")
    assert len(vocabulary) == SPECIALS["eos"]
    added = [
        dict(
            id=SPECIALS["eos"] + i,
            content=c,
            single_word=False,
            lstrip=False,
            rstrip=False,
            normalized=False,
            special=True,
        )
        for i, c in enumerate(special)
    ]
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=False, use_regex=True)
    model = dict(
        type="BPE",
        dropout=None,
        unk_token=None,
        continuing_subword_prefix="",
        end_of_word_suffix="",
        fuse_unk=False,
        byte_fallback=False,
        ignore_merges=False,
        vocab=vocabulary,
        merges=merges,
    )
    return dict(
        version="1.0",
        truncation=None,
        padding=None,
        added_tokens=added,
        normalizer=None,
        pre_tokenizer=level,
        post_processor=None,
        decoder=level,
        model=model,
    )


def bare(tie, rows):
    config = Qwen2VLConfig(**{k: v for k, v in config_of(tie, rows).items() if k != "torch_dtype"})
    config._attn_implementation = "eager"
    model = Qwen2VLForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    return model


def with_adapters(model, rows):
    """In the order of the official training script: adapters first, then the embedding gets another size."""
    lora = LoraConfig(
        task_type="CAUSAL_LM", target_modules=TARGETS, r=RANK, lora_alpha=ALPHA, lora_dropout=0.05, bias="none"
    )
    model = get_peft_model(model, lora)
    if rows != BASE_ROWS:
        model.resize_token_embeddings(rows)
    return model.eval()


def official_network(official, backbone, patches=8):
    ids = SPECIALS
    return official(
        backbone,
        ids["latent"],
        ids["slat"],
        ids["elat"],
        ids["eos"],
        ids["image"],
        ids["vstart"],
        ids["vend"],
        num_selected_patches=patches,
    )


def old_name(name):
    return name.replace(".model.language_model.", ".model.", 1).replace(".model.visual.", ".visual.", 1)


def stored_state(official, tie, rows, dtype, style, prefix, seed):
    torch.manual_seed(seed)
    model = bare(tie, BASE_ROWS)
    named = {hub_name(n): p for n, p in model.named_parameters()}
    with torch.no_grad():
        for name in sorted(named):
            named[name].copy_(draw(name, tuple(named[name].shape)))
    model = with_adapters(model, rows)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.15 if ".lora_B" in name else 0.1)
            else:
                parameter.data = parameter.data.to(dtype)
    state = official_network(official, model).state_dict()
    assert "embedding.weight" in state and any(k.endswith(".lora_B.default.weight") for k in state)
    return {prefix + (old_name(k) if style == "old" else k): v.detach() for k, v in state.items()}


def load_as_official(official, path, tie, rows, style):
    """torch.load, the prefix taken away, load_state_dict(strict=True): in float32, where numbers can be compared."""
    model = with_adapters(bare(tie, BASE_ROWS), rows)
    network = official_network(official, model)
    state = {k.removeprefix("module."): v for k, v in torch.load(path, map_location="cpu").items()}
    wanted = network.state_dict().keys()
    names = {old_name(k) if style == "old" else k: k for k in wanted}
    network.load_state_dict({names[k]: v for k, v in state.items()}, strict=True)
    return model


def run(official, model, row, seed):
    latents, patches, grid, count = row
    backbone = official_qwen.Backbone(model.base_model.model)
    network = official_network(official, backbone, patches)
    official_qwen.picks.clear()
    official_qwen.gaps.clear()
    words = TextSource(seed, SPECIALS["eos"] + 16).ids(count)
    image = [SPECIALS["vstart"]] + [SPECIALS["image"]] * image_tokens(grid) + [SPECIALS["vend"]]
    input_ids = words[: count // 3] + image + words[count // 3 :] + [SPECIALS["latent"]] * latents
    pixels, thw = draw_pixels(seed, [grid])
    given = torch.tensor([input_ids])
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        out = network.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            pixel_values=pixels,
            image_grid_thw=thw,
            max_new_tokens=NEW_TOKENS,
        )
    tokens = out[0, len(input_ids) :].tolist()
    rows = backbone.last_rows[latents : latents + len(tokens)]
    assert [int(r.argmax()) for r in rows] == tokens and len(official_qwen.picks) == latents
    top = torch.stack(rows).topk(2, dim=-1).values
    gaps = dict(
        logit=rounded((top[:, 0] - top[:, 1]).min().item()),
        pick=rounded(min(g[0] for g in official_qwen.gaps)),
        order=rounded(min(g[1] for g in official_qwen.gaps)),
    )
    record = dict(
        seed=seed,
        latents=latents,
        patches=patches,
        image_grid_thw=[[1, *grid]],
        input_ids=input_ids,
        picked=[list(p) for p in official_qwen.picks],
        new_tokens=tokens,
        last_logits=rounded(rows[0]),
        gaps=gaps,
    )
    return record, gaps["logit"] > 1e-3 and gaps["pick"] > 1e-6 and gaps["order"] > 5e-8


def merged_weights(model, dtype):
    """Per adapted weight what PEFT's merge gives, in float32 and in the dtype of the file."""
    merged = {}
    for part, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            delta = module.get_delta_weight("default").detach()
            # As PEFT's merge: in place, in the dtype the weight has.
            sums = {}
            for dtype_name, start in (
                ("float32", module.base_layer.weight.data.clone()),
                ("stored", module.base_layer.weight.data.to(dtype, copy=True)),
            ):
                start += delta
                sums[dtype_name] = dict(
                    abs_sum=rounded(start.double().abs().sum().item()), first=rounded(start.flatten()[:4].float())
                )
            merged[hub_name(part) + ".weight"] = sums
    return merged


def make(out, checkout):
    official, cases, files = official_qwen.load(checkout), [], {}
    folder = os.path.join(out, "official-checkpoint")
    shutil.rmtree(folder, ignore_errors=True)
    for index, (name, tie, rows, dtype, style, prefix) in enumerate(FILES):
        base = os.path.join(folder, f"base-{'tied' if tie else 'untied'}")
        os.makedirs(base, exist_ok=True)
        for file, content in (
            ("config.json", config_of(tie, BASE_ROWS)),
            ("tokenizer.json", tokenizer_json()),
            ("tokenizer_config.json", dict(eos_token="<|endoftext|>")),
        ):
            with open(os.path.join(base, file), "w", encoding="utf-8") as stream:
                stream.write(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
        path = os.path.join(folder, f"{name}.pth")
        torch.save(stored_state(official, tie, rows, dtype, style, prefix, 40 + index), path)
        model = load_as_official(official, path, tie, rows, style)
        merged = merged_weights(model, dtype)
        files[name] = dict(
            file=f"{name}.pth",
            base=os.path.basename(base),
            rows=rows,
            tied=tie,
            alpha=ALPHA,
            rank=RANK,
            tensors=len(torch.load(path)),
            merged=merged,
        )
        for number, row in enumerate(PROMPTS):
            for seed in range(30000 + 1000 * index + 100 * number, 40000):
                record, safe = run(official, model, row, seed)
                if safe:
                    break
            print(f"  {name}, prompt {number}: seed {record['seed']}, gaps {record['gaps']}", flush=True)
            cases.append(
                dict(
                    name=f"{name}, T {row[0]}, K {row[1]}, {row[2][0]}x{row[2][1]}",
                    checkpoint=name,
                    ids=SPECIALS,
                    **record,
                )
            )
    header = dict(made_with=versions(peft=peft.__version__), dtype="float32", max_new_tokens=NEW_TOKENS, files=files)
    write_cases(os.path.join(folder, "cases.json"), header, cases)
