"""The peer of ops.mjs: the same calls from Python. Prints one JSON object of best microseconds per call. Run by ops.mjs."""

import json
import sys
import time

import torch
from torch.nn.functional import linear

threads, rounds = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
small = torch.ones(16)
row = torch.ones(1, 8)
weight = torch.ones(8, 8)
bias = torch.ones(8)
big = torch.ones(1024, 1024)

cases = {
    "add": (1000, lambda: torch.add(small, small)),
    "add_method": (1000, lambda: small.add(small)),
    "linear_1x8": (1000, lambda: linear(row, weight, bias)),
    "cat": (1000, lambda: torch.cat([small, small], 0)),
    "slice": (1000, lambda: small[2:10]),
    "reshape": (1000, lambda: small.reshape(4, 4)),
    "softmax": (1000, lambda: small.softmax(-1)),
    "matmul_1024": (4, lambda: big.matmul(big)),
}


def best(count, call):
    result = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            call()
        result = min(result, (time.perf_counter() - start) / count * 1e6)
    return result


with torch.no_grad():
    for count, call in cases.values():  # warm up
        best(count, call)
    print(json.dumps({"version": torch.__version__, "microseconds": {name: best(*case) for name, case in cases.items()}}))
