"""Measure the peak of memory while the default composite scores a clip, over the clip's size.

`python benchmarks/peers/rewards_memory.py --out FILE` scores each clip in a process of its
own, on one thread. The peak is that of the resident memory (VmHWM of Linux) while the clip is
scored, less the resident memory just before, when the libraries are loaded, a small clip has
been scored, and the clip is in memory. So the clip itself is not in the peak. The quotient is
by the bytes of the clip in float32, also where it is uint8. The clip is a moving texture,
because no allocation depends on what a frame shows.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch
from torch import Tensor

from vidrl.rewards import Samples, default

FILE = "benchmarks/peers/rewards_memory.py"
FPS = 16.0
# frames, height, width and type of the clips
CASES = ((33, 480, 832, "float32"), (33, 480, 832, "uint8"), (81, 480, 832, "uint8"))
QUICK = ((9, 48, 80, "float32"),)
Case = tuple[int, int, int, str]


def texture(frames: int, height: int, width: int, kind: str) -> Tensor:
    """Return a texture that moves by 3 pixels a frame, (F, 3, H, W), of its own memory."""
    clip = torch.empty(frames, 3, height, width, dtype=getattr(torch, kind))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for t, frame in enumerate(clip):
        levels = ((x + 3 * t) // 40 * 37 + y // 30 * 91) % 256
        frame.copy_(levels if kind == "uint8" else levels / 255)
    return clip


def resident(key: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def peak_beside(clip: Tensor) -> int:
    """Return the bytes by which the resident memory rises while the clip is scored."""
    reward = default()
    reward(Samples(texture(9, 48, 80, "float32")[None], [""], FPS))  # loads what is loaded late
    samples = Samples(clip[None], [""], FPS)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = resident("VmRSS")
    reward(samples)
    return resident("VmHWM") - before


def measure(case: Case) -> int:
    """Return the peak of a case, measured in a new process."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def row(case: Case, peak: int) -> str:
    """Return the line of a case in the table.

    >>> row((2, 10, 10, "uint8"), 4800)
    '| 2 x 10 x 10 | uint8 | 0.002 | 0.005 | 2.00 |'
    """
    frames, height, width, kind = case
    size = 4 * 3 * frames * height * width
    shape = f"{frames} x {height} x {width}"
    return f"| {shape} | {kind} | {size / 1e6:.3f} | {peak / 1e6:.3f} | {peak / size:.2f} |"


def page(cases: Sequence[Case]) -> str:
    """Measure the cases, and return the page."""
    head = "| clip | type | clip in float32, MB | peak beside the clip, MB | quotient |"
    table = [head, "|---|---|---|---|---|", *(row(case, measure(case)) for case in cases)]
    about = (
        "The most memory that the default composite takes while it scores one clip, beside the "
        "clip and the program, on a CPU with one thread. Resident memory of Linux, in a new "
        "process for each clip."
    )
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, OpenCV "
    parts = ["# Peak of memory of the default composite", f"```\npython {FILE}\n```", about]
    return "\n\n".join([*parts, "\n".join(table), f"{versions}{cv2.__version__}."]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write or print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the page; standard output without it")
    parser.add_argument("--quick", action="store_true", help="one clip, too small for conclusions")
    parser.add_argument(
        "--case",
        type=json.loads,
        help="measure one clip in this process, as "
        "'[33, 480, 832, \"float32\"]', and print the bytes of its peak",
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if args.case:
        print(peak_beside(texture(*args.case)))
        return 0
    text = page(QUICK if args.quick else CASES)
    print(text) if args.out is None else args.out.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
