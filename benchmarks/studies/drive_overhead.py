"""What driving a pipeline costs beside calling its network: a driven prediction against the
adapter `wan`, and against the network alone.

    python benchmarks/studies/drive_overhead.py [--repeats 30] [--out FILE]

Part 1: assets/tiny-wan, one prediction of n rows, in milliseconds of processor time of one thread.
The bare network, the adapter `wan` and the drive take turns, so that other work of the machine
falls on all three alike.

Part 2: latents of 33 x 480 x 832 pixels of Wan 2.1, guidance on, with networks that are stand-ins:
what is left is the pipeline's code, the drive and their copies. Counted are the bytes that
operations of 1 MB or more wrote.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vidrl.backbones.base import Denoiser
from vidrl.backbones.pipeline import Pipeline
from vidrl.backbones.wan import Wan
from vidrl.rollout import draws

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "assets" / "tiny-wan"
LARGE = 2**20
COMMAND = "python benchmarks/studies/drive_overhead.py"


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The median milliseconds of each, after one run of each that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            spent = seconds(run)
            if repeat:
                found[name].append(1e3 * spent)
    return {name: median(values) for name, values in found.items()}


def predictor(backbone: Denoiser, rows: int) -> Callable[[], Tensor]:
    prompts = (ROOT / "assets/prompts/world_train.txt").read_text().splitlines()[:rows]
    x = backbone.noise(draws(0, [(i,) for i in range(rows)]))
    t, cond = torch.full((rows,), backbone.times(10)[3]), backbone.encode(prompts)
    return lambda: backbone.predict(x, t, cond)


def tiny(rows: int, repeats: int) -> dict[str, float]:
    """Milliseconds of one prediction of `rows` rows without guidance."""
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


def large() -> Pipeline:
    """A Wan pipeline of the published latents and text, whose network, encoder and autoencoder are tiny."""
    from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    own = Wan(MODEL).pipe
    text = UMT5Config(vocab_size=own.text_encoder.config.vocab_size, d_model=4096, d_kv=8, num_heads=2, num_layers=1,
                      d_ff=32)  # fmt: skip
    network = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, ffn_dim=32, num_layers=1, freq_dim=16
    )
    parts = (
        own.tokenizer,
        UMT5EncoderModel(text),
        AutoencoderKLWan(base_dim=4),
        own.scheduler,
        network,
    )
    return Pipeline(
        WanPipeline(*parts), {"height": 480, "width": 832, "num_frames": 33, "guidance_scale": 5.0}
    )


class Copies(TorchDispatchMode):
    """Counts the operations that write tensors of 1 MB or more, and their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.nbytes >= LARGE and not func.is_view and _dense(made):
            self.written.setdefault(str(func).removeprefix("aten."), []).append(made.nbytes)
        return made


def _dense(made: Tensor) -> bool:
    return made.device.type != "meta" and made.untyped_storage().nbytes() >= LARGE


def stilled(pipeline: Pipeline, repeats: int) -> tuple[float, Copies, float]:
    """Milliseconds of a prediction whose network is a stand-in, what it wrote, and the megabytes of its latents."""
    pipeline.drive._wake = lambda: setattr(pipeline.memory, "open", False)  # type: ignore[method-assign]
    run = predictor(pipeline, 1)
    spent = interleaved({"pipeline": run}, repeats)["pipeline"]
    with torch.no_grad(), Copies() as copies:
        run()
    return spent, copies, 4 * math.prod(pipeline.shape) / 1e6


def page(repeats: int) -> str:
    lines = ["| rows | bare network, ms | `wan`, ms | `pipeline`, ms | pipeline / wan | pipeline / network |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for rows in (1, 8):
        ms = tiny(rows, repeats)
        ratios = ms["pipeline"] / ms["wan"], ms["pipeline"] / ms["network"]
        lines.append(f"| {rows} | {ms['network']:.1f} | {ms['wan']:.1f} | {ms['pipeline']:.1f} | {ratios[0]:.2f} | "
                     f"{ratios[1]:.2f} |")  # fmt: skip
    spent, copies, size = stilled(large(), max(3, repeats // 6))
    ops = [
        f"| {name} | {len(sizes)} | {sum(sizes) / 1e6:.1f} |"
        for name, sizes in sorted(copies.written.items())
    ]
    total = sum(sum(sizes) for sizes in copies.written.values()) / 1e6
    return "\n".join([
        "# What driving a pipeline costs\n", f"Made by `{COMMAND} --repeats {repeats}` on a CPU, one thread, without "
        "gradient.\n", "## assets/tiny-wan, one prediction\n", *lines,
        "\n## Wan 2.1 at 33 x 480 x 832, guidance on, network stilled\n",
        f"{spent:.0f} ms of one CPU thread a prediction; the latents have {size:.1f} MB. Operations that wrote 1 MB or "
        f"more, {total:.0f} MB in all:\n", "| operation | times | MB |", "|---|---|---|", *ops, ""])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=30, help="runs of each whose median is taken"
    )
    parser.add_argument("--out", type=Path, help="the page to write; otherwise it is printed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        text = page(args.repeats)
    args.out.write_text(text, encoding="utf-8") if args.out else print(text)


if __name__ == "__main__":
    main()
