"""smolvlm-folders.json with its folders: a sharded bfloat16 checkpoint as save_pretrained writes it, and a LoRA adapter as PEFT writes it."""

import json
import os
import shutil
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText
from forward_cases import greedy
from numbers_json import rounded, stats, versions
from smolvlm_cases import features_of, pixel_inputs, question, record_of
from smolvlm_model import SHAPES, TOWER, build, text_source

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPES["folder"] = dict(type="smolvlm", hidden=32, layers=2, heads=2, kv=1, inter=48, vocab=320, tile=32, scale=2, tower=dict(TOWER, dim=16, layers=1, mlp=24, image=32, patch=4))
SEED, PICTURE = 91, (1, 2)
TRAINING = dict(lr=1e-3, weight_decay=0.01, steps=5)


def one_row(count):
    dims = SHAPES["folder"]
    text = text_source(SEED, dims)
    row = question(text, dims, [PICTURE], count)
    pixels, drawn = pixel_inputs(SEED, dims, [[PICTURE]])
    return text, row, drawn[0], dict(input_ids=torch.tensor([row]), **pixels)


def sharded(out):
    """Stored in bfloat16; what is expected in float32 is computed from the stored weights."""
    path = os.path.join(out, "smolvlm-bf16-sharded")
    shutil.rmtree(path, ignore_errors=True)
    build(SHAPES["folder"], SEED, tie=True, dtype=torch.bfloat16).save_pretrained(path, max_shard_size="40KB")
    model = AutoModelForImageTextToText.from_pretrained(path, dtype="auto", attn_implementation="eager").eval()
    assert model.dtype == torch.bfloat16
    _, row, tiles, inputs = one_row(19)
    case = record_of("bf16, sharded, tied", "folder", True, SEED, model.float(), [PICTURE])
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        case.update(input_ids=row, features=stats(features_of(model, tiles), 24), last_logits=rounded(model(**inputs).logits[0, -1]))
        case["greedy"], gap = greedy(model, dict(inputs, attention_mask=torch.ones(1, len(row), dtype=torch.long)))
    assert gap > 1e-3
    return dict(case, folder="smolvlm-bf16-sharded", shards=len([n for n in os.listdir(path) if n.endswith(".safetensors")]))


def adapter(out):
    """PEFT on the decoder of the model of the shape `folder` drawn from the seed; the vision tower's projections of the same names have none."""
    path = os.path.join(out, "smolvlm-lora")
    config = LoraConfig(r=2, lora_alpha=6, task_type="CAUSAL_LM", target_modules=TARGETS, exclude_modules=r".*vision_model.*", lora_dropout=0.05, bias="none")
    model = get_peft_model(build(SHAPES["folder"], SEED), config).eval()
    factors = {n.removeprefix("base_model.model.").replace(".default.", "."): p for n, p in model.named_parameters() if ".lora_" in n}
    assert all(".text_model." in n for n in factors)
    torch.manual_seed(SEED + 3)
    with torch.no_grad():
        for name in sorted(factors):
            factors[name].copy_(torch.randn(factors[name].shape) * 0.5 / factors[name].shape[1] ** 0.5)
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    file = os.path.join(path, "adapter_config.json")
    with open(file, encoding="utf-8") as stream:
        config = json.load(stream)
    config.update(base_model_name_or_path="base", target_modules=TARGETS)
    with open(file, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(config, indent=2) + "\n")
    text, row, _, inputs = one_row(17)
    answer = text.ids(11)
    case = record_of("LoRA", "folder", False, SEED, build(SHAPES["folder"], SEED), [PICTURE])
    labels = [-100] * len(row) + answer
    given = dict(inputs, input_ids=torch.tensor([row + answer]))
    with torch.no_grad():
        adapted = rounded(model(**given).logits[0, -1])
        with model.disable_adapter():
            plain = rounded(model(**given).logits[0, -1])
    optimiser = torch.optim.AdamW(list(factors.values()), lr=TRAINING["lr"], weight_decay=TRAINING["weight_decay"])
    losses = []
    for _ in range(TRAINING["steps"]):
        loss = model(**given, labels=torch.tensor([labels])).loss
        loss.backward()
        losses.append(rounded(loss.item()))
        optimiser.step()
        optimiser.zero_grad()
    case.update(input_ids=row + answer, labels=labels, plain=plain, adapted=adapted)
    return dict(case, adapter="smolvlm-lora", training=dict(TRAINING, losses=losses))


def make(out):
    with open(os.path.join(out, "smolvlm-folders.json"), "w", encoding="utf-8") as file:
        json.dump(dict(made_with=versions(), sharded=sharded(out), lora=adapter(out)), file, separators=(",", ":"))
        file.write("\n")
