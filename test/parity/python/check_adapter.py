"""Reads the adapters that test/parity/train-adapter.mjs wrote into DIR with PEFT and compares the logits: check_adapter.py DIR [qwen25|qwen3|smolvlm]"""

import json
import os
import sys
import warnings
import torch
from peft import PeftModel

LIMIT = 1e-5


def of_family(goldens, family):
    """(a function that loads the base, the inputs of its forward)."""
    if family == "smolvlm":
        from transformers import AutoModelForImageTextToText
        from smolvlm_folders import one_row

        base = os.path.join(goldens, "smolvlm-bf16-sharded")
        load = lambda: AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
        return load, one_row(19)[3]
    if family:
        from qwen_folders import FAMILIES, question

        known = FAMILIES[family]
        base = os.path.join(goldens, f"{family}-bf16-sharded")
        load = lambda: known.model.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
        return load, question(known)[1]
    from lora_cases import base_model, inputs

    return lambda: base_model(goldens, torch.float32), inputs()[1]


def main(folder, family=None):
    goldens = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "goldens")
    with open(os.path.join(folder, "result.json"), encoding="utf-8") as file:
        ours = torch.tensor(json.load(file)["logits"])
    load, given = of_family(goldens, family)
    worst = 0.0
    for style in [style for style in ("nested", "flat") if os.path.isdir(os.path.join(folder, style))]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(load(), os.path.join(folder, style)).eval()
        missing = [str(w.message).splitlines()[0] for w in caught if "missing adapter keys" in str(w.message)]
        if missing:
            print(f"{style}: this transformers has other module paths ({missing[0][:80]}..)")
            if style == "nested" or family == "smolvlm":
                sys.exit(1)
            continue
        with torch.no_grad():
            theirs = model(**given).logits[0, -1]
            with model.disable_adapter():
                plain = model(**given).logits[0, -1]
        scale = theirs.abs().max()
        difference, effect = ((theirs - ours).abs().max() / scale).item(), ((theirs - plain).abs().max() / scale).item()
        print(f"{style}: PEFT's logits differ by {difference:.2e} (the adapter changes them by {effect:.2f})")
        worst = max(worst, difference)
        if effect < 0.05:
            sys.exit("the adapter does nothing")
    sys.exit(0 if worst < LIMIT else f"the logits differ by more than {LIMIT}")


if __name__ == "__main__":
    main(*sys.argv[1:])
