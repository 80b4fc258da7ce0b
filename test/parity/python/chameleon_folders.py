"""chameleon-folders.json with its folders: a sharded checkpoint, a LoRA adapter as PEFT writes it, and an official checkpoint (model.pth).

What transformers, PEFT and the official code compute after reading each of them.
"""

import contextlib
import io
import json
import os
import shutil
import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import ChameleonForConditionalGeneration
import official_chameleon
import official_qwen
from chameleon_cases import CLEAR_CODE, record_of
from chameleon_model import (
    SHAPES,
    bare,
    build,
    codes_of,
    draw_pictures,
    draw_weights,
    flat_config,
    image_tokens,
    special_ids,
    text_source,
)
from chameleon_official import CLEAR_ORDER, CLEAR_PICK, prompt
from forward_cases import greedy
from numbers_json import rounded, versions
from official_cases import clear
from official_checkpoint import ALPHA, RANK, TARGETS, merged_weights, tokenizer_json

SMALL = dict(base=32, mult=[1, 1], blocks=1, attn=None, type="vanilla", codes=64, embed=16, latent=16, res=32)
SHAPES["folder"] = dict(hidden=32, layers=2, heads=2, kv=1, inter=48, vocab=320, vq=SMALL)
# stands for the 65536 entries of the tokenizer and the embedding's rows alike
ENTRIES = 317
SHAPES["checkpoint"] = dict(SHAPES["folder"], hidden=64, heads=4, kv=4, inter=96, vocab=ENTRIES, vq=SHAPES["full"]["vq"])
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<racm3:break>", "<eoss>", "<reserved08706>", "<image>"]
IDS = dict(image=316, slat=317, elat=318, latent=319, eos=312)
SEED, STEPS, NEW_TOKENS = 81, 8, 12
LORA = dict(task_type="CAUSAL_LM", target_modules=TARGETS, lora_dropout=0.05, bias="none")
TRAINING = dict(lr=1e-3, weight_decay=0.01, steps=5)
PROMPTS = [(3, 64, 30), (2, 17, 21), (1, 64, 12)]


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def one_row(dims, seed, count):
    text, ids = text_source(seed, dims), special_ids(dims["vocab"])
    row = prompt(text, dims, count, ids)
    return text, row, dict(input_ids=torch.tensor([row]), pixel_values=draw_pictures(seed, 1, dims["vq"]["res"]))


def last_logits(model, inputs, kept):
    return rounded(model(**inputs).logits[0, -1, kept].float())


def kept_ids(model):
    masked = model.model.vocabulary_mapping.image_tokens
    return masked, [i for i in range(model.config.vocab_size) if i not in masked]


def sharded(out):
    """Stored in bfloat16; what is expected in float32 is computed from the stored weights."""
    dims = SHAPES["folder"]
    path = fresh(os.path.join(out, "chameleon-bf16-sharded"))
    build(dims, SEED, dtype=torch.bfloat16).save_pretrained(path, max_shard_size="100KB")
    model = ChameleonForConditionalGeneration.from_pretrained(path, dtype="auto", attn_implementation="eager").eval()
    assert model.dtype == torch.bfloat16
    _, row, inputs = one_row(dims, SEED, 19)
    masked, kept = kept_ids(model)
    case = record_of("bf16, sharded", "folder", False, SEED, model.float(), 1)
    with torch.no_grad():
        codes, gap = codes_of(model, inputs["pixel_values"])
        assert gap > CLEAR_CODE
        case.update(input_ids=row, masked=masked, codes=codes, last_logits=last_logits(model, inputs, kept))
        model.generation_config.eos_token_id = None
        case["greedy"], gap = greedy(model, dict(inputs, attention_mask=torch.ones(1, len(row), dtype=torch.long)))
        assert gap > 1e-3
    names = sorted(k for f in os.listdir(path) if f.endswith(".safetensors") for k in load_file(os.path.join(path, f)))
    return dict(case, folder="chameleon-bf16-sharded", tensors=len(names), names=[n for n in names if "vqmodel" not in n])


def adapter(out):
    """PEFT on the model of the shape `folder` drawn from the seed."""
    dims, path = SHAPES["folder"], os.path.join(out, "chameleon-lora")
    model = get_peft_model(build(dims, SEED), LoraConfig(r=2, lora_alpha=6, **LORA)).eval()
    factors = {n.removeprefix("base_model.model.").replace(".default.", "."): p for n, p in model.named_parameters() if ".lora_" in n}
    factors = {n: factors[n] for n in sorted(factors)}
    torch.manual_seed(SEED + 3)
    with torch.no_grad():
        for p in factors.values():
            p.copy_(torch.randn(p.shape) * 0.5 / p.shape[1] ** 0.5)
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    file = os.path.join(path, "adapter_config.json")
    with open(file, encoding="utf-8") as stream:
        config = json.load(stream)
    config.update(base_model_name_or_path="base", target_modules=TARGETS)
    with open(file, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(config, indent=2) + "\n")
    text, question, inputs = one_row(dims, SEED, 17)
    answer = text.ids(11)
    masked, kept = kept_ids(model.base_model.model)
    case = record_of("LoRA", "folder", False, SEED, build(dims, SEED), 1)
    row, labels = question + answer, [-100] * len(question) + answer
    given = dict(inputs, input_ids=torch.tensor([row]))
    with torch.no_grad():
        adapted = last_logits(model, given, kept)
        with model.disable_adapter():
            plain = last_logits(model, given, kept)
    optimiser = torch.optim.AdamW(list(factors.values()), lr=TRAINING["lr"], weight_decay=TRAINING["weight_decay"])
    losses = []
    for _ in range(TRAINING["steps"]):
        loss = model(**given, labels=torch.tensor([labels])).loss
        loss.backward()
        losses.append(rounded(loss.item()))
        optimiser.step()
        optimiser.zero_grad()
    case.update(input_ids=row, labels=labels, masked=masked, plain=plain, adapted=adapted)
    return dict(case, adapter="chameleon-lora", training=dict(TRAINING, losses=losses))


def base_config():
    config = flat_config(SHAPES["checkpoint"])
    config["vocabulary_map"]["<image>"] = IDS["image"]
    config.update(eos_token_id=IDS["eos"])
    return config


def with_adapters(seed):
    """In the order of the official training script: adapters first, then three rows more."""
    model = bare(SHAPES["checkpoint"])
    model.model.vocabulary_mapping.vocab_map["<image>"] = IDS["image"]
    model.model.vocabulary_mapping.image_token_id = IDS["image"]
    if seed is not None:
        draw_weights(model, seed)
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, **LORA))
    model.resize_token_embeddings(ENTRIES + 3)
    return model.eval()


def checkpoint(out, checkout):
    official = official_chameleon.load(checkout)
    folder = fresh(os.path.join(out, "chameleon-checkpoint"))
    base = fresh(os.path.join(folder, "base"))
    for file, content in (
        ("config.json", base_config()),
        ("tokenizer.json", tokenizer_json(SPECIAL_TOKENS)),
        ("tokenizer_config.json", dict(eos_token="</s>")),
    ):
        with open(os.path.join(base, file), "w", encoding="utf-8") as stream:
            stream.write(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
    torch.manual_seed(SEED)
    model = with_adapters(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.15 if ".lora_B" in name else 0.1)
            else:
                parameter.data = parameter.data.to(torch.bfloat16)
    state = official_chameleon.network_of(official, model, IDS, 64).state_dict()
    assert "embedding.weight" in state and state["embedding.weight"].shape[0] == ENTRIES + 3
    path = os.path.join(folder, "model.pth")
    torch.save({k: v.detach() for k, v in state.items()}, path)
    model = with_adapters(None)
    network = official_chameleon.network_of(official, model, IDS, 64)
    network.load_state_dict(torch.load(path, map_location="cpu"), strict=True)
    prompts = [first_clear(official, model, row, 82000 + 100 * i) for i, row in enumerate(PROMPTS)]
    return dict(
        rows=ENTRIES + 3,
        rank=RANK,
        alpha=ALPHA,
        tensors=len(state),
        merged=merged_weights(model, torch.bfloat16),
        max_new_tokens=NEW_TOKENS,
        cases=prompts,
    )


def first_clear(official, model, row, seed):
    latents, patches, count = row
    dims = SHAPES["checkpoint"]
    for seed in range(seed, seed + 100):
        pixels = draw_pictures(seed, 1, dims["vq"]["res"])
        backbone = official_chameleon.Backbone(model.base_model.model)
        network = official_chameleon.network_of(official, backbone, IDS, patches)
        words = [token % 140 + 165 for token in text_source(seed, dims).ids(count)]
        ids = words[:5] + [IDS["image"]] * image_tokens(dims) + words[5:] + [IDS["latent"]] * latents
        given = torch.tensor([ids])
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            out = network.generate(
                input_ids=given, attention_mask=torch.ones_like(given), pixel_values=pixels, max_new_tokens=NEW_TOKENS
            )
        tokens = out[0, len(ids) :].tolist()
        rows = backbone.last_rows[latents : latents + len(tokens)]
        top = torch.stack(rows).topk(2, dim=-1).values
        pick, order = clear(official_qwen.gaps)
        masked = model.base_model.model.model.vocabulary_mapping.image_tokens
        kept = [i for i in range(ENTRIES + 3) if i not in masked]
        safe = (top[:, 0] - top[:, 1]).min() > 1e-3 and pick > CLEAR_PICK and order > CLEAR_ORDER
        if safe and codes_of(model.base_model.model, pixels)[1] > CLEAR_CODE:
            return dict(
                name=f"T {latents}, K {patches}",
                seed=seed,
                ids=IDS,
                pictures=1,
                patches=patches,
                masked=masked,
                input_ids=ids,
                picked=[list(p) for p in official_qwen.picks],
                new_tokens=tokens,
                last_logits=rounded(rows[0][kept]),
            )
    raise SystemExit(f"no clear case for {row}")


def make(out, checkout):
    """Without the official code the checkpoint stays as it is."""
    file = os.path.join(out, "chameleon-folders.json")
    if checkout:
        of_checkpoint = checkpoint(out, checkout)
    else:
        print("SKIPPED chameleon-checkpoint: no --official DIR was given, the committed files stay as they are")
        with open(file, encoding="utf-8") as stream:
            of_checkpoint = json.load(stream)["checkpoint"]
    content = dict(made_with=versions(peft=peft.__version__), sharded=sharded(out), lora=adapter(out), checkpoint=of_checkpoint)
    with open(file, "w", encoding="utf-8") as stream:
        stream.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in content.items()) + "\n}\n")
    print(f"wrote {file}: {os.path.getsize(file) / 1024:.0f} KiB", flush=True)
