"""Bridge to the official IVT-LR code for Chameleon: imported from a checkout at run time, nothing of it is kept here.

It wants a PEFT model around transformers' (three layers deep) whose image tokens come as (pictures, N); the classes below show it that.
"""

import torch
import official_qwen
from chameleon_model import SHAPES, build, special_ids


def load(official):
    """The official class for Chameleon."""
    import transformers

    transformers.ChameleonProcessor.from_pretrained = classmethod(lambda *_, **__: None)
    return official_qwen.import_official(official, "chameleon", "chameleon_ivtlr")


class Inner(torch.nn.Module):
    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    @property
    def model(self):
        return self.whole.model


class Backbone(torch.nn.Module):
    """A model of today's transformers behind the few members the official code uses; keeps each call's last logits."""

    def __init__(self, model):
        super().__init__()
        self.inner = Inner(model)
        self.last_rows = []

    @property
    def model(self):
        return self.inner

    def get_input_embeddings(self):
        return self.inner.whole.get_input_embeddings()

    def forward(self, **given):
        out = self.inner.whole(**given)
        self.last_rows.append(out.logits[0, -1].detach())
        return out


def network_of(official_class, backbone, ids, patches):
    official_qwen.picks.clear()
    official_qwen.gaps.clear()
    return official_class(
        backbone, ids["latent"], ids["slat"], ids["elat"], ids["eos"], ids["image"], num_selected_patches=patches
    )


def assemble(official_class, shape, seed, tie, patches, eos=2):
    """(official network, its backbone, the transformers model, ids of the special tokens)."""
    model, ids = build(SHAPES[shape], seed, tie), special_ids(SHAPES[shape]["vocab"], eos)
    backbone = Backbone(model)
    return network_of(official_class, backbone, ids, patches), backbone, model, ids
