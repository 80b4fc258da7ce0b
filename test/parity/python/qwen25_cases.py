"""qwen25-forward.json, qwen25-generate.json and qwen25-train.json: transformers' Qwen2.5-VL, and the method rendered over it."""

import os
import forward_cases
import latent_cases
import qwen25_model

# Grids whose sides are whole windows, none, or some and a rest; see forward_cases.CASES.
FORWARD = [
    dict(name="gqa, 8x16, whole windows", shape="gqa", tie=False, rows=[[9, (8, 16), 14]]),
    dict(name="gqa tied, 20x20, rests at both sides", shape="gqa", tie=True, rows=[[5, (20, 20), 21]]),
    dict(name="mha, smallest image 4x4, a window of two tokens", shape="mha", tie=False, rows=[[3, (4, 4), 7]]),
    dict(name="mha tied, 12x20, no full attention", shape="mha", tie=True, rows=[[11, (12, 20), 6]]),
    dict(name="mqa, tall 20x6, full attention only", shape="mqa", tie=False, rows=[[2, (20, 6), 9]]),
    dict(name="deep vision, 14x22, windows of three tokens", shape="deep", tie=False, rows=[[8, (14, 22), 17]]),
    dict(name="two images in one row", shape="gqa", tie=False, rows=[[4, (4, 4), 6, (12, 10), 10]]),
    dict(name="two rows, two grids", shape="deep", tie=True, rows=[[7, (8, 12), 9], [5, (12, 20), 9]]),
    dict(name="three rows, left-padded", shape="gqa", tie=False, rows=[[9, (10, 10), 30], [4, (10, 10), 12], [6, (8, 8), 3]]),
    dict(name="text only, left-padded", shape="mha", tie=False, rows=[[7], [19], [1]]),
]

# shape, tied, T latent steps, K patches, grid (height, width), text tokens around the image, positions
GENERATE = [
    ("gqa", False, 0, 8, (8, 12), 20, "mrope"),
    ("gqa", False, 1, 1, (4, 4), 6, "mrope"),
    ("gqa", True, 1, 8, (12, 20), 33, "mrope"),
    ("gqa", False, 2, 8, (12, 20), 40, "sequential"),
    ("gqa", True, 3, 12, (16, 16), 30, "mrope"),
    ("gqa", False, 4, 5, (20, 8), 17, "mrope"),
    ("mha", False, 1, 16, (8, 20), 12, "mrope"),
    ("mha", True, 2, 10, (12, 8), 18, "mrope"),
    ("mha", False, 3, 8, (8, 12), 26, "sequential"),
    ("mha", False, 4, 2, (6, 10), 10, "mrope"),
    ("mqa", False, 0, 12, (12, 12), 30, "sequential"),
    ("mqa", False, 2, 10, (20, 4), 14, "mrope"),
    ("mqa", True, 3, 6, (4, 20), 23, "mrope"),
    ("deep", False, 1, 9, (12, 12), 27, "sequential"),
    ("deep", True, 3, 15, (14, 16), 36, "mrope"),
    ("deep", False, 4, 11, (16, 18), 24, "mrope"),
]

# shape, tied, T, K, grids (one a row), text tokens of the first row (+7 a further row), positions
TRAIN = [
    ("gqa", False, 2, 8, [(12, 20), (8, 12)], 24, "mrope"),
    ("mha", True, 3, 6, [(8, 12), (8, 12)], 22, "sequential"),
    ("mqa", False, 1, 12, [(12, 12)], 28, "mrope"),
    ("deep", False, 0, 8, [(8, 8), (6, 12)], 17, "mrope"),
]


def make(out):
    forward_cases.make_cases(os.path.join(out, "qwen25-forward.json"), FORWARD, 30000, qwen25_model)
    latent_cases.make_generate(os.path.join(out, "qwen25-generate.json"), GENERATE, 31000, qwen25_model)
    latent_cases.make_train(os.path.join(out, "qwen25-train.json"), TRAIN, 33000, qwen25_model)
