"""lora.json and hf-tiny-lora: what PEFT computes with LoRA adapters, and an adapter folder as PEFT writes it."""

import json
import os
import shutil
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from transformers import Qwen2VLForConditionalGeneration
from hf_folders import GRID, SEED, SHAPES, write_json
from numbers_json import rounded, versions, write_cases
from tiny_model import TextSource, draw_pixels, hub_name, image_tokens, special_ids

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA, DROPOUT = 2, 6, 0.05
LR, WEIGHT_DECAY, STEPS = 1e-3, 0.01, 5
FOLDER, BASE = "hf-tiny-lora", "hf-tiny-f32"


def factor_name(name):
    """`model.layers.0.self_attn.q_proj.lora_A.weight` for a parameter of a PEFT model."""
    return hub_name(name.removeprefix("base_model.model.")).replace(".default.", ".")


def factors(model):
    named = {factor_name(n): p for n, p in model.named_parameters() if ".lora_" in n}
    return {n: named[n] for n in sorted(named)}


def base_model(out, dtype):
    path = os.path.join(out, BASE)
    return Qwen2VLForConditionalGeneration.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()


def write_adapter(out):
    """B is drawn too, for with PEFT's zeros an adapter does nothing."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=TARGETS,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=DROPOUT,
        bias="none",
    )
    model = get_peft_model(base_model(out, torch.float32), config)
    torch.manual_seed(SEED + 3)
    with torch.no_grad():
        for p in factors(model).values():
            p.copy_(torch.randn(p.shape) * 0.5 / p.shape[1] ** 0.5)
    path = os.path.join(out, FOLDER)
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    # the same bytes on every machine: no absolute path, no order of a set
    file = os.path.join(path, "adapter_config.json")
    with open(file, encoding="utf-8") as stream:
        config = json.load(stream)
    config.update(base_model_name_or_path=BASE, target_modules=TARGETS)
    write_json(file, config)


def inputs():
    ids, text = special_ids(SHAPES["folder"]["vocab"]), TextSource(SEED, SHAPES["folder"]["vocab"])
    question = text.ids(6) + [ids["vstart"]] + [ids["image"]] * image_tokens(GRID) + [ids["vend"]] + text.ids(5)
    answer = text.ids(11)
    row, labels = question + answer, [-100] * len(question) + answer
    pixels, thw = draw_pixels(SEED, [GRID])
    given = torch.tensor([row])
    fields = dict(seed=SEED, ids=ids, input_ids=[row], labels=[labels], image_grid_thw=thw.tolist())
    return fields, dict(
        input_ids=given,
        attention_mask=torch.ones_like(given),
        labels=torch.tensor([labels]),
        image_grid_thw=thw,
        pixel_values=pixels,
        mm_token_type_ids=(given == ids["image"]).long(),
    )


def trainable(out, dtype=torch.float32):
    return PeftModel.from_pretrained(base_model(out, dtype), os.path.join(out, FOLDER), is_trainable=True)


def norms(model, value):
    return {n: rounded(value(n, p).double().norm().item()) for n, p in factors(model).items()}


def inference(out, given, dtype):
    model = trainable(out, dtype).eval()
    assert all(p.dtype == torch.float32 for p in factors(model).values())
    with torch.no_grad():
        adapted = rounded(model(**given).logits[0, -1].float())
        with model.disable_adapter():
            plain = rounded(model(**given).logits[0, -1].float())
        merged = rounded(model.merge_and_unload()(**given).logits[0, -1].float())
    return dict(plain=plain, adapted=adapted, merged=merged)


def training(out, given):
    model = trainable(out).eval()  # no dropout
    before = {n: p.detach().clone() for n, p in factors(model).items()}
    optimiser = torch.optim.AdamW(list(factors(model).values()), lr=LR, weight_decay=WEIGHT_DECAY)
    losses, gradients = [], None
    for _ in range(STEPS):
        loss = model(**given).loss
        loss.backward()
        losses.append(rounded(loss.item()))
        gradients = gradients or norms(model, lambda n, p: p.grad)
        optimiser.step()
        optimiser.zero_grad()
    return dict(
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        losses=losses,
        gradient_norms=gradients,
        moved_norms=norms(model, lambda n, p: p.detach() - before[n]),
    )


def dropped(out, given):
    model = trainable(out).train()
    torch.manual_seed(SEED + 4)
    loss = model(**given).loss
    loss.backward()
    return dict(seed=SEED + 4, loss=rounded(loss.item()), gradient_norms=norms(model, lambda n, p: p.grad))


def layer(dtype, draws):
    """One layer with its numbers in full: shows in which dtype each product and sum is taken."""
    base = torch.nn.Linear(24, 16).to(dtype)
    wrapped = LoraLinear(base, "default", config=LoraConfig(r=4, lora_alpha=10), r=4, lora_alpha=10)
    wrapped.lora_A.float(), wrapped.lora_B.float()
    a, b = wrapped.lora_A["default"].weight, wrapped.lora_B["default"].weight
    with torch.no_grad():
        for p, v in zip((base.weight, base.bias, a, b), draws):
            p.copy_(v)
    base.requires_grad_(False)
    x = draws[4].clone().to(dtype).requires_grad_()
    y = wrapped(x)
    y.backward(draws[5].to(dtype))
    merged = wrapped.get_base_layer().weight.data + wrapped.get_delta_weight("default").to(dtype)
    result = dict(dtype=str(dtype).removeprefix("torch."))
    for name, value in (("y", y), ("x_grad", x.grad), ("a_grad", a.grad), ("b_grad", b.grad), ("merged", merged)):
        result[name] = rounded(value.detach().float())
    return result


def make(out):
    import peft

    write_adapter(out)
    fields, given = inputs()
    case = dict(base=BASE, adapter=FOLDER, rank=RANK, alpha=ALPHA, **fields)
    case["float32"] = inference(out, given, torch.float32)
    case["bfloat16"] = inference(out, given, torch.bfloat16)
    case["training"] = training(out, given)
    case["dropout"] = dropped(out, given)
    torch.manual_seed(SEED + 5)
    shapes = dict(weight=(16, 24), bias=(16,), a=(4, 24), b=(16, 4), x=(5, 24), y_grad=(5, 16))
    draws = {n: torch.randn(s) * (1 if n in ("x", "y_grad") else 0.2) for n, s in shapes.items()}
    layers = [layer(dtype, list(draws.values())) for dtype in (torch.float32, torch.bfloat16)]
    header = dict(made_with=versions(peft=peft.__version__), targets=TARGETS)
    header.update(layer_inputs={n: rounded(v) for n, v in draws.items()}, layers=layers)
    write_cases(os.path.join(out, "lora.json"), header, [case])
