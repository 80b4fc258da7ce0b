"""qwen25-folders.json with its folders: a sharded Qwen2.5-VL as transformers writes it, a LoRA adapter as PEFT writes it, and what a config.json of the
published sizes stands for in transformers."""

import json
import os
import shutil
import tempfile
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from config_versions import qwen, resolved
from forward_cases import greedy
from numbers_json import rounded, versions
from qwen25_model import SHAPES, build, flat_config, special_ids
from tiny_model import TextSource, draw_pixels, hub_name, image_tokens, weights_check

SHAPES["folder"] = dict(
    hidden=32, layers=2, heads=2, kv=1, inter=48, vocab=160, mrope=[2, 3, 3], vdepth=2, vdim=16, vheads=2, vinter=20, vwindow=56, vfull=[1]
)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SEED, GRID = 41, (10, 14)


def published(hidden, layers, heads, kv, inter, vocab, tie, vision_inter, **more):
    """The hub's flat files of 2025."""
    flat = qwen(hidden, layers, heads, kv, inter, vocab, tie, **more)
    vision = dict(depth=32, hidden_act="silu", hidden_size=1280, intermediate_size=vision_inter, num_heads=16, in_chans=3)
    vision |= dict(out_hidden_size=hidden, patch_size=14, spatial_merge_size=2, spatial_patch_size=14, window_size=112)
    vision |= dict(fullatt_block_indexes=[7, 15, 23, 31], tokens_per_second=2, temporal_patch_size=2)
    return flat | dict(
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        model_type="qwen2_5_vl",
        max_position_embeddings=128000,
        vision_config=vision,
    )


CONFIGS = {
    "3b": published(2048, 36, 16, 2, 11008, 151936, True, 3420),
    "7b": published(3584, 28, 28, 4, 18944, 152064, False, 3420),
    "72b": published(8192, 80, 64, 8, 29568, 152064, False, 3456),
    "defaults": dict(model_type="qwen2_5_vl", vision_config=dict(out_hidden_size=8192)),
    "tiny": flat_config(SHAPES["folder"], False),
    "tiny tied": flat_config(SHAPES["folder"], True),
}


def read_config(folder):
    config = Qwen2_5_VLConfig.from_pretrained(folder)
    names = "depth hidden_size intermediate_size num_heads out_hidden_size patch_size temporal_patch_size spatial_merge_size in_channels"
    numbers = resolved(config)
    numbers["vision"] = {n: getattr(config.vision_config, n) for n in (names + " window_size fullatt_block_indexes hidden_act").split()}
    numbers["vision"]["fullatt_block_indexes"] = list(numbers["vision"]["fullatt_block_indexes"])
    numbers["image_token_id"] = config.image_token_id
    return numbers


def configs():
    """Each file in the flat form, and in the nested one that today's save_pretrained makes of it."""
    cases = []
    for name, source in CONFIGS.items():
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "config.json")
            with open(file, "w", encoding="utf-8") as stream:
                json.dump(source, stream)
            cases.append(dict(name=f"{name}, flat", config=source, read=read_config(folder)))
            Qwen2_5_VLConfig.from_pretrained(folder).save_pretrained(folder)
            with open(file, encoding="utf-8") as stream:
                cases.append(dict(name=f"{name}, nested", config=json.load(stream), read=read_config(folder)))
    return cases


def question(dims):
    ids, text = special_ids(dims["vocab"]), TextSource(SEED, dims["vocab"])
    row = text.ids(6) + [ids["vstart"]] + [ids["image"]] * image_tokens(GRID) + [ids["vend"]] + text.ids(9)
    pixels, thw = draw_pixels(SEED, [GRID])
    given = torch.tensor([row])
    types = (given == ids["image"]).long()
    inputs = dict(input_ids=given, attention_mask=torch.ones_like(given), image_grid_thw=thw, pixel_values=pixels, mm_token_type_ids=types)
    return row, inputs


def record(dims, row, model):
    return dict(seed=SEED, dims=dims, ids=special_ids(dims["vocab"]), input_ids=row, image_grid_thw=[[1, *GRID]], weights=weights_check(model))


def sharded(out):
    """Stored in bfloat16, tied; what is expected is computed in float32 from the stored weights."""
    dims, path = SHAPES["folder"], os.path.join(out, "qwen25-bf16-sharded")
    shutil.rmtree(path, ignore_errors=True)
    build(dims, SEED, tie=True, dtype=torch.bfloat16).save_pretrained(path, max_shard_size="50KB")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype="auto", attn_implementation="eager").eval()
    assert model.dtype == torch.bfloat16 and model.lm_head.weight is model.model.language_model.embed_tokens.weight
    model = model.float()
    model.generation_config.eos_token_id = None
    row, inputs = question(dims)
    logits = model(**inputs).logits[0, -1]
    model.model.rope_deltas = None
    tokens, gap = greedy(model, inputs)
    assert gap > 1e-3, "choose another seed: two tokens are nearly as good"
    names = sorted(k for f in os.listdir(path) if f.endswith(".safetensors") for k in load_file(os.path.join(path, f)))
    return dict(record(dims, row, model), folder=os.path.basename(path), last_logits=rounded(logits), greedy=tokens[0], names=names)


def adapter(out):
    """PEFT takes the vision tower's gate, up and down projections for targets too."""
    dims, path = SHAPES["folder"], os.path.join(out, "qwen25-lora")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=TARGETS, r=2, lora_alpha=6, bias="none")
    model = get_peft_model(build(dims, SEED), config).eval()
    factors = {hub_name(n.removeprefix("base_model.model.")): p for n, p in model.named_parameters() if ".lora_" in n}
    assert any("visual" in name for name in factors)
    torch.manual_seed(SEED + 3)
    for name in sorted(factors):
        factors[name].copy_(torch.randn(factors[name].shape) * 0.5 / factors[name].shape[1] ** 0.5)
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    file = os.path.join(path, "adapter_config.json")
    with open(file, encoding="utf-8") as stream:
        stored = json.load(stream)
    stored.update(base_model_name_or_path="base", target_modules=TARGETS)
    with open(file, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(stored, indent=2) + "\n")
    row, inputs = question(dims)
    adapted = rounded(model(**inputs).logits[0, -1])
    with model.disable_adapter():
        plain = rounded(model(**inputs).logits[0, -1])
    case = record(dims, row, model.unload())
    return dict(case, config=flat_config(dims, False), adapter=os.path.basename(path), plain=plain, adapted=adapted)


def check_processor():
    """preprocess.json was made with Qwen2-VL's image processor: Qwen2.5-VL's must be the same class."""
    theirs = IMAGE_PROCESSOR_MAPPING_NAMES["qwen2_5_vl"]["pil"]
    assert theirs == IMAGE_PROCESSOR_MAPPING_NAMES["qwen2_vl"]["pil"] == "Qwen2VLImageProcessorPil", theirs


@torch.no_grad()
def make(out):
    check_processor()
    result = dict(made_with=versions(), sharded=sharded(out), lora=adapter(out), configs=configs())
    path = os.path.join(out, "qwen25-folders.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in result.items()) + "\n}\n")
    print(f"wrote {path}, {os.path.getsize(path) / 1024:.0f} KiB")
