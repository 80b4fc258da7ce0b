"""How goldens are written: rounded numbers, one case per line, checksums that notice a wrong order."""

import json
import os
import numpy
import torch


def rounded(values):
    """Nested floats with nine significant digits: exact for float32."""
    if torch.is_tensor(values):
        values = values.detach().tolist()
    if isinstance(values, (list, tuple)):
        return [rounded(v) for v in values]
    return float(f"{values:.9g}") if isinstance(values, float) else values


def stats(values, first=64):
    """Shape, leading numbers and three sums (float64) over the flat row-major values.

    `weighted` = sum of x[i] * ((i mod 97) + 1) / 97: two swapped rows keep `sum` but change this one.
    """
    flat = torch.as_tensor(values).detach().reshape(-1).double()
    weight = (torch.arange(flat.numel(), dtype=torch.float64) % 97 + 1) / 97
    return dict(
        shape=list(values.shape),
        first=rounded(flat[:first].tolist()),
        sum=rounded(flat.sum().item()),
        abs_sum=rounded(flat.abs().sum().item()),
        weighted=rounded((flat * weight).sum().item()),
    )


def versions(**more):
    import transformers

    return dict(
        torch=torch.__version__,
        transformers=transformers.__version__,
        numpy=numpy.__version__,
        cpu=torch.backends.cpu.get_cpu_capability(),
        **more,
    )


def write_cases(path, header, cases, key="cases"):
    """One JSON file: the header's fields, then the cases, one per line, so that a change is readable in a diff."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n")
        for name, value in header.items():
            file.write(f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)},\n")
        file.write(f"{json.dumps(key)}: [\n")
        file.write(",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases))
        file.write("\n]\n}\n")
    print(f"wrote {path}: {len(cases)} {key}, {os.path.getsize(path) / 1024:.0f} KiB", flush=True)
