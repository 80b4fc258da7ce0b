"""A plain FastAPI over transformers' generate(): `python serve_peer.py FOLDER PORT THREADS`.

Qwen2-VL of the folder in bfloat16 with SDPA. Requests are answered one after the other, as generate() has one batch at a time; no latent steps, which it does not have.
"""

import base64
import io
import sys
import threading

import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

folder, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
pictures = Qwen2VLImageProcessorPil.from_pretrained(folder)
app = FastAPI()
lock = threading.Lock()


@app.get("/ready")
def ready():
    return {}


@app.post("/answer")
def answer(body: dict):
    image = Image.open(io.BytesIO(base64.b64decode(body["image"]))).convert("RGB")
    pixels = pictures(images=[image], return_tensors="pt")
    tokens = int(pixels["image_grid_thw"][0].prod()) // 4
    text = f"<|im_start|>user\n<|vision_start|>{'<|image_pad|>' * tokens}<|vision_end|>{body['question']}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, return_tensors="pt")
    count = body["max_tokens"]
    with lock, torch.inference_mode():
        types = (ids["input_ids"] == model.config.image_token_id).to(torch.int64)
        out = model.generate(
            **ids, **pixels, mm_token_type_ids=types, max_new_tokens=count, min_new_tokens=count, do_sample=False
        )
    return {"tokens": out.shape[1] - ids["input_ids"].shape[1], "prompt": ids["input_ids"].shape[1]}


uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
