"""Compare the processor time of rewards in two checkouts of vidrl, which take turns.

`python benchmarks/peers/reward_versions.py --against CHECKOUT --out FILE` measures the default
composite on clips as a demo round has them, in a batch and one by one, on a film in pieces,
and the flow alone. One thread is used. Each ratio is the median over rounds, in each of which
both checkouts run every job once.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import platform
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import torch

CLIPS, FRAMES = 16, 17
SIDE, FPS = 64, 8.0
# The frames of the film and the shorter side of a frame, pixels.
FILM = (33, 480)
LABELS = {
    "batch": f"default composite, a batch of {CLIPS} clips of the demo",
    "alone": "default composite, the same clips one by one",
    "flow": "flow of the same clips both ways, and rest separated from motion",
    "film": f"default composite, a film of {FILM[0]} frames in pieces",
}

# The functions of OpenCV whose share of the time is shown, by their names in a profile.
CALLS = {
    "calc": "DIS, both ways",
    "remap": "warping by OpenCV",
    "boxFilter": "window means by OpenCV",
    "sepFilter2D": "means of 3 by 3 pixels by OpenCV",
}
REST = "all else: numpy, torch and Python"


def jobs() -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    from vidrl.rewards import Samples, default, flow
    from vidrl.synthetic import world

    scenes = world.scenes("train", CLIPS)
    clips = torch.stack(
        [world.render(s, SIDE, FRAMES, FPS, seed=i).video for i, s in enumerate(scenes)]
    )
    # generated clips are not clean
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
    clips, texts = (clips + 0.02 * noise).clamp(0, 1), [s.caption for s in scenes]
    reward, film = default(), _film()
    return {
        "batch": lambda: reward(Samples(clips, texts, FPS)),
        "alone": lambda: [reward(Samples(c[None], [t], FPS)) for c, t in zip(clips, texts)],
        "flow": lambda: flow.estimate(clips),
        "film": lambda: _streamed(reward, film),
    }


def _film() -> torch.Tensor:
    """Return a smooth texture that moves, bytes (F, 3, H, W)."""
    frames, height = FILM
    width = height * 16 // 9
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [
        ((x + 5 * t) / (9 + k)).sin() + (y / (7 + k)).cos() for t in range(frames) for k in range(3)
    ]
    return (torch.stack(waves).view(frames, 3, height, width) * 60 + 128).byte()


def _streamed(reward, film: torch.Tensor) -> None:  # type: ignore[no-untyped-def]
    """Score a film in pieces of eight frames."""
    stream = reward.stream(16.0)
    for piece in film.split(8):
        stream.update(piece)
    stream.result()


def serve() -> None:
    """Run the jobs whose names standard input holds, and print their processor seconds."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found = jobs()
    for line in sys.stdin:
        start = time.process_time()
        found[line.strip()]()
        print(time.process_time() - start, flush=True)


class Worker:
    """A process that runs jobs of the package in one checkout."""

    def __init__(self, checkout: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--serve"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def seconds(self, job: str) -> float:
        """Return the processor seconds of one run of a job."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{job}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def measure(checkouts: Sequence[Path], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds of each job before and now, a pair for each round.

    A first round, which loads libraries, is not counted.
    """
    workers = [Worker(path) for path in checkouts]
    try:
        turns = [
            {job: _turn(workers, job, round_) for job in LABELS} for round_ in range(rounds + 1)
        ]
    finally:
        for worker in workers:
            worker.close()
    return {job: [(turn[job][0], turn[job][1]) for turn in turns[1:]] for job in LABELS}


def _turn(workers: Sequence[Worker], job: str, round_: int) -> tuple[float, ...]:
    """Return the seconds of a job in each worker; the last worker begins in every other round."""
    order = range(len(workers))[:: -1 if round_ % 2 else 1]
    seconds = {i: workers[i].seconds(job) for i in order}
    return tuple(seconds[i] for i in range(len(workers)))


def shares() -> dict[str, float]:
    """Return which part of the batch's seconds each kind of call takes, under a profiler."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    job, profile = jobs()["batch"], cProfile.Profile(time.process_time)
    job()  # loads the libraries
    profile.runcall(job)
    parts = dict.fromkeys([*CALLS.values(), REST], 0.0)
    for (file, _, name), row in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        # "~" is the file of functions that are not Python's
        known = [label for call, label in CALLS.items() if file == "~" and call in name]
        parts[known[0] if known else REST] += row[2]
    return {label: seconds / sum(parts.values()) for label, seconds in parts.items()}


def goal(ratio: float, most: float = 0.5) -> str:
    """Return a sentence that says whether the goal for the batch is met."""
    met = "is met" if ratio <= most else "is not met"
    return f"The goal for the batch, at most {most:.2f} times the seconds before, {met}."


def page(
    found: Mapping[str, Sequence[tuple[float, float]]],
    parts: Mapping[str, float],
    commit: str,
    command: str,
) -> str:
    """Return the page as Markdown."""
    middle = {j: [statistics.median(side) for side in zip(*rows)] for j, rows in found.items()}
    ratio = {j: statistics.median(now / old for old, now in rows) for j, rows in found.items()}
    rounds = len(found["batch"])
    lines = [
        "# The time of rewards, before and now",
        "",
        "```",
        command,
        "```",
        "",
        f"Processor seconds of one thread, medians of {rounds} rounds in which the commit {commit} "
        "(before) and the present code (now) take turns; the ratio is the median of the ratios of "
        f"the rounds. A clip of the demo has {FRAMES} frames of {SIDE} x {SIDE}; a frame of the "
        f"film has {FILM[1] * 16 // 9} x {FILM[1]}.",
        "",
        f"Device: {platform.machine()} CPU, one thread. torch {torch.__version__}, OpenCV "
        f"{cv2.__version__}. In the last 15 minutes, {os.getloadavg()[2]:.0f} processes on average "
        f"shared the {os.cpu_count()} cores.",
        "",
        "| what | before, s | now, s | now / before |",
        "|---|---|---|---|",
    ]
    for job, label in LABELS.items():
        old, now = middle[job]
        lines.append(f"| {label} | {old:.2f} | {now:.2f} | {ratio[job]:.2f} |")
    alone = statistics.median(b[1] / a[1] for a, b in zip(found["alone"], found["batch"]))
    lines += ["", f"A clip in a batch costs {alone:.2f} times one alone. {goal(ratio['batch'])}"]
    lines += [
        "Where the seconds of the batch go now, under a profiler, which slows Python's own:",
        "",
    ]
    lines += ["| calls | share |", "|---|---|"]
    lines += [f"| {label} | {100 * part:.0f} % |" for label, part in parts.items()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--against", type=Path, help="a checkout of the older code")
    parser.add_argument("--out", type=Path, help="file to write; standard output without")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, 5")
    parser.add_argument("--serve", action="store_true", help="run jobs that standard input names")
    asked = parser.parse_args(arguments)
    if asked.serve:
        serve()
        return
    if asked.against is None or not (asked.against / "vidrl").is_dir():
        parser.error(f"expected --against a checkout with a folder vidrl, got {asked.against}")
    git = ["git", "-C", str(asked.against), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    command = (
        f"python benchmarks/peers/reward_versions.py --against CHECKOUT --rounds {asked.rounds}"
    )
    found = measure([asked.against, Path(__file__).resolve().parents[2]], asked.rounds)
    text = page(found, shares(), commit, command)
    asked.out.write_text(text) if asked.out else print(text)


if __name__ == "__main__":
    main()
