"""Tiny SmolVLM models whose weights can be drawn again anywhere from a seed, by the rule of tiny_model.py.

Pictures: `torch.manual_seed(seed + 1)`, then one `torch.randn(tiles, 3, side, side)` for all tiles of all pictures of a case, in row order.
"""

import torch
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, SmolVLMConfig, SmolVLMForConditionalGeneration
from tiny_model import TextSource, draw

TOWER = dict(dim=32, layers=2, heads=2, mlp=64, image=64, patch=8)

SHAPES = {
    # 16 tokens a tile
    "gqa": dict(type="idefics3", hidden=64, layers=3, heads=4, kv=2, inter=128, vocab=320, tile=64, scale=2, tower=TOWER),
    # four patches of a side become one token, as in the 256M and 500M models
    "mha": dict(type="smolvlm", hidden=64, layers=2, heads=4, kv=4, inter=96, vocab=320, tile=64, scale=4, theta=1e5, tower=dict(TOWER, image=128, patch=4)),
    # tiles that are no multiple of a patch, three patches of a side to a token, as in the 2.2B model
    "odd": dict(type="smolvlm", hidden=96, layers=2, heads=6, kv=1, inter=160, vocab=352, tile=76, scale=3, tower=dict(TOWER, dim=48, heads=3, image=76)),
    # tiles of other sizes than the positions were learned on
    "small tiles": dict(type="smolvlm", hidden=64, layers=2, heads=2, kv=1, inter=96, vocab=320, tile=48, scale=2, tower=TOWER),
    "large tiles": dict(type="idefics3", hidden=128, layers=4, heads=4, kv=2, inter=192, vocab=320, tile=96, scale=3, theta=5e5, tower=dict(TOWER, layers=3, dim=80, mlp=120)),
}

CLASSES = {
    "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
    "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
}


def special_ids(vocab, eos=2):
    return dict(image=vocab - 1, latent=vocab - 4, slat=vocab - 5, elat=vocab - 6, eos=eos)


def hub_config(dims, tie=False):
    """config.json in the style of the hub's folders of 2024, which leave out what has its default."""
    ids, tower = special_ids(dims["vocab"]), dims["tower"]
    _, model_class = CLASSES[dims["type"]]
    return dict(
        architectures=[model_class.__name__],
        image_token_id=ids["image"],
        model_type=dims["type"],
        scale_factor=dims["scale"],
        tie_word_embeddings=tie,
        torch_dtype="float32",
        pad_token_id=0,
        text_config=dict(
            model_type="llama",
            hidden_size=dims["hidden"],
            intermediate_size=dims["inter"],
            num_hidden_layers=dims["layers"],
            num_attention_heads=dims["heads"],
            num_key_value_heads=dims["kv"],
            vocab_size=dims["vocab"],
            rms_norm_eps=1e-5,
            rope_theta=dims.get("theta", 10000.0),
            max_position_embeddings=4096,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=ids["eos"],
        ),
        vision_config=dict(
            hidden_size=tower["dim"],
            intermediate_size=tower["mlp"],
            num_hidden_layers=tower["layers"],
            num_attention_heads=tower["heads"],
            image_size=tower["image"],
            patch_size=tower["patch"],
        ),
        vocab_size=dims["vocab"],
    )


def tile_tokens(dims):
    """Image tokens that a tile becomes."""
    return (dims["tile"] // dims["tower"]["patch"] // dims["scale"]) ** 2


def tiles_of(picture):
    """Tiles of a picture that is cut into rows and columns and seen once as a whole; (0, 0) is not cut."""
    rows, columns = picture
    return rows * columns + 1


def bare(dims, tie=False):
    config_class, model_class = CLASSES[dims["type"]]
    config = config_class(**{k: v for k, v in hub_config(dims, tie).items() if k not in ("torch_dtype", "model_type")})
    assert config.text_config.rope_parameters["rope_theta"] == dims.get("theta", 10000.0)
    config._attn_implementation = "eager"
    model = model_class(config).eval()
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


def draw_tiles(seed, tiles, side):
    torch.manual_seed(seed + 1)
    return torch.randn(tiles, 3, side, side)


def text_source(seed, dims):
    return TextSource(seed, dims["vocab"], 3)


def picture_ids(picture, dims, text):
    """Ids that stand for a picture: as in a prompt, two markers before the image tokens of each tile, one at a line's end and one behind all."""
    rows, columns = picture
    run = [special_ids(dims["vocab"])["image"]] * tile_tokens(dims)
    ids = []
    for _ in range(rows):
        for _ in range(columns):
            ids += text.ids(2) + run
        ids += text.ids(1)
    return ids + text.ids(2) + run + text.ids(1)
