"""What does driving a diffusers pipeline cost, compared with calling its network?

    python benchmarks/studies/drive_overhead.py [--repeats 30] [--rounds 5] [--out FILE]

Part 1: whole training rounds of assets/tiny-wan (sampling, decoding, reward, update), by
the backbones `wan` and `pipeline` in turn, in seconds of processor time; with GRPO, whose
rows are at the schedule's times, and with NFT, whose rows are each at another time.

Part 2: one prediction of n rows by assets/tiny-wan. The bare network, the adapter `wan` and
the backbone `pipeline` (the drive) take turns, so that other work on the machine slows all
three alike.

Part 3: latents of 33 x 480 x 832 pixels of Wan 2.1, guidance on, with stand-ins in place of
the networks: what remains are the pipeline's code, the drive and their copies. Counted are
the bytes that operations of 1 MB or more wrote. The network's share is its FLOPs, traced by
shapes from the 1.3B configuration, divided by the rate of a processor or a card.

Output: the page --out, benchmarks/results/training/drive_overhead.md.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import _drive_round
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vidrl import config
from vidrl.backbones.base import Denoiser
from vidrl.backbones.pipeline import Pipeline
from vidrl.backbones.wan import Wan
from vidrl.cost import cards, estimate
from vidrl.training.rollout import draws

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "assets" / "tiny-wan"
LARGE = 2**20  # bytes of a tensor, from which it counts
BANDWIDTH = 3.35e12  # bytes a second of an H100 SXM's memory, by its data sheet
COMMAND = "python benchmarks/studies/drive_overhead.py"


def seconds(run: Callable[[], Any]) -> float:
    """Return the processor seconds of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


@torch.no_grad()
def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each function, which take turns.

    One more turn runs first and is not counted: it fills caches.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            spent = seconds(run)
            if repeat:
                found[name].append(1e3 * spent)
    return {name: median(values) for name, values in found.items()}


@torch.no_grad()
def predictor(backbone: Denoiser, rows: int) -> Callable[[], Tensor]:
    """Return a function that predicts `rows` rows with a backbone."""
    prompts = (ROOT / "assets/prompts/world_train.txt").read_text().splitlines()[:rows]
    x = backbone.noise(draws(0, [(i,) for i in range(rows)]))
    t, cond = torch.full((rows,), backbone.times(10)[3]), backbone.encode(prompts)
    return lambda: backbone.predict(x, t, cond)


@torch.no_grad()
def tiny(rows: int, repeats: int) -> dict[str, float]:
    """Return the milliseconds of one prediction of `rows` rows, for each method."""
    wan, driven = Wan(MODEL), Pipeline(MODEL, {"guidance_scale": 1.0})
    cond = wan.encode(["a red circle"] * rows)
    x = wan.noise(draws(0, [(i,) for i in range(rows)]))
    given = {
        "hidden_states": x,
        "timestep": torch.full((rows,), 800.0),
        "encoder_hidden_states": cond["text"],
    }
    runs = {
        "network": lambda: wan.network(**given),
        "wan": predictor(wan, rows),
        "pipeline": predictor(driven, rows),
    }
    return interleaved(runs, repeats)


def large(height: int, width: int, frames: int) -> Pipeline:
    """Build a Wan pipeline with the published latents and text, and tiny networks."""
    from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    own = Wan(MODEL).pipe
    words = own.text_encoder.config.vocab_size
    text = UMT5Config(vocab_size=words, d_model=4096, d_kv=8, num_heads=2, num_layers=1, d_ff=32)
    network = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, ffn_dim=32, num_layers=1, freq_dim=16
    )
    encoder, autoencoder = UMT5EncoderModel(text), AutoencoderKLWan(base_dim=4)
    pipe = WanPipeline(own.tokenizer, encoder, autoencoder, own.scheduler, network)
    size = {"height": height, "width": width, "num_frames": frames}
    return Pipeline(pipe, {**size, "guidance_scale": 5.0})


class Copies(TorchDispatchMode):
    """Counts the operations that write tensors of 1 MB or more, and their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # a view writes nothing
        if isinstance(out, Tensor) and out.nbytes >= LARGE and not func.is_view and _dense(out):
            self.written.setdefault(str(func).removeprefix("aten."), []).append(out.nbytes)
        return out


def _dense(out: Tensor) -> bool:
    """Say whether a tensor has 1 MB of memory of its own (an expanded view has less)."""
    return out.device.type != "meta" and out.untyped_storage().nbytes() >= LARGE


def stilled(pipeline: Pipeline, repeats: int) -> tuple[float, Copies]:
    """Return the milliseconds of a prediction with a stand-in network, and what it wrote."""
    # `_start_networks` ends the caching of encoders and lets the networks compute; the
    # replacement ends the caching alone, so that the networks stay idle
    still = lambda: setattr(pipeline.encoder_cache, "caching", False)  # noqa: E731
    pipeline.runner._start_networks = still  # type: ignore[method-assign]
    run = predictor(pipeline, 1)
    spent = interleaved({"pipeline": run}, repeats)["pipeline"]
    with torch.no_grad(), Copies() as copies:
        run()
    return spent, copies


def rate(repeats: int) -> float:
    """Return the FLOP/s of a float32 matrix product on one thread of this processor."""
    a = torch.ones(1024, 1024)
    return 2 * 1024**3 / (interleaved({"mm": lambda: a @ a}, repeats)["mm"] / 1e3)


def rounds_part(repeats: int) -> list[str]:
    """Return part 1 of the page: whole training rounds."""
    head = " | ".join(f"{stage}, s" for stage in _drive_round.STAGES)
    lines = [f"| algorithm | backbone | {head} | round, s |", "|---" * 7 + "|"]
    for recipe in _drive_round.RECIPES:
        found = _drive_round.rounds(recipe, repeats)
        for name, spent in found.items():
            stages = [median(one[stage] for one in spent) for stage in _drive_round.STAGES]
            total = median(sum(one.values()) for one in spent)
            numbers = " | ".join(f"{value:.2f}" for value in (*stages, total))
            lines.append(f"| {recipe} | `{name}` | {numbers} |")
        pairs = zip(found["pipeline"], found["wan"], strict=True)
        ratios = sorted(sum(a.values()) / sum(b.values()) for a, b in pairs)
        shown = f"**{median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {recipe} | pipeline / wan | | | | | {shown} |")
    return lines


def prediction_part(repeats: int) -> list[str]:
    """Return part 2 of the page: single predictions."""
    heads = (
        "rows",
        "bare network, ms",
        "`wan`, ms",
        "`pipeline`, ms",
        "pipeline / wan",
        "pipeline / network",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * 6 + "|"]
    for rows in (1, 8):
        ms = tiny(rows, repeats)
        ratios = ms["pipeline"] / ms["wan"], ms["pipeline"] / ms["network"]
        numbers = ms["network"], ms["wan"], ms["pipeline"]
        lines.append(
            f"| {rows} | {' | '.join(f'{value:.1f}' for value in numbers)} | "
            f"{ratios[0]:.2f} | {ratios[1]:.2f} |"
        )
    return lines


def large_part(repeats: int) -> list[str]:
    """Return part 3 of the page: the drive at the size of Wan 2.1."""
    pipeline = large(480, 832, 33)
    spent, copies = stilled(pipeline, repeats)
    bare, _ = stilled(large(16, 16, 1), repeats)
    total = sum(sum(sizes) for sizes in copies.written.values())
    recipe = [
        "backbone.options.height=480",
        "backbone.options.width=832",
        "backbone.options.frames=33",
        "backbone.options.guidance=5.0",
    ]
    cost = estimate(config.load(ROOT / "scripts/recipes/wan_1.3b.toml", recipe), "h100-80")
    flops, card = cost.flops["call"], cards.find("h100-80")
    here = flops / rate(repeats)
    there = card.seconds(flops, "bfloat16", 0.5)
    moved = 3 * total / BANDWIDTH
    ops = [
        f"| {name} | {len(sizes)} | {sum(sizes) / 1e6:.1f} |"
        for name, sizes in sorted(copies.written.items())
    ]
    return [
        f"The prediction with the network stilled takes {spent:.0f} ms of one CPU thread. "
        f"The latents have {4 * math.prod(pipeline.shape) / 1e6:.1f} MB. The network of 1.3B "
        f"parameters needs {flops / 1e12:.0f} TFLOP a prediction, both branches of guidance.\n",
        "| where | the drive | the network | share |",
        "|---|---|---|---|",
        f"| this CPU, one thread, at the {flops / here / 1e9:.0f} GFLOP/s of a float32 matrix "
        f"product | {spent:.0f} ms, measured | {here:.0f} s = FLOPs / rate "
        f"| {spent / 1e3 / here:.4%} |",
        f"| {card.name}, an estimate: half of its bfloat16 peak | {bare:.1f} ms of Python, "
        f"measured here at 16 x 16 pixels, and {1e3 * moved:.2f} ms = 3 x {total / 1e6:.0f} MB / "
        f"{BANDWIDTH / 1e12:g} TB/s | "
        f"{there:.2f} s = FLOPs / rate | {(bare / 1e3 + moved) / there:.1%} |",
        "\nThe factor 3 takes two reads for each write. The Python is counted in full, though a "
        "GPU computes meanwhile.\n\nOperations that wrote 1 MB or more:\n",
        "| operation | times | MB |",
        "|---|---|---|",
        *ops,
    ]


def page(repeats: int, rounds: int) -> str:
    """Return the page as Markdown."""
    size = _drive_round.SIZE
    clips = size["prompts_per_round"] * size["group"]
    return "\n".join(
        [
            "# What driving a pipeline costs\n",
            f"Made by `{COMMAND} --repeats {repeats} --rounds {rounds}` on a CPU, one thread, "
            "in processor time.\n",
            "## Whole rounds of assets/tiny-wan\n",
            f"Rounds of {clips} clips by the settings of "
            f"{' and '.join(_drive_round.RECIPES.values())}. The two backbones take turns, round "
            f"by round; medians of {rounds} rounds after one that is not counted, and the median "
            "and the range of the ratios of pairs.\n",
            *rounds_part(rounds),
            "\n## assets/tiny-wan, one prediction\n\nWithout gradient and without guidance.\n",
            *prediction_part(repeats),
            "\n## Wan 2.1, 1.3B, at 33 x 480 x 832, guidance on\n",
            *large_part(max(3, repeats // 3)),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=30, help="runs of each, of which the median counts"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each backbone")
    parser.add_argument("--out", type=Path, help="the page to write; otherwise it is printed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = page(args.repeats, args.rounds)
    args.out.write_text(text, encoding="utf-8") if args.out else print(text)


if __name__ == "__main__":
    main()
