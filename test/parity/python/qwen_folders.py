"""qwen25-folders.json and qwen3-folders.json with their folders: Qwen2.5-VL and Qwen3-VL as transformers writes them (sharded, tied and bfloat16; float16),
a LoRA adapter as PEFT writes it, what a config.json of the published sizes stands for in transformers, and the picture set through the image processor.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import types
import numpy
import torch
import transformers
from peft import LoraConfig, get_peft_model
from PIL import Image, ImageOps
from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
import qwen25_model
import qwen3_model
from config_versions import QWEN3_PUBLISHED, QWEN25_PUBLISHED, resolved
from forward_cases import greedy
from numbers_json import rounded, versions
from tiny_model import PATCH_VALUES, TextSource, draw_pixels, hub_name, image_tokens, special_ids, weights_check

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CLIP = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
HALF = dict(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])
VISION = "depth hidden_size intermediate_size num_heads out_hidden_size patch_size temporal_patch_size spatial_merge_size in_channels hidden_act"


@dataclasses.dataclass
class Family:
    model_type: str
    tiny: types.ModuleType
    config: type
    model: type
    configs: dict
    """The hub's preprocessor_config.json."""
    preprocessor: dict
    """Keys of the vision tower's config that only this family has."""
    vision: str
    seed: int
    grid: tuple


FAMILIES = {
    "qwen25": Family(
        model_type="qwen2_5_vl",
        tiny=qwen25_model,
        config=Qwen2_5_VLConfig,
        model=Qwen2_5_VLForConditionalGeneration,
        configs=QWEN25_PUBLISHED | {"defaults": dict(model_type="qwen2_5_vl", vision_config=dict(out_hidden_size=8192))},
        preprocessor=dict(min_pixels=3136, max_pixels=12845056, patch_size=14, temporal_patch_size=2, merge_size=2, **CLIP),
        vision="window_size fullatt_block_indexes",
        seed=41,
        grid=(10, 14),
    ),
    "qwen3": Family(
        model_type="qwen3_vl",
        tiny=qwen3_model,
        config=Qwen3VLConfig,
        model=Qwen3VLForConditionalGeneration,
        configs=QWEN3_PUBLISHED | {"defaults": dict(model_type="qwen3_vl", vision_config=dict(out_hidden_size=4096))},
        preprocessor=dict(size=dict(longest_edge=16777216, shortest_edge=65536), patch_size=16, temporal_patch_size=2, merge_size=2, **HALF),
        vision="num_position_embeddings deepstack_visual_indexes",
        seed=43,
        grid=(10, 14),
    ),
}


def read_config(family, folder):
    config = family.config.from_pretrained(folder)
    numbers = resolved(config)
    keys = f"{VISION} {family.vision}".split()
    numbers["vision"] = {key: list(value) if isinstance(value := getattr(config.vision_config, key), tuple) else value for key in keys}
    numbers["head_dim"] = getattr(config.text_config, "head_dim", None)
    numbers["image_token_id"] = config.image_token_id
    return numbers


def configs(family):
    """Each file as the hub has it, and as today's save_pretrained writes it."""
    tiny = family.tiny
    own = {f"tiny{' tied' if tie else ''}": tiny.flat_config(tiny.SHAPES["folder"], tie) for tie in (False, True)}
    cases = []
    for name, source in (family.configs | own).items():
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "config.json")
            with open(file, "w", encoding="utf-8") as stream:
                json.dump(source, stream)
            cases.append(dict(name=f"{name}, as published", config=source, read=read_config(family, folder)))
            family.config.from_pretrained(folder).save_pretrained(folder)
            with open(file, encoding="utf-8") as stream:
                cases.append(dict(name=f"{name}, as written today", config=json.load(stream), read=read_config(family, folder)))
    return cases


def question(family):
    vocab = family.tiny.SHAPES["folder"]["vocab"]
    ids, text = special_ids(vocab), TextSource(family.seed, vocab)
    row = text.ids(6) + [ids["vstart"]] + [ids["image"]] * image_tokens(family.grid) + [ids["vend"]] + text.ids(9)
    pixels, thw = draw_pixels(family.seed, [family.grid], getattr(family.tiny, "PATCH_VALUES", PATCH_VALUES))
    given = torch.tensor([row])
    kinds = (given == ids["image"]).long()
    inputs = dict(input_ids=given, attention_mask=torch.ones_like(given), image_grid_thw=thw, pixel_values=pixels, mm_token_type_ids=kinds)
    return row, inputs


def record(family, row, model):
    dims = family.tiny.SHAPES["folder"]
    return dict(seed=family.seed, dims=dims, ids=special_ids(dims["vocab"]), input_ids=row, image_grid_thw=[[1, *family.grid]], weights=weights_check(model))


def stored(family, path, dtype, tie, **more):
    """A folder as save_pretrained writes it; what is expected is computed in float32 from the stored weights."""
    shutil.rmtree(path, ignore_errors=True)
    family.tiny.build(family.tiny.SHAPES["folder"], family.seed, tie=tie, dtype=dtype).save_pretrained(path, **more)
    model = family.model.from_pretrained(path, dtype="auto", attn_implementation="eager").eval()
    assert model.dtype == dtype and (model.lm_head.weight is model.model.language_model.embed_tokens.weight) == tie
    model = model.float()
    model.generation_config.eos_token_id = None
    row, inputs = question(family)
    logits = model(**inputs).logits[0, -1]
    model.model.rope_deltas = None
    tokens, gap = greedy(model, inputs)
    assert gap > 1e-3, "choose another seed: two tokens are nearly as good"
    names = sorted(k for f in os.listdir(path) if f.endswith(".safetensors") for k in load_file(os.path.join(path, f)))
    case = dict(record(family, row, model), config=family.tiny.flat_config(family.tiny.SHAPES["folder"], tie), folder=os.path.basename(path))
    return dict(case, dtype=str(dtype).removeprefix("torch."), tie=tie, last_logits=rounded(logits), greedy=tokens[0], names=names)


def adapter(family, path):
    """PEFT takes for targets whatever has such a name: in Qwen2.5-VL the vision tower's gate, up and down projections too."""
    dims = family.tiny.SHAPES["folder"]
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=TARGETS, r=2, lora_alpha=6, bias="none")
    model = get_peft_model(family.tiny.build(dims, family.seed), config).eval()
    factors = {hub_name(n.removeprefix("base_model.model.")): p for n, p in model.named_parameters() if ".lora_" in n}
    in_tower = sum("visual" in name for name in factors) // 2
    torch.manual_seed(family.seed + 3)
    for name in sorted(factors):
        factors[name].copy_(torch.randn(factors[name].shape) * 0.5 / factors[name].shape[1] ** 0.5)
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    file = os.path.join(path, "adapter_config.json")
    with open(file, encoding="utf-8") as stream:
        written = json.load(stream)
    written.update(base_model_name_or_path="base", target_modules=TARGETS)
    with open(file, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(written, indent=2) + "\n")
    row, inputs = question(family)
    adapted = rounded(model(**inputs).logits[0, -1])
    with model.disable_adapter():
        plain = rounded(model(**inputs).logits[0, -1])
    case = dict(record(family, row, model.unload()), config=family.tiny.flat_config(dims, False))
    return dict(case, adapter=os.path.basename(path), in_tower=in_tower, plain=plain, adapted=adapted)


def pictures(family, out):
    """The pictures of preprocess/ through the family's processor: all values, brought back to 8-bit levels, as one checksum, and some as they are."""
    processor = getattr(transformers, IMAGE_PROCESSOR_MAPPING_NAMES[family.model_type]["pil"])(**family.preprocessor)
    mean, std = (numpy.array(family.preprocessor[key]).reshape(1, 3, 1) for key in ("image_mean", "image_std"))
    with open(os.path.join(out, "preprocess", "preprocess.json"), encoding="utf-8") as stream:
        known, cases = json.load(stream)["cases"], []
    for picture in known:
        image = ImageOps.exif_transpose(Image.open(os.path.join(out, "preprocess", picture["file"]))).convert("RGB")
        case = dict(file=picture["file"], decoded=picture["decoded"], width=image.width, height=image.height)
        try:
            given = processor(images=image, return_tensors="np")
        except ValueError as error:
            cases.append(dict(case, error=str(error)))
            continue
        values = given["pixel_values"]
        levels = (values.reshape(len(values), 3, -1).astype(numpy.float64) * std + mean) * 255
        assert numpy.abs(levels - levels.round()).max() < 1e-3
        digest = hashlib.sha256(levels.round().astype(numpy.uint8).tobytes()).hexdigest()
        step = max(1, values.size // 48)
        some = rounded(values.reshape(-1)[::step].astype(float).tolist())
        cases.append(dict(case, grid=given["image_grid_thw"][0].tolist(), levels=digest, step=step, values=some))
    return cases


@torch.no_grad()
def make(out, name):
    family = FAMILIES[name]
    result = dict(
        made_with=versions(),
        stored=[
            stored(family, os.path.join(out, f"{name}-bf16-sharded"), torch.bfloat16, True, max_shard_size="50KB"),
            stored(family, os.path.join(out, f"{name}-f16"), torch.float16, False),
        ],
        lora=adapter(family, os.path.join(out, f"{name}-lora")),
        configs=configs(family),
        preprocessor=family.preprocessor,
        pictures=pictures(family, out),
    )
    path = os.path.join(out, f"{name}-folders.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in result.items()) + "\n}\n")
    print(f"wrote {path}, {os.path.getsize(path) / 1024:.0f} KiB")
