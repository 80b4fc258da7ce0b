"""official-ddp.json and official-deepspeed.json: the official model trained by two processes with micro-batches of their own.

Engines: torch's DistributedDataParallel over Gloo, and DeepSpeed with the official ZeRO stage 2 on the CPU (in an environment of its own,
since it is no part of requirements.txt). AdamW, clipping and gradient accumulation are those of the official script; float32.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import torch
import chameleon_official
import official_chameleon
import official_qwen
from chameleon_cases import CLEAR_CODE, record_of
from chameleon_model import SHAPES as CHAMELEON_SHAPES, codes_of, draw_pictures, text_source
from numbers_json import rounded, versions, write_cases
from official_cases import base_record, clear, collated, first_safe, official_names, prompt
from tiny_model import SHAPES, TextSource, draw_pixels

DEEPSPEED = "0.19.8"
PROCESSES, CLIP, WEIGHT_DECAY = 2, 0.7, 0.01
SAMPLES = 48  # stored values of each trained tensor
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# micros: [process][micro-batch] = (T latent steps, grids of its rows); of Chameleon, whose official batches are of one row, (T, text tokens)
CASES = [
    dict(
        name="decoder projections",
        shape="gqa",
        tie=False,
        lora=None,
        patches=6,
        lr=5e-4,
        steps=8,
        micros=[
            [(2, [(8, 12), (12, 12)]), (1, [(12, 8), (4, 8)])],
            [(3, [(12, 12), (8, 12)]), (2, [(8, 8), (12, 20)])],
        ],
    ),
    dict(
        name="LoRA, tied embedding",
        shape="mqa",
        tie=True,
        lora=dict(rank=4, alpha=8),
        patches=5,
        lr=2e-3,
        steps=10,
        micros=[[(2, [(8, 12), (8, 8)]), (2, [(12, 8), (12, 12)])], [(2, [(12, 12), (8, 12)]), (2, [(8, 8), (16, 8)])]],
    ),
    dict(
        name="Chameleon, decoder projections",
        family="chameleon",
        shape="full gqa",
        tie=False,
        lora=None,
        patches=4,
        lr=5e-4,
        steps=4,
        micros=[[(2, 33), (1, 24)], [(1, 18), (2, 40)]],
    ),
]


def is_chameleon(spec):
    return spec.get("family") == "chameleon"


def load(checkout, spec):
    return (official_chameleon if is_chameleon(spec) else official_qwen).load(checkout)


def build(official, spec, seed):
    """(official network, model, trained parameters by name); LoRA factors are drawn from seed + 3, in the order of their names."""
    family = official_chameleon if is_chameleon(spec) else official_qwen
    network, _, model, ids = family.assemble(official, spec["shape"], seed, spec["tie"], spec["patches"])
    if is_chameleon(spec):
        pictures = sum(map(len, spec["micros"]))
        record = dict(record_of(spec["name"], spec["shape"], spec["tie"], seed, model, pictures), patches=spec["patches"])
    else:
        record = base_record(spec["name"], spec["shape"], spec["tie"], seed, ids, None, spec["patches"], [], model)
    if spec["lora"]:
        from peft import LoraConfig, inject_adapter_in_model
        from lora_cases import factors

        rank, alpha = spec["lora"]["rank"], spec["lora"]["alpha"]
        lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=TARGETS, bias="none")
        inject_adapter_in_model(lora, model)
        model.eval()
        trained = factors(model)
        torch.manual_seed(seed + 3)
        with torch.no_grad():
            for p in trained.values():
                p.copy_(torch.randn(p.shape) * 0.5 / p.shape[1] ** 0.5)
    else:
        trained = official_names(model)
    for p in model.parameters():
        p.requires_grad_(False)
    for p in trained.values():
        p.requires_grad_(True)
    return network, model, trained, record


def chameleon_micro_batches(spec, seed, ids):
    """As micro_batches; every micro-batch has one image."""
    dims = CHAMELEON_SHAPES[spec["shape"]]
    text, micros, count = text_source(seed, dims), [], 0
    for process in spec["micros"]:
        micros.append([])
        for latents, words in process:
            pair = (chameleon_official.prompt(text, dims, words, ids), text.ids(9 + 5 * count))
            rows, labels, mask, positions = collated([pair], ids, latents)
            fields = dict(input_ids=rows, labels=labels, attention_mask=mask, position_ids=positions)
            micros[-1].append(dict(latents=latents, images=[count, 1], **fields))
            count += 1
    return micros, count


def micro_batches(spec, seed, ids):
    """[process][micro-batch] with the fields of the golden, and the grids of all images in that order."""
    text = TextSource(seed, SHAPES[spec["shape"]]["vocab"])
    grids, micros = [], []
    for process in spec["micros"]:
        micros.append([])
        for latents, own in process:
            count = len(grids)
            pairs = [(prompt(text, 14 + 3 * ((count + i) % 5), g, ids), text.ids(7 + 4 * ((count + i) % 6))) for i, g in enumerate(own)]
            rows, labels, mask, positions = collated(pairs, ids, latents)
            fields = dict(input_ids=rows, labels=labels, attention_mask=mask, position_ids=positions)
            micros[-1].append(dict(latents=latents, images=[count, len(own)], **fields))
            grids += own
    return micros, grids


class Ddp:
    def __init__(self, network, trained, spec, accumulate):
        self.model = torch.nn.parallel.DistributedDataParallel(network)
        self.parameters = list(trained.values())
        self.optimiser = torch.optim.AdamW(self.parameters, lr=spec["lr"], weight_decay=WEIGHT_DECAY)
        self.accumulate = accumulate

    def step(self, micros):
        losses = []
        for i, given in enumerate(micros):
            self.model.require_backward_grad_sync = i + 1 == len(micros)
            loss = self.model(**given).loss
            (loss / self.accumulate).backward()
            losses.append(loss.item())
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, CLIP).item()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return losses, norm


class DeepSpeed:
    """The settings of the official ds_config.json, but float32, and torch's AdamW in place of a compiled one."""

    def __init__(self, network, trained, spec, accumulate):
        import deepspeed

        micro = len(spec["micros"][0][0][1])
        config = dict(
            train_batch_size=micro * accumulate * PROCESSES,
            train_micro_batch_size_per_gpu=micro,
            gradient_accumulation_steps=accumulate,
            gradient_clipping=CLIP,
            zero_optimization=dict(
                stage=2,
                offload_optimizer=dict(device="none"),
                allgather_partitions=True,
                allgather_bucket_size=1e5,
                reduce_scatter=True,
                reduce_bucket_size=1e6,
                overlap_comm=True,
                contiguous_gradients=True,
            ),
            optimizer=dict(type="AdamW", params=dict(lr=spec["lr"], weight_decay=WEIGHT_DECAY, torch_adam=True)),
            steps_per_print=10**9,
        )
        self.engine, *_ = deepspeed.initialize(model=network, config=config, model_parameters=list(trained.values()))

    def step(self, micros):
        losses = []
        for given in micros:
            loss = self.engine(**given).loss
            self.engine.backward(loss)
            losses.append(loss.item())
            self.engine.step()
        return losses, float(self.engine.get_global_grad_norm())


def sampled(tensor):
    flat = tensor.detach().reshape(-1)
    return rounded(flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES])


def one_process(checkout, engine, index, seed, file):
    """A process of the group: trains the case and writes what it saw to a file."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    spec = CASES[index]
    official = load(checkout, spec)
    if engine == "deepspeed":
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo")
    else:
        torch.distributed.init_process_group("gloo")
    network, model, trained, record = build(official, spec, seed)
    clear_pick, clear_order, safe = 1e-6, 1e-8, True
    if is_chameleon(spec):
        micros, count = chameleon_micro_batches(spec, seed, record["ids"])
        pixels = draw_pictures(seed, count, CHAMELEON_SHAPES[spec["shape"]]["vq"]["res"])
        images_of = lambda first, count: dict(pixel_values=pixels[first : first + count])  # noqa: E731
        clear_pick, clear_order = chameleon_official.CLEAR_PICK, chameleon_official.CLEAR_ORDER
        safe = codes_of(model, pixels)[1] > CLEAR_CODE
    else:
        micros, grids = micro_batches(spec, seed, record["ids"])
        pixels, thw = draw_pixels(seed, grids)
        starts = [0]
        for h, w in grids:
            starts.append(starts[-1] + h * w)
        record.update(image_grid_thw=thw.tolist())
        images_of = lambda first, count: dict(  # noqa: E731
            pixel_values=pixels[starts[first] : starts[first + count]], image_grid_thw=thw[first : first + count]
        )
    given = []
    for micro in micros[rank]:
        tensors = {k: torch.tensor(micro[k]) for k in ("input_ids", "labels", "attention_mask", "position_ids")}
        given.append(dict(**tensors, **images_of(*micro["images"])))
    before = {n: p.detach().clone() for n, p in trained.items()}
    runner = (DeepSpeed if engine == "deepspeed" else Ddp)(network, trained, spec, len(given))
    losses, norms = [], []
    for _ in range(spec["steps"]):
        official_qwen.gaps.clear()
        own, norm = runner.step(given)
        pick_gap, order_gap = clear(official_qwen.gaps)
        # The order of picks says more about the kernel than about the method where a thousand scores lie close together.
        safe = safe and pick_gap > clear_pick and (order_gap > clear_order or (is_chameleon(spec) and len(losses) > 0))
        losses.append(own)
        norms.append(norm)
    weights = {}
    for name, p in trained.items():
        moved = (p.detach() - before[name]).double().norm().item()
        weights[name] = dict(norm=rounded(p.detach().double().norm().item()), moved=rounded(moved), samples=sampled(p))
    record.update(micros=micros)
    result = dict(record=record, losses=losses, norms=norms, weights=weights, safe=safe)
    with open(file, "w", encoding="utf-8") as stream:
        json.dump(result, stream)
    torch.distributed.destroy_process_group()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_group(python, checkout, engine, index, seed):
    """(record of the case, whether its choices were clear)"""
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, f"{rank}.json") for rank in range(PROCESSES)]
        shared = dict(os.environ, WORLD_SIZE=str(PROCESSES), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
        shared.update(LOCAL_WORLD_SIZE=str(PROCESSES), OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")
        group = []
        for rank, file in enumerate(files):
            args = [python, os.path.abspath(__file__), checkout, engine, str(index), str(seed), file]
            group.append(subprocess.Popen(args, env=dict(shared, RANK=str(rank), LOCAL_RANK=str(rank)), stdout=subprocess.DEVNULL))
        codes = [process.wait() for process in group]
        if any(codes):
            sys.exit(f"{engine}: the processes of case {index} ended with {codes}")
        results = []
        for file in files:
            with open(file, encoding="utf-8") as stream:
                results.append(json.load(stream))
    first, *others = results
    assert all(other["weights"] == first["weights"] for other in others), "the processes have different weights"
    spec = CASES[index]
    per_step = [[loss for result in results for loss in result["losses"][step]] for step in range(spec["steps"])]
    record = dict(first["record"], lora=spec["lora"], steps=spec["steps"], lr=spec["lr"])
    record.update(
        losses=rounded([sum(losses) / len(losses) for losses in per_step]),
        micro_losses=rounded(per_step),
        gradient_norms=rounded(first["norms"]),
        trained=first["weights"],
    )
    record.pop("latents", None)
    return record, all(result["safe"] for result in results)


def write(out, file, engine, cases, **more):
    header = dict(
        made_with=versions(**more),
        engine=engine,
        dtype="float32",
        processes=PROCESSES,
        optimiser=dict(name="AdamW", betas=[0.9, 0.999], eps=1e-8, weight_decay=WEIGHT_DECAY, clipping=CLIP),
    )
    write_cases(os.path.join(out, file), header, cases)


def make_ddp(out, checkout):
    cases = []
    for index in range(len(CASES)):
        make = lambda seed: run_group(sys.executable, checkout, "ddp", index, seed)  # noqa: E731
        cases.append(first_safe(make, 30000 + 100 * index))
        print(f"  {cases[-1]['name']}: seed {cases[-1]['seed']}, losses {cases[-1]['losses']}, norms {cases[-1]['gradient_norms']}", flush=True)
    write(out, "official-ddp.json", "torch.nn.parallel.DistributedDataParallel, Gloo", cases)


def deepspeed_python():
    """The Python of an environment with DeepSpeed, installed at the first use; it sees the packages of this one."""
    cache = os.environ.get("IVTLR_PARITY_VENVS") or os.path.join(os.path.dirname(sys.prefix), "parity-transformers")
    folder = os.path.join(cache, f"deepspeed-{DEEPSPEED}")
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(os.path.join(folder, "done")):
        print(f"making {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        own = subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"], check=True, capture_output=True, text=True)
        with open(os.path.join(own.stdout.strip(), "parity.pth"), "w", encoding="utf-8") as file:
            file.write(os.path.dirname(os.path.dirname(torch.__file__)) + "\n")
        pip = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*pip, "setuptools", "wheel"], check=True)
        # Without its compiled operators, which ZeRO over Gloo does not need.
        plain = dict(os.environ, DS_BUILD_OPS="0", DS_ACCELERATOR="cpu")
        subprocess.run([*pip, "--no-build-isolation", f"deepspeed=={DEEPSPEED}"], check=True, env=plain)
        open(os.path.join(folder, "done"), "w").close()
    return python


def make_deepspeed(out, checkout):
    """The cases of official-ddp.json with the same seeds; what they are made from is not repeated."""
    with open(os.path.join(out, "official-ddp.json"), encoding="utf-8") as file:
        seeds = [case["seed"] for case in json.load(file)["cases"]]
    cases = []
    for index, seed in enumerate(seeds):
        if is_chameleon(CASES[index]):
            continue
        record, _ = run_group(deepspeed_python(), checkout, "deepspeed", index, seed)
        print(f"  {record['name']}: seed {seed}, losses {record['losses']}, norms {record['gradient_norms']}", flush=True)
        cases.append({k: record[k] for k in ("name", "seed", "losses", "micro_losses", "gradient_norms", "trained")})
    write(out, "official-deepspeed.json", "DeepSpeed, ZeRO stage 2, CPU, Gloo", cases, deepspeed=DEEPSPEED)


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit("this file is run by make_goldens.py")
    one_process(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
