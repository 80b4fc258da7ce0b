"""Bridge to the official IVT-LR code for Qwen2-VL: imported from a checkout at run time, nothing of it is kept here.

It was written for an older transformers; the classes below show it a model of today's transformers the way it expects.
"""

import importlib
import logging
import os
import re
import sys
import tempfile
import types
import torch
from tiny_model import SHAPES, build, special_ids

picks = []  # one list of absolute positions per (latent step, row), in the order picked
gaps = []  # per pick: (K-th score - next score, smallest difference of any two finite scores)


class _PickReader(logging.Handler):
    """The official code tells its picks only in its debug log."""

    def emit(self, record):
        text = record.getMessage()
        if text.startswith("abs idx"):
            picks.append([int(x) for x in re.findall(r"\d+", text[text.index("[") : text.index("]")])])


def import_official(official, folder, module):
    """The official class of a folder's module, with its log read instead of written and its choices watched."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.path.join(official, folder))
    back = os.getcwd()
    os.chdir(tempfile.mkdtemp())  # importing it opens a log file in the current folder
    network = importlib.import_module(module).IVTLR
    os.chdir(back)
    root = logging.getLogger()
    root.handlers = [_PickReader()]
    root.setLevel(logging.DEBUG)
    for name in ("transformers", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_printoptions(profile="full", linewidth=10**6)
    _watch_topk()
    return network


def load(official):
    """The official class for Qwen2-VL."""
    import transformers

    class NoText:
        @staticmethod
        def batch_decode(*_, **__):
            return []

    transformers.AutoProcessor.from_pretrained = classmethod(lambda *_, **__: types.SimpleNamespace(tokenizer=NoText))
    return import_official(official, "qwen_vl", "qwen_ivtlr")


def _watch_topk():
    """Notes how clear each choice was; the call itself is unchanged."""
    original = torch.Tensor.topk
    if original.__name__ == "watched_topk":
        return

    def watched_topk(self, k, *rest, **named):
        if self.dim() == 1:
            ordered = self.detach()[self.isfinite()].sort(descending=True).values.double()
            steps = (ordered[:-1] - ordered[1:]).tolist() + [float("inf")]  # nothing left to choose: perfectly clear
            gaps.append((steps[k - 1] if k <= len(ordered) else float("inf"), min(steps)))
        return original(self, k, *rest, **named)

    torch.Tensor.topk = watched_topk


class _Visual:
    def __init__(self, tower):
        self.tower = tower

    def get_dtype(self):
        return next(self.tower.parameters()).dtype

    def __call__(self, pixels, grid_thw=None):
        return self.tower(pixels, grid_thw=grid_thw).pooler_output


class Backbone(torch.nn.Module):
    """A model of today's transformers behind the few members the official code uses; keeps each call's last logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.visual = _Visual(model.model.visual)
        self.last_rows = []

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def forward(self, **given):
        if given.get("inputs_embeds") is not None:
            given.pop("pixel_values", None)
            given.pop("image_grid_thw", None)
        out = self.model(**given)
        self.last_rows.append(out.logits[0, -1].detach())
        return out


def assemble(official_class, shape, seed, tie, patches, eos=None):
    """(official network, its backbone, the transformers model, ids of the special tokens)."""
    dims = SHAPES[shape]
    ids = special_ids(dims["vocab"])
    if eos is not None:
        ids["eos"] = eos
    model = build(dims, seed, tie)
    backbone = Backbone(model)
    network = official_class(
        backbone,
        ids["latent"],
        ids["slat"],
        ids["elat"],
        ids["eos"],
        ids["image"],
        ids["vstart"],
        ids["vend"],
        num_selected_patches=patches,
    )
    picks.clear()
    gaps.clear()
    return network, backbone, model, ids
