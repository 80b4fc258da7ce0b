"""The Python side of bench/inference.mjs: the same latent reasoning on the same shape, timed by phase.

`transformers`: today's transformers as one would write it for speed: SDPA, key/value cache, only the rows a step adds are run, and the
attention row of the last query is computed beside SDPA. `official`: the official code from a checkout, through test/parity/python.
Reads the case written by bench/inference.mjs and prints one JSON object.
"""

import argparse
import json
import os
import re
import resource
import sys
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("--case", required=True)
arguments.add_argument("--which", required=True, choices=["transformers", "official", "make"])
arguments.add_argument("--official")
arguments.add_argument("--repeat", type=int, default=1)
args = arguments.parse_args()
with open(args.case, encoding="utf8") as file:
    case = json.load(file)

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AttentionInterface, AutoConfig, AutoModelForImageTextToText, DynamicCache  # noqa: E402
from transformers.initialization import no_init_weights  # noqa: E402
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402

torch.set_num_threads(case["threads"])
torch.set_default_device(case.get("device", "cpu"))
ids = case["ids"]
prompt, latents, patches, new_tokens = case["prompt"], case["latents"], case["patches"], case["newTokens"]
rows, columns = case["grid"]
places = torch.tensor([place for place, token in enumerate(prompt) if token == ids["image"]])
image_tokens = len(places)
tiles = case.get("tiles")


def build():
    """The case's model: loaded from its folder, or of its shape with small random weights."""
    attention = "eager" if args.which == "official" else "sdpa"
    if args.which != "make" and case.get("folder"):
        model = AutoModelForImageTextToText.from_pretrained(
            case["folder"], attn_implementation=attention, dtype=getattr(torch, case["dtype"])
        )
        return model.to(torch.get_default_device()).eval()
    config = AutoConfig.for_model(**case["config"])
    config._attn_implementation = attention
    torch.set_default_dtype(getattr(torch, case["dtype"]))
    with no_init_weights():
        model = AutoModelForImageTextToText.from_config(config)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    block = torch.randn(1 << 22)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0 if name.endswith("bias") else 1)
                continue
            scale = 0.02
            if case["spread"]:  # clear winners, so that other arithmetic picks the same
                scale = 0.6 if "embed_tokens" in name else 0.6 / parameter.flatten(1).shape[1] ** 0.5
                parameter.copy_(torch.randn(parameter.shape) * scale)
                continue
            scaled = (block * scale).to(parameter.dtype)
            flat = parameter.view(-1)
            for start in range(0, len(flat), len(block)):
                end = min(start + len(block), len(flat))
                flat[start:end] = scaled[: end - start]
    model.tie_weights()
    return model.eval()


def draw_pixels():
    if case.get("folder") and args.which != "make":
        from safetensors.torch import load_file

        return load_file(os.path.join(case["folder"], "inputs.safetensors"))["pixel_values"].to(torch.get_default_device())
    side = case["dims"].get("side")
    shape = (tiles, 3, side, side) if tiles else (rows * columns, case["dims"].get("patchValues", 3 * 2 * 14 * 14))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), device="cpu").to(torch.get_default_device())


def encode(model, pixels):
    """(image tokens, D), and the same of each DeepStack level, if the family has any."""
    if tiles:
        return model.get_image_features(pixel_values=pixels[None]).pooler_output.flatten(0, 1), []
    seen = model.model.visual(pixels, grid_thw=torch.tensor([[1, rows, columns]]))
    return seen.pooler_output, getattr(seen, "deepstack_features", None) or []


class Tap:
    """Sums, over layers, the last query's attention probabilities while it is on."""

    def __init__(self):
        self.on, self.sum, self.layers = False, None, 0

    def start(self):
        self.on, self.sum, self.layers = True, None, 0

    def stop(self):
        self.on = False
        return self.sum / self.layers

    def attend(self, module, query, key, value, attention_mask, **rest):
        if self.on and getattr(module, "layer_idx", None) is not None:  # the decoder's, not the vision tower's
            batch, heads, _, size = query.shape
            last = query[:, :, -1:].view(batch, key.shape[1], heads // key.shape[1], size)
            row = (last @ key.transpose(2, 3) * size**-0.5).softmax(-1, dtype=torch.float32).to(query.dtype).float()
            row = row.mean((1, 2))
            self.sum = row if self.sum is None else self.sum + row
            self.layers += 1
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)


def run_transformers(model, tap, pixels):
    """One answer: seconds per phase, picked columns, tokens."""
    decoder, head = model.model.text_model if tiles else model.model.language_model, model.lm_head
    picks, tokens = [], []
    started = time.perf_counter()
    embeds = decoder.embed_tokens(torch.tensor([prompt]))
    images, levels = encode(model, pixels.to(embeds.dtype))
    embeds[0, places] = images
    cache = DynamicCache(config=decoder.config)
    free = torch.ones(image_tokens, dtype=torch.bool)

    def forward(inputs, image_columns=(), features=()):
        """`features`: of each level, what is added at the columns."""
        past = cache.get_seq_length()
        positions = torch.arange(past, past + inputs.shape[1]).view(1, -1)
        if not tiles:  # M-RoPE's axes
            positions = positions.expand(3, 1, -1)
        further = {}
        if features:
            mask = torch.zeros(inputs.shape[:2], dtype=torch.bool)
            mask[0, image_columns] = True
            further = dict(visual_pos_masks=mask, deepstack_visual_embeds=list(features))
        return decoder(inputs_embeds=inputs, position_ids=positions, past_key_values=cache, use_cache=True, **further).last_hidden_state

    marks = []
    pending = (embeds, places, levels)
    for _ in range(latents):
        tap.start()
        hidden = forward(*pending)
        scores = tap.stop()[0, places]
        picked = scores.masked_fill(~free, float("-inf")).topk(patches, sorted=False)[1]
        free[picked] = False
        picks.append(places[picked].tolist())
        inserted = torch.cat([images[picked][None], hidden[:, -1:]], 1)
        pending = (inserted, slice(patches), [level[picked] for level in levels])
        marks.append(time.perf_counter())
    for _ in range(new_tokens):
        token = head(forward(*pending)[:, -1]).argmax(-1)
        tokens.append(token.item())
        pending = (decoder.embed_tokens(token)[:, None],)
        marks.append(time.perf_counter())
    return phases(started, marks), picks, tokens


def phases(started, marks):
    """marks: after each latent step's choice, then after each token."""
    first_hidden, first_token, end = marks[0], marks[latents], marks[-1]
    return dict(prefill=first_hidden - started, latents=first_token - first_hidden, decode=end - first_token)


def run_official(network, backbone, pixels, read_picks):
    """As the official generate() does it; the phases are read off its calls into the model."""
    inputs = torch.tensor([prompt + [ids["latent"]] * latents])
    backbone.marks.clear()
    read_picks.clear()
    started = time.perf_counter()
    out = network.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        pixel_values=pixels,
        image_grid_thw=torch.tensor([[1, rows, columns]]),
        max_new_tokens=new_tokens,
    )
    end = time.perf_counter()
    tokens = out[0, inputs.shape[1] :].tolist()
    # One call a latent step, one for the first token, then one a further token; a call's work ends where the next begins.
    marks = backbone.marks[1:] + [end]
    return phases(started, marks), [list(row) for row in read_picks[:latents]], tokens


def main():
    model = build()
    pixels = draw_pixels()
    if args.which == "make":
        from safetensors.torch import save_file

        model.save_pretrained(case["folder"])
        save_file({"pixel_values": pixels}, os.path.join(case["folder"], "inputs.safetensors"))
        return print("{}")
    if args.which == "transformers":
        tap = Tap()
        AttentionInterface.register("sdpa", tap.attend)

        def run():
            return run_transformers(model, tap, pixels)
    else:
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "test", "parity", "python"))
        import official_qwen

        class Backbone(official_qwen.Backbone):
            marks = []

            def forward(self, **given):
                if given.get("inputs_embeds") is not None:
                    given.pop("pixel_values", None)
                    given.pop("image_grid_thw", None)
                self.marks.append(time.perf_counter())
                return self.model(**given)

        official_class = official_qwen.load(os.path.abspath(args.official))
        backbone = Backbone(model)
        names = ("latent", "slat", "elat", "eos", "image", "vstart", "vend")
        network = official_class(backbone, *[ids[name] for name in names], num_selected_patches=patches)

        def run():
            return run_official(network, backbone, pixels, official_qwen.picks)

    with torch.inference_mode() if args.which == "transformers" else torch.no_grad():
        runs = [run() for _ in range(args.repeat)]
    _, picks, tokens = runs[-1]
    print(
        json.dumps(
            dict(
                runs=[seconds for seconds, _, _ in runs],
                picks=picks,
                tokens=tokens,
                peakMegabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                versions=dict(python=re.match(r"\S+", sys.version)[0], torch=torch.__version__, transformers=transformers.__version__),
            )
        )
    )


main()
