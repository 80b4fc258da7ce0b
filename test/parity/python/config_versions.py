"""config.json files as several versions of transformers write them, and what they stand for: config-versions.json.

Run by make_goldens.py, which makes a small environment for each version (without torch: config classes need none) and lets this file run in it
with the argument `write`. What a file stands for is said twice: by the version that wrote it and by the version of requirements.txt reading it.
"""

import json
import os
import subprocess
import sys
import tempfile

VERSIONS = ["4.45.2", "4.46.3", "4.49.0", "4.51.3", "4.57.6"]

# The hub's flat files of 2024, in full.
QWEN = dict(
    architectures=["Qwen2VLForConditionalGeneration"],
    attention_dropout=0.0,
    bos_token_id=151643,
    eos_token_id=151645,
    vision_start_token_id=151652,
    vision_end_token_id=151653,
    vision_token_id=151654,
    image_token_id=151655,
    video_token_id=151656,
    hidden_act="silu",
    initializer_range=0.02,
    max_position_embeddings=32768,
    model_type="qwen2_vl",
    rms_norm_eps=1e-6,
    rope_theta=1000000.0,
    sliding_window=32768,
    torch_dtype="bfloat16",
    use_cache=True,
    use_sliding_window=False,
    rope_scaling=dict(type="mrope", mrope_section=[16, 24, 24]),
)


def qwen(hidden, layers, heads, kv, inter, vocab, tie, **more):
    sizes = dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv)
    sizes |= dict(intermediate_size=inter, vocab_size=vocab, max_window_layers=layers, tie_word_embeddings=tie)
    vision = dict(depth=32, embed_dim=1280, mlp_ratio=4, num_heads=16, in_chans=3, hidden_size=hidden, patch_size=14)
    vision |= dict(spatial_merge_size=2, spatial_patch_size=14, temporal_patch_size=2)
    return QWEN | sizes | dict(vision_config=vision) | more


def qwen25(hidden, layers, heads, kv, inter, vocab, tie, vision_inter, **more):
    """The hub's flat files of 2025."""
    flat = qwen(hidden, layers, heads, kv, inter, vocab, tie, **more)
    vision = dict(depth=32, hidden_act="silu", hidden_size=1280, intermediate_size=vision_inter, num_heads=16, in_chans=3)
    vision |= dict(out_hidden_size=hidden, patch_size=14, spatial_merge_size=2, spatial_patch_size=14, window_size=112)
    vision |= dict(fullatt_block_indexes=[7, 15, 23, 31], tokens_per_second=2, temporal_patch_size=2)
    return flat | dict(
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        model_type="qwen2_5_vl",
        max_position_embeddings=128000,
        vision_config=vision,
    )


QWEN25_PUBLISHED = {
    "3b": qwen25(2048, 36, 16, 2, 11008, 151936, True, 3420),
    "7b": qwen25(3584, 28, 28, 4, 18944, 152064, False, 3420),
    "72b": qwen25(8192, 80, 64, 8, 29568, 152064, False, 3456),
}


def qwen3(hidden, layers, heads, inter, tie, vision, levels):
    """The hub's files of the dense models. `vision`: depth, width, MLP."""
    depth, dim, mlp = vision
    return dict(
        architectures=["Qwen3VLForConditionalGeneration"],
        image_token_id=151655,
        model_type="qwen3_vl",
        text_config=dict(
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=151643,
            dtype="bfloat16",
            eos_token_id=151645,
            head_dim=128,
            hidden_act="silu",
            hidden_size=hidden,
            initializer_range=0.02,
            intermediate_size=inter,
            max_position_embeddings=262144,
            model_type="qwen3_vl_text",
            num_attention_heads=heads,
            num_hidden_layers=layers,
            num_key_value_heads=8,
            rms_norm_eps=1e-6,
            rope_scaling=dict(mrope_interleaved=True, mrope_section=[24, 20, 20], rope_type="default"),
            rope_theta=5000000,
            tie_word_embeddings=tie,
            use_cache=True,
            vocab_size=151936,
        ),
        tie_word_embeddings=tie,
        transformers_version="4.57.0.dev0",
        video_token_id=151656,
        vision_config=dict(
            deepstack_visual_indexes=levels,
            depth=depth,
            hidden_act="gelu_pytorch_tanh",
            hidden_size=dim,
            in_channels=3,
            initializer_range=0.02,
            intermediate_size=mlp,
            model_type="qwen3_vl",
            num_heads=16,
            num_position_embeddings=2304,
            out_hidden_size=hidden,
            patch_size=16,
            spatial_merge_size=2,
            temporal_patch_size=2,
        ),
        vision_end_token_id=151653,
        vision_start_token_id=151652,
    )


QWEN3_PUBLISHED = {
    "2b": qwen3(2048, 28, 16, 6144, True, (24, 1024, 4096), [5, 11, 17]),
    "4b": qwen3(2560, 36, 32, 9728, True, (24, 1024, 4096), [5, 11, 17]),
    "8b": qwen3(4096, 36, 32, 12288, False, (27, 1152, 4304), [8, 16, 24]),
    "32b": qwen3(5120, 64, 64, 25600, False, (27, 1152, 4304), [8, 16, 24]),
}


def tiny_qwen(**more):
    """The shape of the folders hf-tiny-*, whose weights are stored."""
    ids = dict(image_token_id=159, vision_start_token_id=158, vision_end_token_id=157, eos_token_id=153, bos_token_id=153)
    config = qwen(32, 2, 2, 1, 48, 160, False, max_position_embeddings=4096, **ids)
    config["rope_scaling"] = dict(type="mrope", mrope_section=[2, 3, 3])
    config["vision_config"] |= dict(depth=1, embed_dim=16, num_heads=2)
    return config | more


CHAMELEON = dict(
    architectures=["ChameleonForConditionalGeneration"],
    attention_bias=False,
    attention_dropout=0.0,
    bos_token_id=1,
    eos_token_id=2,
    hidden_act="silu",
    hidden_size=4096,
    initializer_range=0.02,
    intermediate_size=11008,
    max_position_embeddings=4096,
    mlp_bias=False,
    model_parallel_size=1,
    model_type="chameleon",
    num_attention_heads=32,
    num_hidden_layers=32,
    num_key_value_heads=32,
    pad_token_id=1,
    rms_norm_eps=1e-5,
    rope_scaling=None,
    rope_theta=10000.0,
    swin_norm=False,
    tie_word_embeddings=False,
    torch_dtype="bfloat16",
    use_cache=True,
    vocab_size=65536,
    # The image codes are left out: thousands of entries that every version copies.
    vocabulary_map={"<image>": 8711},
    vq_config=dict(
        attn_resolutions=None,
        attn_type="vanilla",
        base_channels=128,
        channel_multiplier=[1, 1, 2, 2, 4],
        double_latent=False,
        dropout=0.0,
        embed_dim=256,
        in_channels=3,
        latent_channels=256,
        num_embeddings=8192,
        num_res_blocks=2,
        resolution=512,
    ),
)

SMALL_VQ = dict(base_channels=32, channel_multiplier=[1, 1, 1, 1, 1], num_res_blocks=1, num_embeddings=64, embed_dim=16)
LONG = dict(factor=4.0, original_max_position_embeddings=32768, mrope_section=[16, 24, 24])

# What the hub's SmolVLM folders say of their decoder beside its sizes.
LLAMA = dict(
    _flash_attn_2_enabled=True,
    architectures=["VLlama3ForCausalLM"],
    bos_token_id=1,
    eos_token_id=2,
    is_llama_config=True,
    max_position_embeddings=8192,
    mlp_bias=False,
    model_type="llama",
    neftune_noise_alpha=0.0,
    pad_token_id=2,
    qk_layer_norms=False,
    rms_norm_eps=1e-5,
    rope_interleaved=False,
    rope_scaling=None,
    torch_dtype="bfloat16",
    use_cache=True,
    use_resampler=False,
)


def smolvlm(model_type, text, vision, scale, tie=False, image=49190):
    """`text`: hidden size, layers, heads, key heads, inner size, vocabulary, rope_theta. `vision`: hidden size, inner size, layers, heads, image, patch."""
    names = "hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size vocab_size rope_theta".split()
    tower = "hidden_size intermediate_size num_hidden_layers num_attention_heads image_size patch_size".split()
    kept = {name: value for name, value in zip(tower, vision) if value is not None}
    name = dict(idefics3="Idefics3", smolvlm="SmolVLM")[model_type]
    return dict(
        architectures=[f"{name}ForConditionalGeneration"],
        image_token_id=image,
        model_type=model_type,
        pad_token_id=2,
        scale_factor=scale,
        text_config=LLAMA | dict(zip(names, text)) | dict(pixel_shuffle_factor=scale),
        tie_word_embeddings=tie,
        torch_dtype="bfloat16",
        use_cache=True,
        vision_config=dict(model_type=model_type, tie_word_embeddings=False, use_base_siglip=False) | kept,
        vocab_size=text[5],
    )


# The hub's files leave out what has its default: the small towers' inner size and number of layers.
SMALL_TOWER = (768, None, None, 12, 512, 16)
LARGE_TOWER = (1152, 4304, 27, 16, 384, 14)
TINY_LLAMA, TINY_TOWER = (32, 2, 2, 1, 48, 320, 10000.0), (16, 24, 1, 2, 32, 4)


def smolvlms(model_type):
    """Idefics3, SmolVLM and SmolVLM2 say the same of themselves under two names. `tiny` is the shape of smolvlm-bf16-sharded, whose weights are stored."""
    tiny = smolvlm(model_type, TINY_LLAMA, TINY_TOWER, 2, True, image=319)
    return {
        f"{model_type} 256m": smolvlm(model_type, (576, 30, 9, 3, 1536, 49280, 100000), SMALL_TOWER, 4),
        f"{model_type} 500m": smolvlm(model_type, (960, 32, 15, 5, 2560, 49280, 100000), SMALL_TOWER, 4),
        f"{model_type} 2.2b": smolvlm(model_type, (2048, 24, 32, 32, 8192, 49280, 273768.0), LARGE_TOWER, 3),
        f"{model_type} 8b": smolvlm(model_type, (4096, 32, 32, 8, 14336, 128259, 500000.0), LARGE_TOWER[:4] + (364, 14), 2, image=128257),
        # The default image token is none of the default decoder's.
        f"{model_type} defaults": dict(model_type=model_type, image_token_id=31999),
        f"{model_type} tiny": tiny,
        f"{model_type} linear": tiny | dict(text_config=tiny["text_config"] | dict(rope_scaling=dict(rope_type="linear", factor=2.0))),
    }


CONFIGS = {
    "qwen2-vl 2b": qwen(1536, 28, 12, 2, 8960, 151936, True),
    "qwen2-vl 7b": qwen(3584, 28, 28, 4, 18944, 152064, False),
    "qwen2-vl 72b": qwen(8192, 80, 64, 8, 29568, 152064, False, rms_norm_eps=1e-5),
    "qwen2-vl defaults": dict(model_type="qwen2_vl", rope_scaling=dict(type="mrope", mrope_section=[16, 24, 24])),
    "qwen2-vl tiny": tiny_qwen(),
    "qwen2-vl tiny tied": tiny_qwen(tie_word_embeddings=True),
    "qwen2-vl 7b yarn": qwen(3584, 28, 28, 4, 18944, 152064, False, rope_scaling=dict(type="yarn", **LONG)),
    "qwen2-vl 7b yarn, rope_type": qwen(3584, 28, 28, 4, 18944, 152064, False, rope_scaling=dict(rope_type="yarn", **LONG)),
    "qwen2-vl 2b linear": qwen(
        1536, 28, 12, 2, 8960, 151936, True, rope_scaling=dict(type="linear", factor=2.0, mrope_section=[16, 24, 24])
    ),
    **{f"qwen2.5-vl {size}": config for size, config in QWEN25_PUBLISHED.items()},
    "qwen2.5-vl 7b yarn": QWEN25_PUBLISHED["7b"] | dict(rope_scaling=dict(type="yarn", **LONG)),
    **{f"qwen3-vl {size}": config for size, config in QWEN3_PUBLISHED.items()},
    "chameleon 7b": CHAMELEON,
    "chameleon 30b": CHAMELEON
    | dict(hidden_size=8192, intermediate_size=22016, num_hidden_layers=48, num_attention_heads=64, num_key_value_heads=8)
    | dict(swin_norm=True, model_parallel_size=2),
    "chameleon defaults": dict(model_type="chameleon", vocabulary_map={"<image>": 8711}),
    "chameleon small": CHAMELEON
    | dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    | dict(vocab_size=320, rope_theta=5e5, tie_word_embeddings=True, vocabulary_map={"<image>": 319})
    | dict(vq_config=CHAMELEON["vq_config"] | SMALL_VQ, rope_scaling=dict(type="linear", factor=2.0)),
    **smolvlms("idefics3"),
    **smolvlms("smolvlm"),
}


def numbers(config, names):
    return {name: getattr(config, name) for name in names.split()}


# Keys of the vision tower that only the family has.
NEWER = {"qwen2_5_vl": "window_size fullatt_block_indexes", "qwen3_vl": "num_position_embeddings deepstack_visual_indexes"}


def resolved(config):
    """The numbers a model is built from, whatever the version keeps them in."""
    text = getattr(config, "text_config", None) or config
    sizes = "hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size vocab_size"
    result = numbers(text, sizes + " rms_norm_eps max_position_embeddings hidden_act")
    rope = getattr(text, "rope_parameters", None) or dict(getattr(text, "rope_scaling", None) or {}, rope_theta=text.rope_theta)
    result["rope"] = {
        name: rope.get(name) for name in ("rope_theta", "factor", "original_max_position_embeddings", "mrope_section")
    }
    result["rope"]["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    result["tie_word_embeddings"] = config.tie_word_embeddings
    if config.model_type in NEWER:
        vision = "depth hidden_size num_heads intermediate_size patch_size temporal_patch_size spatial_merge_size out_hidden_size hidden_act"
        result["vision"] = numbers(config.vision_config, f"{vision} {NEWER[config.model_type]}")
        result["image_token_id"] = getattr(config, "image_token_id", None)
        result["head_dim"] = getattr(text, "head_dim", None)
    elif config.model_type == "qwen2_vl":
        vision = "depth embed_dim num_heads mlp_ratio patch_size temporal_patch_size spatial_merge_size in_channels hidden_act"
        result["vision"] = numbers(config.vision_config, vision)
        result["image_token_id"] = getattr(config, "image_token_id", None)
    elif config.model_type == "chameleon":
        result["swin_norm"] = config.swin_norm
        vq = "embed_dim num_embeddings latent_channels resolution in_channels base_channels channel_multiplier num_res_blocks"
        result["vq"] = numbers(config.vq_config, vq + " attn_resolutions attn_type")
        result["vq"]["channel_multiplier"] = list(result["vq"]["channel_multiplier"])
    else:
        vision = "hidden_size intermediate_size num_hidden_layers num_attention_heads image_size patch_size layer_norm_eps num_channels hidden_act"
        result["vision"] = numbers(config.vision_config, vision)
        result |= numbers(config, "scale_factor image_token_id")
    return result


def class_of(name):
    """None where this version of transformers has no such family."""
    import transformers

    classes = {"qwen2-vl": "Qwen2VLConfig", "qwen2.5-vl": "Qwen2_5_VLConfig", "qwen3-vl": "Qwen3VLConfig", "chameleon": "ChameleonConfig"}
    classes |= {"idefics3": "Idefics3Config", "smolvlm": "SmolVLMConfig"}
    return getattr(transformers, classes[name.split(" ")[0]], None)


def write(folder):
    """In each version's own environment: FOLDER/<index>/config.json and resolved.json."""
    for index, (name, source) in enumerate(CONFIGS.items()):
        if class_of(name) is None:
            continue
        out = os.path.join(folder, str(index))
        os.makedirs(out)
        with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as file:
            json.dump(source, file)
        config = class_of(name).from_pretrained(out)
        config.save_pretrained(out)
        with open(os.path.join(out, "resolved.json"), "w", encoding="utf-8") as file:
            json.dump(resolved(class_of(name).from_pretrained(out)), file)


def environment(version):
    """The Python of a version, installed at the first use."""
    cache = os.environ.get("IVTLR_PARITY_VENVS") or os.path.join(os.path.dirname(sys.prefix), "parity-transformers")
    folder = os.path.join(cache, version)
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(os.path.join(folder, "done")):
        print(f"making {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"transformers=={version}"], check=True)
        open(os.path.join(folder, "done"), "w").close()
    return python


def make(out):
    import transformers
    from numbers_json import write_cases

    cases = []
    for version in [*VERSIONS, transformers.__version__]:
        python = sys.executable if version == transformers.__version__ else environment(version)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([python, os.path.abspath(__file__), "write", folder], check=True)
            for index, name in enumerate(CONFIGS):
                own = os.path.join(folder, str(index))
                if not os.path.exists(own):
                    continue  # the version is older than the family
                case = dict(name=name, version=version)
                for key, file in (("config", "config.json"), ("written", "resolved.json")):
                    with open(os.path.join(own, file), encoding="utf-8") as stream:
                        case[key] = json.load(stream)
                case["read"] = resolved(class_of(name).from_pretrained(own))
                cases.append(case)
    header = dict(made_with=dict(transformers=transformers.__version__), versions=[*VERSIONS, transformers.__version__])
    write_cases(os.path.join(out, "config-versions.json"), header, cases)


if __name__ == "__main__":
    if sys.argv[1:2] != ["write"] or len(sys.argv) != 3:
        sys.exit("this file is run by make_goldens.py")
    write(sys.argv[2])
