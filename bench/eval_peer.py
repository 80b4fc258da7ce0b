"""The official side of bench/eval.mjs: its generate() on one sample after another, pictures read as its script reads them."""

import argparse
import json
import os
import re
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
import transformers  # noqa: E402
from PIL import Image  # noqa: E402

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "test", "parity", "python"))
import official_qwen  # noqa: E402

try:  # its name where torchvision is not needed
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as ImageProcessor  # noqa: E402
except ImportError:
    from transformers import Qwen2VLImageProcessor as ImageProcessor  # noqa: E402

torch.set_num_threads(case["threads"])
ids = case["ids"]
official_class = official_qwen.load(os.path.abspath(args.official))
model = transformers.Qwen2VLForConditionalGeneration.from_pretrained(
    case["folder"], attn_implementation="eager", dtype=getattr(torch, case["dtype"])
).eval()
names = ("latent", "slat", "elat", "eos", "image", "vstart", "vend")
network = official_class(
    official_qwen.Backbone(model), *[ids[name] for name in names], num_selected_patches=case["patches"]
)
processor = ImageProcessor()

rows = []
with torch.no_grad():
    for row in case["rows"]:
        started = time.perf_counter()
        picture = Image.open(row["image"]).convert("RGB").resize((280, 280))
        image = processor(images=[picture], return_tensors="pt")
        inputs = torch.tensor([row["promptIds"] + [ids["latent"]] * case["latents"]])
        out = network.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            pixel_values=image["pixel_values"],
            image_grid_thw=image["image_grid_thw"],
            max_new_tokens=case["maxNewTokens"],
        )
        tokens = out[0, inputs.shape[1] :].tolist()
        rows.append(dict(id=row["id"], tokens=tokens, seconds=time.perf_counter() - started))
print(
    json.dumps(
        dict(
            rows=rows,
            peakMegabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            versions=dict(python=re.match(r"\S+", sys.version)[0], torch=torch.__version__, transformers=transformers.__version__),
        )
    )
)
