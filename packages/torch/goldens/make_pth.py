"""Writes the files the tests of openPth read, and pth/values.json with what is in them. By hand, after a change here:

python packages/torch/goldens/make_pth.py      (torch 2.13)
"""

import collections
import json
import os
import pathlib

import torch

here = pathlib.Path(__file__).parent / "pth"


def pattern(*shape, dtype=torch.float32):
    """As in make.py: element i is ((7919 i) mod 23 - 11) / 8."""
    count = 1
    for size in shape:
        count *= size
    return (((torch.arange(count) * 7919) % 23 - 11).to(torch.float64) / 8).to(dtype).reshape(shape)


def described(state):
    return {
        name: dict(
            dtype=str(value.dtype).removeprefix("torch."),
            shape=list(value.shape),
            values=value.detach().double().flatten().tolist(),
        )
        for name, value in state.items()
        if torch.is_tensor(value) and not value.is_complex()
    }


class Code:
    """What a malicious file carries: unpickling it would run a command."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def main():
    here.mkdir(exist_ok=True)
    dtypes = [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
    ]
    state = collections.OrderedDict(
        (str(t).removeprefix("torch."), (pattern(2, 3, dtype=torch.float64) * 8).to(t)) for t in dtypes
    )
    state["uint8"] = torch.tensor([0, 1, 128, 255], dtype=torch.uint8)
    state["bool"] = torch.tensor([[True, False, True]])
    state["scalar"] = torch.tensor(-2.5)
    state["empty"] = torch.empty(0, 3)
    memory = pattern(4, 5, 6)
    state["whole"] = memory
    state["transposed"] = memory.permute(2, 0, 1)
    state["part"] = memory[1:3, ::2, 1:5:3]
    state["row"] = memory[2, 3]
    state["column"] = memory[:, 0, 0]
    state["shared"] = memory
    state["parameter"] = torch.nn.Parameter(pattern(3, 2))
    state["bfloat16 part"] = pattern(6, 4, dtype=torch.bfloat16).T[1:3]
    state["complex"] = torch.complex(pattern(2), pattern(2))
    state["name with\nnewline, é and 字"] = pattern(2)
    state.update(epoch=3, lr=1e-3, big=2**40, done=False, nothing=None, text="x", pair=(1, 2), names=["a", {"b": 1}])
    torch.save(state, here / "state-dict.pth")

    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(pattern(*parameter.shape))
    torch.save(module.state_dict(), here / "module.pth")
    torch.save(module.state_dict(), here / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(dict(model=module.state_dict(), epoch=3), here / "nested.pth")
    torch.save(module, here / "whole-module.pth")
    torch.save(pattern(3), here / "bare-tensor.pth")
    torch.save(dict(weight=pattern(3), code=Code()), here / "code.pth")
    torch.save(dict(weight=pattern(3)), here / "protocol-4.pth", pickle_protocol=4)
    torch.save(dict(weight=pattern(4).to(torch.float8_e4m3fn)), here / "float8.pth")
    torch.serialization.set_crc32_options(False)
    torch.save(module.state_dict(), here / "no-checksums.pth")

    values = {"state-dict.pth": described(state), "module.pth": described(module.state_dict())}
    (here / "values.json").write_text(json.dumps(values, ensure_ascii=False) + "\n")


main()
