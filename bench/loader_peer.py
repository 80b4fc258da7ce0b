"""Pillow and transformers' Qwen2-VL image processor over the JPEGs of a folder, as the official code prepares them: 280x280, one process."""

import glob
import json
import os
import sys
import time
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

torch.set_num_threads(1)
files = sorted(glob.glob(os.path.join(sys.argv[1], "*.jpg")))
processor = Qwen2VLImageProcessorPil()


def prepare(path):
    picture = Image.open(path).convert("RGB").resize((280, 280))
    return processor(images=[picture], return_tensors="pt")["pixel_values"]


for path in files[:10]:
    prepare(path)
started, used = time.perf_counter(), time.process_time()
for index in range(100):
    pixels = prepare(files[index % len(files)])
assert tuple(pixels.shape) == (400, 1176)
rate = 100 / (time.perf_counter() - started)
print(json.dumps(dict(samplesPerSecond=rate, processorMsPerSample=(time.process_time() - used) * 10)))
