"""Run by preprocess_cases.py under other releases of Pillow: resizes raw RGB pictures and writes the raw results."""

import gzip
import json
import sys
from PIL import Image

for job in json.load(sys.stdin):
    with gzip.open(job["from"]) as file:
        image = Image.frombytes("RGB", tuple(job["stored"]), file.read())
    resized = image.resize(tuple(job["size"]), Image.Resampling[job["filter"].upper()])
    with open(job["to"], "wb") as file:
        file.write(resized.tobytes())
