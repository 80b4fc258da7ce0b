"""Tiny Chameleon models whose weights can be drawn again anywhere from a seed, by the rule of tiny_model.py.

Pictures: `torch.manual_seed(seed + 1)`, then one `torch.randn(pictures, 3, 16, 16)`, stretched bilinearly to the size the model takes.
"""

import torch
from transformers import ChameleonConfig, ChameleonForConditionalGeneration
from tiny_model import TextSource, draw

# ids 0..3 stand for pad, bos, eos and a spare; then come the image codes
FIRST_CODE, FIRST_TEXT = 4, 100
FIVE_LEVELS = dict(base=32, mult=[1, 1, 1, 1, 1], blocks=1, attn=None, type="vanilla", codes=64, embed=16, latent=16)

SHAPES = {
    "mha": dict(hidden=64, layers=3, heads=4, kv=4, inter=128, vocab=320, vq=dict(FIVE_LEVELS, res=64)),
    "gqa": dict(hidden=64, layers=2, heads=4, kv=2, inter=96, vocab=320, theta=5e5, vq=dict(FIVE_LEVELS, res=96)),
    "swin": dict(hidden=64, layers=3, heads=4, kv=4, inter=128, vocab=320, swin=True, vq=dict(FIVE_LEVELS, res=64)),
    # one key head for six query heads, no attention among the places of a picture
    "mqa": dict(hidden=96, layers=2, heads=6, kv=1, inter=160, vocab=352, swin=True, vq=dict(FIVE_LEVELS, res=64, type="none")),
    # other levels, two blocks each, attention at one of them
    "deep": dict(
        hidden=128,
        layers=4,
        heads=4,
        kv=2,
        inter=192,
        vocab=320,
        vq=dict(FIVE_LEVELS, res=32, mult=[1, 2, 1], blocks=2, attn=[16], embed=24),
    ),
    # the real picture size and number of tokens
    "full": dict(hidden=64, layers=3, heads=4, kv=4, inter=128, vocab=320, vq=dict(FIVE_LEVELS, res=512)),
    "full gqa": dict(hidden=64, layers=2, heads=4, kv=2, inter=96, vocab=320, vq=dict(FIVE_LEVELS, res=512)),
    "full mqa": dict(hidden=96, layers=2, heads=6, kv=1, inter=160, vocab=352, vq=dict(FIVE_LEVELS, res=512)),
    "full deep": dict(hidden=128, layers=4, heads=4, kv=4, inter=192, vocab=320, vq=dict(FIVE_LEVELS, res=512)),
    # many codes, the real shape of levels
    "tokens": dict(
        hidden=32,
        layers=1,
        heads=2,
        kv=2,
        inter=32,
        vocab=640,
        vq=dict(base=32, mult=[1, 1, 2, 2, 4], blocks=2, attn=None, type="vanilla", codes=512, embed=16, latent=16, res=512),
    ),
}


def special_ids(vocab, eos=2):
    return dict(image=vocab - 1, latent=vocab - 4, slat=vocab - 5, elat=vocab - 6, eos=eos)


def code_name(code):
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


def flat_config(dims, tie=False):
    """config.json in the style of the hub's Chameleon of 2024."""
    ids, vq = special_ids(dims["vocab"]), dims["vq"]
    return dict(
        architectures=["ChameleonForConditionalGeneration"],
        model_type="chameleon",
        torch_dtype="float32",
        attention_bias=False,
        attention_dropout=0.0,
        bos_token_id=1,
        pad_token_id=0,
        eos_token_id=ids["eos"],
        hidden_act="silu",
        hidden_size=dims["hidden"],
        intermediate_size=dims["inter"],
        max_position_embeddings=4096,
        mlp_bias=False,
        num_attention_heads=dims["heads"],
        num_hidden_layers=dims["layers"],
        num_key_value_heads=dims["kv"],
        rms_norm_eps=1e-5,
        rope_scaling=None,
        rope_theta=dims.get("theta", 10000.0),
        swin_norm=dims.get("swin", False),
        tie_word_embeddings=tie,
        vocab_size=dims["vocab"],
        vocabulary_map={
            **{code_name(code): FIRST_CODE + code for code in range(vq["codes"])},
            "<image>": ids["image"],
        },
        vq_config=dict(
            attn_resolutions=vq["attn"],
            attn_type=vq["type"],
            base_channels=vq["base"],
            channel_multiplier=vq["mult"],
            double_latent=False,
            embed_dim=vq["embed"],
            in_channels=3,
            latent_channels=vq["latent"],
            num_embeddings=vq["codes"],
            num_res_blocks=vq["blocks"],
            resolution=vq["res"],
        ),
    )


def image_tokens(dims):
    return (dims["vq"]["res"] // 2 ** (len(dims["vq"]["mult"]) - 1)) ** 2


def bare(dims, tie=False):
    config = ChameleonConfig(**{k: v for k, v in flat_config(dims, tie).items() if k not in ("torch_dtype", "rope_scaling")})
    assert config.rope_parameters["rope_theta"] == dims.get("theta", 10000.0)
    config._attn_implementation = "eager"
    model = ChameleonForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    return model


def draw_weights(model, seed):
    named = dict(model.named_parameters())
    torch.manual_seed(seed)
    with torch.no_grad():
        for name in sorted(named):
            named[name].copy_(draw(name, tuple(named[name].shape)))
    return model


def build(dims, seed, tie=False, dtype=torch.float32):
    model = draw_weights(bare(dims, tie), seed)
    assert ("lm_head.weight" in dict(model.named_parameters())) == (not tie)
    return model.to(dtype)


def draw_pictures(seed, count, side):
    """(pictures, 3, side, side)"""
    torch.manual_seed(seed + 1)
    noise = torch.randn(count, 3, 16, 16)
    return torch.nn.functional.interpolate(noise, size=(side, side), mode="bilinear", align_corners=False)


def codes_of(model, pixels):
    """Image codes (pictures, N), and the smallest gap between the nearest and the next code vector."""
    vq, codes, gap = model.model.vqmodel, [], float("inf")
    with torch.no_grad():
        for picture in pixels:
            hidden = vq.quant_conv(vq.encoder(picture[None]))
            codes.append(vq.quantize(hidden)[2].flatten().tolist())
            vectors = hidden.permute(0, 2, 3, 1).flatten(0, 2).double()
            nearest = torch.cdist(vectors, vq.quantize.embedding.weight.double()).square().topk(2, largest=False).values
            gap = min(gap, (nearest[:, 1] - nearest[:, 0]).min().item())
    return codes, gap


def text_source(seed, dims):
    return TextSource(seed, dims["vocab"], FIRST_TEXT if dims["vq"]["codes"] <= 64 else FIRST_CODE + dims["vq"]["codes"])
