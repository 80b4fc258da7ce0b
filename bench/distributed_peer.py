"""The peers' side of bench/distributed.mjs: one rank of the official code under PyTorch's DistributedDataParallel or fully_shard.

Arguments: the case's file, and {train, micros, zero} or {make: true} (make and save the model) as JSON. Prints one JSON object.
"""

import contextlib
import json
import os
import resource
import sys
import time

with open(sys.argv[1], encoding="utf8") as file:
    case = json.load(file)
how = json.loads(sys.argv[2])

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration  # noqa: E402

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "test", "parity", "python"))
import official_qwen  # noqa: E402

config = Qwen2VLConfig(**case["config"])
config._attn_implementation = "eager"
if how.get("make"):
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(config).save_pretrained(case["folder"])
    save_file(
        {"pixel_values": torch.randn(case["grid"][0] * case["grid"][1], 1176)},
        os.path.join(case["folder"], "inputs.safetensors"),
    )
    print("{}")
    sys.exit()

torch.set_num_threads(1)
world = int(os.environ["WORLD_SIZE"])
if world > 1:
    dist.init_process_group("gloo")
official = official_qwen.load(case["official"])
model = Qwen2VLForConditionalGeneration.from_pretrained(case["folder"], attn_implementation="eager")
if how["train"] == "lora":
    from peft import LoraConfig, inject_adapter_in_model

    lora = case["lora"]
    targets = r".*language_model.*\.(" + "|".join(lora["targets"]) + ")"
    model = inject_adapter_in_model(LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=targets), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    model.train()
else:
    model.requires_grad_(True).train()
names = ("latent", "slat", "elat", "eos", "image", "vstart", "vend")
backbone = official_qwen.Backbone(model)
network = official(backbone, *[case["ids"][n] for n in names], num_selected_patches=case["patches"])
sizes = dict(
    trained=sum(p.numel() for p in network.parameters() if p.requires_grad),
    all=sum(p.numel() for p in network.parameters()),
    gathered=dict(
        embedding=sum(p.numel() for p in model.model.language_model.embed_tokens.parameters()),
        vision=sum(p.numel() for p in model.model.visual.parameters()),
        layers=sum(p.numel() for p in model.model.language_model.layers.parameters()),
        head=sum(p.numel() for p in model.lm_head.parameters())
        + sum(p.numel() for p in model.model.language_model.norm.parameters()),
    ),
)
zero = how["zero"]
run = network
if world > 1 and zero == 0:
    run = DistributedDataParallel(network, gradient_as_bucket_view=True)
elif world > 1:
    mesh = init_device_mesh("cpu", (world,))
    text = model.model.language_model
    for unit in [text.embed_tokens, model.model.visual, *text.layers, network]:
        fully_shard(unit, mesh=mesh, reshard_after_forward=zero == 3)
optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=case["lr"], weight_decay=0.01)
inputs = dict(
    input_ids=torch.tensor(case["inputIds"]),
    attention_mask=torch.tensor(case["attentionMask"]),
    labels=torch.tensor(case["labels"]),
    position_ids=torch.tensor(case["positionIds"]),
    pixel_values=load_file(os.path.join(case["folder"], "inputs.safetensors"))["pixel_values"],
    image_grid_thw=torch.tensor([[1, *case["grid"]]]),
)


def sent():
    with open("/proc/net/dev", encoding="utf8") as counters:
        return int(next(line for line in counters if "lo:" in line).split()[9])


losses, seconds, start = [], [], 0
micros = how["micros"]
for step in range(case["steps"] + 1):
    if world > 1:
        dist.barrier()
    if step == 1:
        start = sent()
    started = time.perf_counter()
    mean = 0.0
    for micro in range(micros):
        last = micro == micros - 1
        backbone.last_rows.clear()
        official_qwen.picks.clear()
        official_qwen.gaps.clear()
        later = contextlib.nullcontext()
        if world > 1 and zero == 0 and not last:
            later = run.no_sync()
        elif world > 1 and zero == 1:
            network.set_requires_gradient_sync(last)
        with later:
            loss = run(**inputs).loss
            (loss / micros).backward()
        mean += loss.item() / micros
        del loss
    optimiser.step()
    optimiser.zero_grad()
    losses.append(mean)
    if step > 0:
        seconds.append(time.perf_counter() - started)
if world > 1:
    dist.barrier()
bytes_per_step = (sent() - start) / case["steps"] / world
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(dict(losses=losses, seconds=seconds, bytesPerStep=bytes_per_step, parameters=sizes, peakMegabytes=peak)))
sys.stdout.flush()
if world > 1:
    dist.destroy_process_group()
