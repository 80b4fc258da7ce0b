"""qwen-pictures-generate.json and qwen-pictures-train.json: several pictures in one question, and none, for all Qwen families."""

import os
import latent_cases
import qwen25_model
import qwen3_model
import tiny_model
from numbers_json import versions, write_cases

FAMILIES = {"qwen2-vl": tiny_model, "qwen2.5-vl": qwen25_model, "qwen3-vl": qwen3_model}

# Parts of a row as in forward_cases.CASES. Two pictures, three of which the steps take nearly all, fewer than K in all, none.
GENERATE = [
    ("gqa", False, 2, 6, [5, (8, 8), 4, (4, 12), 9], 0, "mrope"),
    ("gqa", True, 3, 5, [(4, 4), (8, 4), 7, (4, 8), 11], 0, "sequential"),
    ("gqa", False, 2, 9, [6, (4, 4), 3, (4, 6), 8], 0, "mrope"),
    ("gqa", True, 3, 8, [17], 0, "mrope"),
]

# Batches of rows with two pictures, one and none.
TRAIN = [
    ("gqa", False, 2, 6, [[4, (4, 8), 3, (4, 4), 6], [5, (8, 8), 7], [15]], 0, "mrope"),
    ("gqa", True, 2, 5, [[(4, 4), (4, 4), 9], [12]], 0, "sequential", "through"),
    ("gqa", False, 1, 4, [[14], [9]], 0, "mrope"),
]


def make(out):
    generated, trained = [], []
    for number, (name, family) in enumerate(FAMILIES.items()):
        files = [os.path.join(out, f"qwen-pictures-{kind}.json") for kind in ("generate", "train")]
        seed = 50000 + 1000 * number
        header, cases = latent_cases.generated(GENERATE, seed, family)
        generated += [dict(case, name=f"{name}: {case['name']}") for case in cases]
        train_header, cases = latent_cases.trained(TRAIN, seed + 500, family)
        trained += [dict(case, name=f"{name}: {case['name']}") for case in cases]
    write_cases(files[0], header, generated)
    write_cases(files[1], train_header, trained)
