"""Do the rewards without weights give the CPU's numbers on a GPU, and do they keep up?

    python benchmarks/studies/reward_devices.py --out benchmarks/results/rewards/devices.md
    python benchmarks/studies/reward_devices.py --cpu    # the CPU with itself, to check the script

Design: clips of moving shapes are scored by each reward on the CPU and on the device, with
vidrl's own flow ("torch") on both. The largest difference of a value, relative to the
reward's standard deviation over the clips, is written down, with 1e-3 as the tolerance.
Then clips of 33 x 240 x 416 are scored by the default composite, four at once as training
does, and the seconds for 64 clips are written down.

Output: the page --out, or standard output. The exit status is 1 where a reward disagrees.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl import plugin
from vidrl.rewards import Composite, Reward, Samples, default

FILE = "benchmarks/studies/reward_devices.py"
TOLERANCE = 1e-3
PROMPTS = ["a red circle moves left", "a blue square moves right", "a green cross moves up"]
# Clips for the seconds: how many, frames, height and width; fewer and smaller on the CPU.
SIZE = {"cuda": (64, 33, 240, 416), "cpu": (4, 9, 48, 80)}
# Clips for the differences.
COMPARED = {"cuda": (4, 9, 96, 160), "cpu": (2, 5, 32, 48)}


def clips(count: int, frames: int, height: int, width: int) -> Samples:
    """Return clips of textures that move by different speeds, with noise, in [0, 1]."""
    draw = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    videos = []
    for i in range(count):
        moved = [(x + (1 + i % 3) * t) * 0.2 for t in range(frames)]
        planes = torch.stack([0.5 + 0.3 * torch.sin(m) * torch.cos(0.15 * y) for m in moved])
        noise = 0.02 * (1 + i % 4) * torch.randn(frames, 3, height, width, generator=draw)
        videos.append((planes[:, None] + noise).clamp(0, 1))
    return Samples(torch.stack(videos), [PROMPTS[i % len(PROMPTS)] for i in range(count)], 16.0)


def weight_free() -> dict[str, Reward]:
    """Return the rewards that need no trained weights and no package besides OpenCV.

    Each reward that takes a method of flow gets vidrl's own, which runs on every device.
    """
    found: dict[str, Reward] = {}
    for name in plugin.names("rewards"):
        try:
            cls: Any = plugin.find("rewards", name)
        except ImportError:  # a package of an extra that is not installed
            continue
        if issubclass(cls, Composite) or cls.learned or set(cls.needs) - {"cv2"}:
            continue
        options = (
            {"flow": "torch"}
            if any(option.name == "flow" for option in plugin.options(cls))
            else {}
        )
        try:
            found[name] = plugin.load("rewards", name, **options)
        except (TypeError, ValueError):  # a reward with a required option, as http_scorer
            continue
    return found


def difference(reward: Reward, here: Samples, there: Samples) -> tuple[float, str]:
    """Return the largest relative difference of the values, and what is to be said of it."""
    expected, found = reward(here).value, reward(there).value
    device = there.video.device.type
    remark = "" if found.device.type == device else f"its score is on {found.device.type}"
    finite = expected[expected.isfinite()]
    scale = float(finite.std(correction=0)) if len(finite) else 0.0
    return apart(expected, found.cpu()) / max(scale, 1e-6), remark


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors; infinite where only one has a number."""
    if bool((one.isfinite() != other.isfinite()).any()):
        return float("inf")
    both = one.isfinite()
    return float((one[both] - other[both]).abs().max()) if bool(both.any()) else 0.0


def seconds_of_default(device: str) -> float:
    """Return the seconds in which the default composite scores the clips, four at once."""
    samples, reward = clips(*SIZE[device]).to(device), default()
    reward(samples.pick(range(4)))  # loads the kernels
    start = time.perf_counter()
    for first in range(0, len(samples.prompts), 4):
        reward(samples.pick(range(first, first + 4)))
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def page(rows: Sequence[tuple[str, float, str]], seconds: float, device: str, command: str) -> str:
    """Return the page with a line for each reward."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    count, *size = SIZE[device]
    lines = ["| reward | largest difference / standard deviation | remark |", "|---|---|---|"]
    lines += [f"| `{name}` | {worst:.1e} | {remark} |" for name, worst, remark in rows]
    parts = [
        "# The rewards without weights on a CPU and on a device",
        f"```\n{command}\n```",
        f"Device: {name}. torch {torch.__version__}. Tolerance: {TOLERANCE:g}.",
        "" if device == "cuda" else "A GPU is unmeasured: this page compares a CPU with itself.",
        f"The default composite scores {count} clips of {' × '.join(map(str, size))} in "
        f"{seconds:.2f} s.",
        "\n".join(lines),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare all rewards, write the page, and return 1 where one disagrees."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="compare the CPU with itself")
    parser.add_argument("--out", type=Path, help="the page; standard output without it")
    args = parser.parse_args(arguments)
    device = "cpu" if args.cpu else "cuda"
    if not args.cpu and not torch.cuda.is_available():
        print("reward_devices: expected a CUDA device, found none; --cpu checks the script")
        return 2
    # one object for each device, because rewards share the flow of an object
    here = clips(*COMPARED[device])
    there = here.to(device)
    rows = [(name, *difference(r, here, there)) for name, r in weight_free().items()]
    command = shlex.join(["python", FILE, *(sys.argv[1:] if arguments is None else arguments)])
    text = page(rows, seconds_of_default(device), device, command)
    print(text) if args.out is None else args.out.write_text(text)
    return int(any(worst > TOLERANCE or remark for _, worst, remark in rows))


if __name__ == "__main__":
    raise SystemExit(main())
