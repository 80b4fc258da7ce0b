"""transformers' side of bench/gpu.mjs: CASE.json [--compile]. Decoding with a static cache and SDPA, and the vision tower. Prints one JSON object."""

import json
import sys
import time

import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.initialization import no_init_weights

with open(sys.argv[1], encoding="utf8") as file:
    case = json.load(file)
device = case["device"]
torch.set_num_threads(case["threads"])
torch.set_default_device(device)


def synchronize():
    if device != "cpu":
        torch.cuda.synchronize()


def best(rounds, body):
    least = float("inf")
    for _ in range(rounds):
        synchronize()
        started = time.perf_counter()
        body()
        synchronize()
        least = min(least, time.perf_counter() - started)
    return least


config = AutoConfig.for_model(**case["config"])
config._attn_implementation = "sdpa"
torch.set_default_dtype(getattr(torch, case["dtype"]))
with no_init_weights():
    model = AutoModelForImageTextToText.from_config(config)
torch.set_default_dtype(torch.float32)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(0 if name.endswith("bias") else 1)
        else:
            parameter.normal_(0, 0.02)
model.tie_weights()
model.eval()
rows, columns = case["grid"]
prompt = torch.tensor([case["prompt"]])
grid = torch.tensor([[1, rows, columns]])
pixels = torch.randn((rows * columns, 1176)).to(getattr(torch, case["dtype"]))


def answer(count, tokens):
    """Writes `tokens` tokens for `count` rows without stopping; with a static cache generate() compiles the decoding step on a GPU if it can."""
    kinds = dict(mm_token_type_ids=(prompt == case["ids"]["image"]).int().repeat(count, 1))
    model.generate(
        input_ids=prompt.repeat(count, 1),
        attention_mask=torch.ones_like(prompt).repeat(count, 1),
        pixel_values=pixels.repeat(count, 1),
        image_grid_thw=grid.repeat(count, 1),
        do_sample=False,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        cache_implementation="static",
        disable_compile="--compile" not in sys.argv,
        **kinds,
    )


out = dict(versions=dict(torch=torch.__version__, transformers=transformers.__version__), decode={})
with torch.inference_mode():
    tokens = case["decodeTokens"]
    for count in (1, case["batch"]):
        answer(count, tokens)
        seconds = best(2, lambda: answer(count, tokens)) - best(2, lambda: answer(count, 1))
        out["decode"][count] = dict(secondsPerPass=seconds / (tokens - 1), tokensPerSecond=count * (tokens - 1) / seconds)
    out["vision"] = dict(seconds=best(4, lambda: model.model.visual(pixels, grid_thw=grid)))
print(json.dumps(out))
