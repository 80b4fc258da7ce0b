"""The Python side of bench/chameleon.mjs: transformers' picture tokenizer at its real size. `--make` writes the weights both sides read.

Prints one JSON object.
"""

import argparse
import json
import os
import re
import resource
import sys
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("folder")
arguments.add_argument("--make", action="store_true")
arguments.add_argument("--dtype", default="float32")
arguments.add_argument("--threads", type=int, required=True)
arguments.add_argument("--repeat", type=int, required=True)
args = arguments.parse_args()

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import ChameleonConfig, ChameleonForConditionalGeneration  # noqa: E402

torch.set_num_threads(args.threads)
device = os.environ.get("BENCH_DEVICE", "cpu")
torch.backends.cudnn.allow_tf32 = False
inputs = os.path.join(args.folder, "inputs.safetensors")


def make():
    """A decoder of one small layer behind the real picture tokenizer."""
    letters = [chr(ord("A") + digit) for digit in range(10)]
    names = {"IMGIMG" + "".join(letters[int(d)] for d in str(code)) + "Z": 4 + code for code in range(8192)}
    config = ChameleonConfig(
        vocab_size=8712,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocabulary_map={**names, "<image>": 8711},
    )
    torch.manual_seed(1)
    model = ChameleonForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.model.vqmodel.named_parameters():
            if parameter.dim() == 4:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
        model.model.vqmodel.quantize.embedding.weight.normal_(0, 0.6)
    model.save_pretrained(args.folder)
    noise = torch.randn(1, 3, 16, 16)
    pixels = torch.nn.functional.interpolate(noise, size=(512, 512), mode="bilinear", align_corners=False)
    save_file({"pixel_values": pixels.contiguous()}, inputs)
    return {}


def measure():
    dtype = getattr(torch, args.dtype)
    model = ChameleonForConditionalGeneration.from_pretrained(args.folder, dtype=dtype).to(device).eval()
    pixels = load_file(inputs)["pixel_values"].to(device, dtype)
    runs = []
    with torch.inference_mode():
        for _ in range(args.repeat):
            started = time.perf_counter()
            codes = model.model.get_image_tokens(pixels).flatten().tolist()
            runs.append(time.perf_counter() - started)
    return dict(
        runs=runs,
        codes=codes,
        peakMegabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        versions=dict(python=re.match(r"\S+", sys.version)[0], torch=torch.__version__, transformers=transformers.__version__),
    )


print(json.dumps(make() if args.make else measure()))
