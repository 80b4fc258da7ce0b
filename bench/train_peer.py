"""The official side of bench/train.mjs: makes the case's model, saves it, trains it with the official code and prints one JSON object.

The official code comes from a checkout and is imported through test/parity/python. Trained are weights and biases of the decoder's
projections, in float32, without dropout, as test/parity/goldens/official-train.json does.
"""

import argparse
import json
import os
import resource
import sys
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("--case", required=True)
arguments.add_argument("--official", required=True)
args = arguments.parse_args()
with open(args.case, encoding="utf8") as file:
    case = json.load(file)

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration  # noqa: E402

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "test", "parity", "python"))
import official_qwen  # noqa: E402

torch.set_num_threads(case["threads"])
official = official_qwen.load(os.path.abspath(args.official))
config = Qwen2VLConfig(**case["config"])
config._attn_implementation = "eager"
torch.manual_seed(0)
model = Qwen2VLForConditionalGeneration(config).eval()
pixels = torch.randn(case["images"] * case["grid"][0] * case["grid"][1], 1176)
model.save_pretrained(case["folder"])
save_file({"pixel_values": pixels}, os.path.join(case["folder"], "inputs.safetensors"))

names = ("latent", "slat", "elat", "eos", "image", "vstart", "vend")
backbone = official_qwen.Backbone(model)
network = official(backbone, *[case["ids"][n] for n in names], num_selected_patches=case["patches"])
model.requires_grad_(False)
trained = [p for n, p in model.named_parameters() if any(t in n for t in case["trained"])]
for parameter in trained:
    parameter.requires_grad_(True)
optimiser = torch.optim.AdamW(trained, lr=case["lr"], weight_decay=0.01)
inputs = dict(
    input_ids=torch.tensor(case["inputIds"]),
    attention_mask=torch.tensor(case["attentionMask"]),
    labels=torch.tensor(case["labels"]),
    position_ids=torch.tensor(case["positionIds"]),
    pixel_values=pixels,
    image_grid_thw=torch.tensor([[1, *case["grid"]]] * case["images"]),
)
losses, seconds, processor = [], [], []
for _ in range(case["steps"]):
    backbone.last_rows.clear()
    official_qwen.picks.clear()
    official_qwen.gaps.clear()
    started, before = time.perf_counter(), time.process_time()
    loss = network(**inputs).loss
    loss.backward()
    losses.append(loss.item())
    optimiser.step()
    optimiser.zero_grad()
    seconds.append(time.perf_counter() - started)
    processor.append(time.process_time() - before)
    del loss
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
versions = dict(torch=torch.__version__)
print(json.dumps(dict(losses=losses, seconds=seconds, processor=processor, peakMegabytes=peak, versions=versions)))
