"""Writes the goldens of test/parity: expected numbers from Python references. See ../README.md for every format."""

import argparse
import os
import sys
import torch

PARTS = ["forward", "generate", "train", "checkpoint", "folders", "configs", "rope", "lora", "preprocess", "tokens", "render"]
PARTS += ["ddp", "deepspeed", "chameleon", "chameleon-official", "chameleon-folders", "chameleon-inputs", "chameleon-render", "chameleon-answers", "plain-answers", "sampling", "qwen25", "qwen25-folders"]
PARTS += ["smolvlm", "smolvlm-inputs", "smolvlm-folders", "qwen3", "qwen3-folders", "qwen-pictures", "qwen3-prompts", "probe", "memory"]


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=os.path.join(here, "..", "goldens"), help="where the goldens go")
    parser.add_argument("--official", help="checkout of the official IVT-LR code; without it its cases are skipped")
    parser.add_argument("--tokenizer", help="folder with the Qwen2 tokenizer.json; without it tokens.json, render.json, plain-answers.json and qwen3-prompts.json are skipped")
    parser.add_argument("--only", help="comma-separated parts of: " + ", ".join(PARTS))
    options = parser.parse_args()
    parts = options.only.split(",") if options.only else PARTS
    for part in parts:
        if part not in PARTS:
            sys.exit(f"unknown part {part}: choose from {', '.join(PARTS)}")
    out = os.path.abspath(options.out)
    torch.set_num_threads(2)
    for part in parts:
        if part in ("generate", "train"):
            if not options.official:
                print(f"SKIPPED official-{part}.json: no --official DIR was given, the committed file stays as it is")
                continue
            import official_cases

            getattr(official_cases, f"make_{part}")(out, os.path.abspath(options.official))
        elif part in ("ddp", "deepspeed"):
            if not options.official:
                print(f"SKIPPED official-{part}.json: no --official DIR was given, the committed file stays as it is")
                continue
            import official_processes

            getattr(official_processes, f"make_{part}")(out, os.path.abspath(options.official))
        elif part == "checkpoint":
            if not options.official:
                print("SKIPPED official-checkpoint: no --official DIR was given, the committed files stay as they are")
                continue
            import official_checkpoint

            official_checkpoint.make(out, os.path.abspath(options.official))
        elif part == "chameleon-answers":
            if not options.official:
                print("SKIPPED chameleon-answers.json: no --official DIR was given, the committed file stays as it is")
                continue
            import chameleon_answers

            chameleon_answers.make(out, os.path.abspath(options.official))
        elif part == "chameleon-render":
            import chameleon_render

            chameleon_render.make(out, options.official and os.path.abspath(options.official))
        elif part == "chameleon-official":
            if not options.official:
                print("SKIPPED chameleon-generate.json and -train.json: no --official DIR was given, the committed files stay as they are")
                continue
            import chameleon_official

            chameleon_official.make(out, os.path.abspath(options.official))
        elif part == "chameleon-folders":
            import chameleon_folders

            chameleon_folders.make(out, options.official and os.path.abspath(options.official))
        elif part in ("tokens", "render", "plain-answers", "qwen3-prompts"):
            if not options.tokenizer:
                print(f"SKIPPED {part}.json: no --tokenizer DIR was given, the committed file stays as it is")
                continue
            folder = os.path.abspath(options.tokenizer)
            if part == "tokens":
                import token_cases

                token_cases.make(out, folder)
            elif part == "plain-answers":
                import plain_answers

                plain_answers.make(out, folder)
            elif part == "qwen3-prompts":
                import qwen3_prompts

                qwen3_prompts.make(out, folder)
            else:
                import render_cases

                render_cases.make(out, folder, options.official and os.path.abspath(options.official))
        elif part in ("qwen25-folders", "qwen3-folders"):
            import qwen_folders

            qwen_folders.make(out, part.removesuffix("-folders"))
        else:
            module = __import__(
                {
                    "chameleon": "chameleon_cases",
                    "forward": "forward_cases",
                    "folders": "hf_folders",
                    "configs": "config_versions",
                    "rope": "rope_cases",
                    "lora": "lora_cases",
                    "sampling": "sampling_cases",
                    "qwen25": "qwen25_cases",
                    "qwen3": "qwen3_cases",
                    "probe": "probe_cases",
                    "qwen-pictures": "qwen_pictures",
                    "preprocess": "preprocess_cases",
                    "chameleon-inputs": "chameleon_pictures",
                    "smolvlm": "smolvlm_cases",
                    "smolvlm-inputs": "smolvlm_inputs",
                    "smolvlm-folders": "smolvlm_folders",
                    "memory": "memory_cases",
                }[part]
            )
            module.make(out)


if __name__ == "__main__":
    main()
