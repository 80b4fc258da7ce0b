"""Small checkpoint folders as people have them, and hf-tiny.json: what transformers computes after reading each of them."""

import json
import os
import shutil
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil
from numbers_json import rounded, stats, versions, write_cases
from tiny_model import (
    SHAPES,
    TextSource,
    build,
    draw_pixels,
    flat_config,
    hub_name,
    image_tokens,
    special_ids,
    weights_check,
)

SHAPES["folder"] = dict(
    hidden=32, layers=2, heads=2, kv=1, inter=48, vocab=160, vdepth=1, vdim=16, vheads=2, mrope=[2, 3, 3]
)
SEED, GRID, STEPS = 7, (8, 12), 8
TIED_SEED = 8
HUB_PREPROCESSOR = dict(
    min_pixels=3136,
    max_pixels=12845056,
    patch_size=14,
    temporal_patch_size=2,
    merge_size=2,
    image_mean=[0.48145466, 0.4578275, 0.40821073],
    image_std=[0.26862954, 0.26130258, 0.27577711],
    image_processor_type="Qwen2VLImageProcessor",
    processor_class="Qwen2VLProcessor",
)


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def save(model, path, shard=None):
    model.save_pretrained(fresh(path), **({"max_shard_size": shard} if shard else {}))
    Qwen2VLImageProcessorPil().save_pretrained(path)


def write_folders(out):
    """Folder name -> (seed, tied)."""
    dims = SHAPES["folder"]
    untied = build(dims, SEED)
    save(untied, os.path.join(out, "hf-tiny-f32"))
    save(build(dims, TIED_SEED, tie=True, dtype=torch.bfloat16), os.path.join(out, "hf-tiny-bf16-sharded"), "40KB")
    # the hub's own style: flat config, weights under the names of 2024
    flat = fresh(os.path.join(out, "hf-tiny-flat-config"))
    save_file(
        {hub_name(n): p.detach().contiguous() for n, p in untied.named_parameters()},
        os.path.join(flat, "model.safetensors"),
        metadata={"format": "pt"},
    )
    write_json(os.path.join(flat, "config.json"), flat_config(dims, False))
    write_json(os.path.join(flat, "preprocessor_config.json"), HUB_PREPROCESSOR)
    # the names of newer exports
    newer = fresh(os.path.join(out, "hf-tiny-new-names"))
    save_file(
        {n: p.detach().contiguous() for n, p in untied.named_parameters()},
        os.path.join(newer, "model.safetensors"),
        metadata={"format": "pt"},
    )
    shutil.copy(os.path.join(out, "hf-tiny-f32", "config.json"), newer)
    return {
        "hf-tiny-f32": (SEED, False),
        "hf-tiny-flat-config": (SEED, False),
        "hf-tiny-new-names": (SEED, False),
        "hf-tiny-bf16-sharded": (TIED_SEED, True),
    }


def run(model, inputs):
    out = model(**inputs)
    features = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output[0]
    return dict(vision=stats(features.float()), last_logits=rounded(out.logits[0, -1].float()))


def greedy(model, inputs):
    model.model.rope_deltas = None
    model.generation_config.eos_token_id = None
    out = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=STEPS,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True
    )
    top = torch.stack(out.logits).topk(2, dim=-1).values
    assert (top[..., 0] - top[..., 1]).min() > 1e-3, "choose another seed: two tokens are nearly as good"
    return out.sequences[0, inputs["input_ids"].shape[1] :].tolist()


def read_case(out, folder, seed, tie):
    """Reads the folder back, so that what is expected is what the files hold."""
    path = os.path.join(out, folder)
    model = Qwen2VLForConditionalGeneration.from_pretrained(path, dtype="auto", attn_implementation="eager").eval()
    dims, stored = SHAPES["folder"], str(model.dtype).removeprefix("torch.")
    assert (model.lm_head.weight is model.model.language_model.embed_tokens.weight) == tie
    ids, text = special_ids(dims["vocab"]), TextSource(seed, dims["vocab"])
    row = text.ids(6) + [ids["vstart"]] + [ids["image"]] * image_tokens(GRID) + [ids["vend"]] + text.ids(9)
    pixels, thw = draw_pixels(seed, [GRID])
    given = torch.tensor([row])
    inputs = dict(
        input_ids=given,
        attention_mask=torch.ones_like(given),
        image_grid_thw=thw,
        pixel_values=pixels,
        mm_token_type_ids=(given == ids["image"]).long(),
    )
    case = dict(folder=folder, seed=seed, tie=tie, dtype=stored, ids=ids, input_ids=row, image_grid_thw=thw.tolist())
    with torch.no_grad():
        if stored != "float32":
            case[stored] = run(model, inputs)
            model = model.float()
        case["weights"] = weights_check(model)
        case["float32"] = dict(run(model, inputs), greedy=greedy(model, inputs))
    names = sorted(k for f in os.listdir(path) if f.endswith(".safetensors") for k in load_file(os.path.join(path, f)))
    case["tensors"] = dict(count=len(names), some=names[:: max(1, len(names) // 6)])
    return case


def make(out):
    cases = [read_case(out, folder, *how) for folder, how in write_folders(out).items()]
    assert cases[0]["float32"] == cases[1]["float32"] == cases[2]["float32"], "three ways to write the same weights"
    write_cases(os.path.join(out, "hf-tiny.json"), dict(made_with=versions()), cases)
