"""Writes the numbers that the tests of nn, optim and io compare against, from PyTorch, transformers and safetensors.

    python packages/torch/goldens/make.py      (torch 2.13, transformers 5, safetensors, numpy)
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

sys.modules["torchvision"] = None  # transformers would import it; nothing here needs it
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm  # noqa: E402

here = pathlib.Path(__file__).parent


def write(name, value):
    (here / name).write_text(json.dumps(value) + "\n")


def pattern(*shape, dtype=torch.float32):
    """Exact in every dtype and easy to rebuild: element i is ((7919 i) mod 23 - 11) / 8."""
    count = 1
    for size in shape:
        count *= size
    return (((torch.arange(count) * 7919) % 23 - 11).to(torch.float64) / 8).to(dtype).reshape(shape)


def flat(tensor):
    return tensor.detach().double().flatten().tolist()


def adamw():
    generator = torch.Generator().manual_seed(7)
    options = dict(lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.05)
    start = [torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)]
    # The second parameter has no gradient in every third step.
    gradients = [[torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator) if i % 3 else None] for i in range(20)]

    def run(parameters, masters, **extra):
        optimizer = torch.optim.AdamW(masters, **options, **extra)
        for step, pair in enumerate(gradients):
            if step == 10:
                optimizer.param_groups[0]["lr"] = 3e-3
            for parameter, master, gradient in zip(parameters, masters, pair):
                master.grad = None if gradient is None else gradient.to(parameter.dtype).to(master.dtype)
            optimizer.step()
            with torch.no_grad():
                for parameter, master in zip(parameters, masters):
                    if parameter is not master:
                        parameter.copy_(master)
        state = [optimizer.state[master] for master in masters]
        return {
            "parameters": [flat(p) for p in parameters],
            "exp_avg": [flat(s["exp_avg"]) for s in state],
            "exp_avg_sq": [flat(s["exp_avg_sq"]) for s in state],
            "step": [s["step"].item() for s in state],
        }

    def leaves(dtype):
        return [p.to(dtype).clone().requires_grad_() for p in start]

    plain = leaves(torch.float32)
    narrow = leaves(torch.bfloat16)
    write("adamw.json", {
        "options": options,
        "start": [flat(p) for p in start],
        "gradients": [[None if g is None else flat(g) for g in pair] for pair in gradients],
        "float32": run(plain, plain),
        "bfloat16_master": run(narrow, [p.detach().float().requires_grad_() for p in narrow]),
        "bfloat16_plain": run(*[leaves(torch.bfloat16)] * 2, fused=True),
    })


def clip():
    cases = []
    for largest in (0.7, 1000.0):
        leaves = [pattern(4, 5), pattern(7)]
        for leaf in leaves:
            leaf.requires_grad_()
            leaf.grad = (leaf.detach() * 3).clone()
        norm = torch.nn.utils.clip_grad_norm_(leaves, largest)
        cases.append({"max": largest, "norm": norm.item(), "gradients": [flat(leaf.grad) for leaf in leaves]})
    write("clip.json", cases)


def rms_norm():
    cases = {}
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        torch.manual_seed(3)
        norm = Qwen2RMSNorm(40, 1e-6).to(dtype)
        with torch.no_grad():
            norm.weight.copy_(torch.randn(40) * 0.2 + 1)
        x = (torch.randn(6, 40) * 3).to(dtype)
        cases[name] = {"weight": flat(norm.weight), "x": flat(x), "y": flat(norm(x))}
    write("rms-norm.json", cases)


def layers():
    functional = torch.nn.functional
    q, k, v = pattern(1, 4, 3, 8), pattern(1, 2, 5, 8), pattern(1, 2, 5, 8).flip(2)
    mask = pattern(3, 5) > 0
    mask[:, 0] = True
    added = pattern(1, 4, 3, 5)
    logits, labels = pattern(4, 6), torch.tensor([1, -100, 5, 0])
    x = pattern(2, 24)
    init = {}
    for name, make in {"linear": lambda: torch.nn.Linear(6, 4), "conv2d": lambda: torch.nn.Conv2d(4, 2, 3, groups=2), "embedding": lambda: torch.nn.Embedding(5, 3)}.items():
        torch.manual_seed(11)
        init[name] = {key: flat(value) for key, value in make().state_dict().items()}
    write("layers.json", {
        "init": init,
        "layer_norm": flat(functional.layer_norm(x, (24,), pattern(24), pattern(24) + 1, 1e-6)),
        "group_norm": flat(functional.group_norm(pattern(2, 6, 4), 3, pattern(6), pattern(6) + 1, 1e-4)),
        "conv2d": flat(functional.conv2d(pattern(1, 4, 7, 9), pattern(6, 2, 3, 2), pattern(6), (2, 1), (1, 0), (1, 2), 2)),
        "conv3d": flat(functional.conv3d(pattern(1, 2, 4, 6, 6), pattern(3, 2, 2, 3, 3), None, (2, 3, 3))),
        "embedding": flat(functional.embedding(torch.tensor([[2, 0], [1, 2]]), pattern(3, 4))),
        "linear": flat(functional.linear(pattern(2, 3, 5), pattern(4, 5), pattern(4))),
        "sdpa_gqa_mask": flat(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)),
        "sdpa_added": flat(functional.scaled_dot_product_attention(q, q[:, :, :1].expand(1, 4, 5, 8), v.repeat(1, 2, 1, 1), attn_mask=added)),
        "sdpa_causal": flat(functional.scaled_dot_product_attention(q, q * 2, q + 1, is_causal=True)),
        "cross_entropy": {
            "mean": flat(functional.cross_entropy(logits, labels)),
            "sum": flat(functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=0.1)),
            "none": flat(functional.cross_entropy(logits, labels.clamp(min=0), reduction="none", ignore_index=5)),
        },
        "silu": flat(functional.silu(x)),
        "gelu": flat(functional.gelu(x)),
        "gelu_tanh": flat(functional.gelu(x, approximate="tanh")),
        "quick_gelu": flat(x * torch.sigmoid(1.702 * x)),
    })


def safetensors():
    tensors = {
        "f64": pattern(2, 3, dtype=torch.float64),
        "f32.ünï": pattern(3, 2),
        "f16": pattern(5).half(),
        "bf16": pattern(2, 2, 2).bfloat16(),
        "i64": torch.tensor([-(2**53), 0, 2**53]),
        "i32": torch.tensor([[-(2**31)], [2**31 - 1]], dtype=torch.int32),
        "i16": torch.tensor([-32768, 32767], dtype=torch.int16),
        "i8": torch.tensor([-128, 127, 1], dtype=torch.int8),
        "u8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 4),
        "0": torch.tensor([7.0]),
    }
    save_file(tensors, here / "dtypes.safetensors", metadata={"format": "pt"})


adamw()
clip()
rms_norm()
layers()
safetensors()
