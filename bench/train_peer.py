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
device = case.get("device", "cpu")
official = official_qwen.load(os.path.abspath(args.official))
config = Qwen2VLConfig(**case["config"])
config._attn_implementation = "eager"
torch.manual_seed(0)
model = Qwen2VLForConditionalGeneration(config).eval()
pixels = torch.randn(case["images"] * case["grid"][0] * case["grid"][1], 1176)
model.save_pretrained(case["folder"])
save_file({"pixel_values": pixels}, os.path.join(case["folder"], "inputs.safetensors"))

# The weights are drawn and saved on the CPU, so that both sides have the same ones.
model.to(device)
names = ("latent", "slat", "elat", "eos", "image", "vstart", "vend")
backbone = official_qwen.Backbone(model)
network = official(backbone, *[case["ids"][n] for n in names], num_selected_patches=case["patches"])
model.requires_grad_(False)
trained = [p for n, p in model.named_parameters() if any(t in n for t in case["trained"])]
for parameter in trained:
    parameter.requires_grad_(True)
optimiser = torch.optim.AdamW(trained, lr=case["lr"], weight_decay=0.01)
inputs = dict(
    input_ids=torch.tensor(case["inputIds"], device=device),
    attention_mask=torch.tensor(case["attentionMask"], device=device),
    labels=torch.tensor(case["labels"], device=device),
    position_ids=torch.tensor(case["positionIds"], device=device),
    pixel_values=pixels.to(device),
    image_grid_thw=torch.tensor([[1, *case["grid"]]] * case["images"], device=device),
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
    if device != "cpu":
        torch.cuda.synchronize()
    seconds.append(time.perf_counter() - started)
    processor.append(time.process_time() - before)
    del loss
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
gpu = {} if device == "cpu" else dict(gpuPeakMegabytes=torch.cuda.max_memory_allocated() / 2**20)
versions = dict(torch=torch.__version__)
print(json.dumps(dict(losses=losses, seconds=seconds, processor=processor, peakMegabytes=peak, versions=versions, **gpu)))
