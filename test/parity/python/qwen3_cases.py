"""qwen3-forward.json, qwen3-generate.json and qwen3-train.json: transformers' Qwen3-VL, and the method rendered over it.

In qwen3-*-plain.json the patches that a latent step puts in again are embeddings alone; in the others their DeepStack features come along.
"""

import os
import types
import forward_cases
import latent_cases
import qwen3_model

# Grids smaller and larger than the learned positions; see forward_cases.CASES.
FORWARD = [
    dict(name="gqa, 8x12", shape="gqa", tie=False, rows=[[9, (8, 12), 14]]),
    dict(name="gqa tied, 20x20", shape="gqa", tie=True, rows=[[5, (20, 20), 21]]),
    dict(name="wide heads, smallest image 2x2", shape="wide", tie=False, rows=[[3, (2, 2), 7]]),
    dict(name="wide heads tied, 12x20, three levels", shape="wide", tie=True, rows=[[11, (12, 20), 6]]),
    dict(name="one level, tall 20x6, sections that run past the end", shape="one", tie=False, rows=[[2, (20, 6), 9]]),
    dict(name="levels out of order, one in every layer, 14x22", shape="all", tie=False, rows=[[8, (14, 22), 17]]),
    dict(name="two images in one row", shape="gqa", tie=False, rows=[[4, (4, 4), 6, (12, 10), 10]]),
    dict(name="two rows, two grids", shape="wide", tie=True, rows=[[7, (8, 12), 9], [5, (12, 20), 9]]),
    dict(name="three rows, left-padded", shape="gqa", tie=False, rows=[[9, (10, 10), 30], [4, (10, 10), 12], [6, (8, 8), 3]]),
    dict(name="rows with and without image", shape="one", tie=True, rows=[[6, (12, 12), 5], [13]]),
    dict(name="text only, left-padded", shape="gqa", tie=False, rows=[[7], [19], [1]]),
]

# shape, tied, T latent steps, K patches, grid (height, width), text tokens around the image, positions
GENERATE = [
    ("gqa", False, 0, 8, (8, 12), 20, "mrope"),
    ("gqa", False, 1, 1, (4, 4), 6, "mrope"),
    ("gqa", True, 1, 8, (12, 20), 33, "mrope"),
    ("gqa", False, 2, 8, (12, 20), 40, "sequential"),
    ("gqa", True, 3, 12, (16, 16), 30, "mrope"),
    ("gqa", False, 4, 5, (20, 8), 17, "mrope"),
    ("wide", False, 1, 16, (8, 20), 12, "mrope"),
    ("wide", True, 2, 10, (12, 8), 18, "mrope"),
    ("wide", False, 3, 8, (8, 12), 26, "sequential"),
    ("wide", False, 4, 2, (6, 10), 10, "mrope"),
    ("one", False, 0, 12, (12, 12), 30, "sequential"),
    ("one", False, 2, 10, (20, 4), 14, "mrope"),
    ("one", True, 3, 6, (4, 20), 23, "mrope"),
    ("all", False, 1, 9, (12, 12), 27, "sequential"),
    ("all", True, 3, 15, (14, 16), 36, "mrope"),
    ("all", False, 4, 11, (16, 18), 24, "mrope"),
]
PLAIN_GENERATE = [GENERATE[2], GENERATE[7], GENERATE[12], GENERATE[15]]

# shape, tied, T, K, grids (one a row), text tokens of the first row (+7 a further row), positions, whether gradients flow through the latent steps
TRAIN = [
    ("gqa", False, 2, 8, [(12, 20), (8, 12)], 24, "mrope"),
    ("wide", True, 3, 6, [(8, 12), (8, 12)], 22, "sequential"),
    ("one", False, 1, 12, [(12, 12)], 28, "mrope"),
    ("all", False, 0, 8, [(8, 8), (6, 12)], 17, "mrope"),
    ("gqa", False, 3, 6, [(8, 12), (12, 12)], 20, "mrope", "through"),
    ("all", True, 2, 9, [(12, 12)], 26, "sequential", "through"),
]


def make(out):
    plain = types.SimpleNamespace(**{**vars(qwen3_model), "further": qwen3_model.embedding_only})
    forward_cases.make_cases(os.path.join(out, "qwen3-forward.json"), FORWARD, 40000, qwen3_model)
    latent_cases.make_generate(os.path.join(out, "qwen3-generate.json"), GENERATE, 41000, qwen3_model)
    latent_cases.make_train(os.path.join(out, "qwen3-train.json"), TRAIN, 43000, qwen3_model)
    latent_cases.make_generate(os.path.join(out, "qwen3-generate-plain.json"), PLAIN_GENERATE, 44000, plain)
    latent_cases.make_train(os.path.join(out, "qwen3-train-plain.json"), [*TRAIN[:2], TRAIN[4]], 45000, plain)
