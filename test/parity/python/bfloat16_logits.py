"""Last logits of a Qwen2-VL folder in bfloat16 and in float32 on a device: FOLDER DEVICE IDS.json. Prints one JSON object."""

import json
import sys

import torch
from transformers import AutoModelForImageTextToText

folder, device, file = sys.argv[1:]
with open(file, encoding="utf8") as source:
    rows = json.load(source)
torch.backends.cuda.matmul.allow_tf32 = False
out = {}
for dtype in ("bfloat16", "float32"):
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa").to(device).eval()
    with torch.inference_mode():
        out[dtype] = [model(input_ids=torch.tensor([row], device=device)).logits[0, -1].float().tolist() for row in rows]
print(json.dumps(out))
