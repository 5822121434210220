"""Evaluate the dims themselves: which faults lower a dim, and which raise it.

Every corruption at every strength is applied to synthetic scenes and to real clips. Each
clip is compared with its corrupted version; both are saved with loss, as files are, so that
the effect of saving is not taken for the effect of the corruption. *Paired* is how often
the corrupted clip scores below its own sound version, *unpaired* how often it scores below
any sound clip, as where the original is not known.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidrl.audit.clips import Clip, Left, file_clips, world_clips
from vidrl.audit.hacks import HACKS, STRENGTHS
from vidrl.bench import meta_dims, meta_page
from vidrl.bench.cache import write_atomic
from vidrl.bench.detection import Area, chance_p, paired_area, shares_below, unpaired_area
from vidrl.bench.meta_dims import QualitySum
from vidrl.bench.meta_scores import NULLS, Row, Step, plan, score_clip
from vidrl.inference.families import holm

if TYPE_CHECKING:
    from vidrl.bench.dims import Dim

SOURCES: dict[str, Callable[[Row], bool]] = {
    "all": lambda row: True,
    "world": lambda row: not row.real,
    "real": lambda row: row.real,
}
Progress = Callable[[int, int, str], None]


def run(
    out: str | os.PathLike[str],
    clips: str | os.PathLike[str] | None = None,
    *,
    dims: Sequence[Dim | str] = (),
    count: int = 16,
    real: int = 8,
    size: int = 64,
    seconds: float = 1.0,
    strengths: Sequence[float] = STRENGTHS,
    corruptions: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Write bench_meta.json, .md and .svg to the folder `out`, and return the JSON's content.

    The clips are `count` scenes of vidrl.synthetic.world of `size` pixels, and up to `real`
    pieces of `seconds` of the videos in `clips`, their shorter side shrunk to `size`. The
    values of each clip are stored in out/meta_clips, so that a second run computes only
    what is missing. Raises ValueError without clips, or for an unknown corruption.
    """
    folder = Path(out)
    (folder / "meta_clips").mkdir(parents=True, exist_ok=True)
    chosen = [
        dim if not isinstance(dim, str) else meta_dims.dims([dim])[0] for dim in dims
    ] or meta_dims.dims()
    tried = _corruptions(corruptions, strengths)
    all_clips, left = _clips(clips, count, real, size, seconds, seed)
    rows = _rows(all_clips, chosen, plan(tried), folder / "meta_clips", progress)
    rows, shown = _with_quality_sum(rows, chosen)
    found = results(rows, shown, tried) | {
        "command": command or _command(),
        "made": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": _versions(),
        "left_out": [asdict(one) for one in left],
        "settings": {"size": size, "seconds": seconds, "seed": seed, "nulls": NULLS},
    }
    write(found, folder)
    return found


def results(
    rows: Sequence[Row], dims: Sequence[Dim | QualitySum], tried: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return the areas of all dims, corruptions and strengths, for each source of clips."""
    sources = {name: [row for row in rows if keep(row)] for name, keep in SOURCES.items()}
    sources = {
        name: rows_of_source
        for name, rows_of_source in sources.items()
        if rows_of_source and (name == "all" or len(rows_of_source) < len(rows))
    }
    return {
        "format": 2,
        "clips": {
            name: {
                "clips": len(rows_of_source),
                "videos": len({row.group for row in rows_of_source}),
            }
            for name, rows_of_source in sources.items()
        },
        "strengths": sorted({s for levels in tried.values() for s in levels}),
        "corruptions": {
            name: {"told_from": _detectable_from(name), "strengths": list(tried[name])}
            for name in tried
        },
        "dims": [
            {
                "name": dim.name,
                "profile": dim.profile,
                "version": dim.version,
                "hash": dim.hash,
                "note": meta_dims.NOTES.get(dim.name, ""),
            }
            for dim in dims
        ],
        "areas": [
            area
            for name, rows_of_source in sources.items()
            for dim in dims
            for area in _areas(name, rows_of_source, dim.name, tried)
        ],
        "summary": [
            _summary(name, rows_of_source, dim.name, tried)
            for name, rows_of_source in sources.items()
            for dim in dims
        ],
        "unscored": _unscored(rows, dims),
    }


def write(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the three files and return their paths.

    In the JSON the areas are nested by source, dim, corruption and strength.
    """
    held = json.dumps(
        {**found, "areas": _nested(found["areas"])}, ensure_ascii=False, allow_nan=False
    )
    texts = {
        "json": held + "\n",
        "md": meta_page.page(found, "bench_meta.svg"),
        "svg": meta_page.picture(found),
    }
    for kind, text in texts.items():
        write_atomic(folder / f"bench_meta.{kind}", text)
    return [folder / f"bench_meta.{kind}" for kind in texts]


def _nested(areas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the areas nested by source, dim, corruption and strength."""
    found: dict[str, Any] = {}
    for area in areas:
        place = found
        for key in ("source", "dim", "corruption"):
            place = place.setdefault(area[key], {})
        place[f"{area['strength']:g}"] = {"n": area["n"], "verdict": area["verdict"]} | {
            kind: list(area[kind].values()) for kind in ("paired", "unpaired")
        }  # area, low, high
    return found


# --- clips and scores -----------------------------------------------------------------


def _corruptions(names: Sequence[str], strengths: Sequence[float]) -> dict[str, list[float]]:
    """Return the strengths of each corruption. Raises ValueError for an unknown name."""
    strange = [name for name in names if name not in HACKS]
    if strange:
        raise ValueError(f"expected corruptions out of {', '.join(HACKS)}, got {strange[0]!r}")
    if not strengths or not all(s > 0 for s in strengths):
        raise ValueError(f"expected strengths above 0, got {list(strengths)}")
    return {
        name: sorted(strengths) if HACKS[name].graded else [max(strengths)]
        for name in names or HACKS
    }


def _clips(
    folder: str | os.PathLike[str] | None,
    count: int,
    real: int,
    size: int,
    seconds: float,
    seed: int,
) -> tuple[list[Clip], list[Left]]:
    """Return the clips, and what was left out. Raises ValueError without clips."""
    scenes = world_clips(count, size, seed=seed) if count else []
    pieces, left = (
        file_clips(folder, seconds, size, most=2, limit=max(real, 1))
        if folder and real
        else ([], [])
    )
    if folder and real and not pieces and not left:
        raise ValueError(f"expected videos in {folder}, found none")
    left = [*left, *(Left(piece.name, f"{real} clips are enough") for piece in pieces[real:])]
    if not scenes and not pieces:
        raise ValueError(
            "expected scenes (count above 0) or a folder of videos that can be read, got neither"
        )
    return scenes + pieces[:real], left


def _rows(
    clips: Sequence[Clip],
    dims: Sequence[Dim],
    steps: Sequence[Step],
    folder: Path,
    progress: Progress | None,
) -> list[Row]:
    """Return the row of each clip, from the folder or computed."""
    rewards = {dim.name: dim.build().eval() for dim in dims}
    stamps = {dim.name: f"{dim.hash} {' '.join(_versions().values())}" for dim in dims}
    rows = []
    for i, clip in enumerate(clips):
        rows.append(score_clip(clip, rewards, steps, folder, stamps))
        if progress:
            progress(i + 1, len(clips), clip.name)
    return rows


def _with_quality_sum(
    rows: Sequence[Row], dims: Sequence[Dim]
) -> tuple[list[Row], list[Dim | QualitySum]]:
    """Add VBench's quality sum to the rows, if all of its parts were measured.

    A composite should be compared with a composite, not only with single dims.
    """
    total, names = QualitySum(), [dim.name for dim in dims]
    if not set(total.parts) <= set(names):
        return list(rows), list(dims)
    steps = lambda row: next(iter(row.values.values()))  # noqa: E731
    summed = [
        replace(
            row,
            values=row.values
            | {
                total.name: {
                    step: total.value({name: row.values[name][step] for name in total.parts})
                    for step in steps(row)
                }
            },
        )
        for row in rows
    ]
    last = max(names.index(name) for name in total.parts) + 1
    return summed, [*dims[:last], total, *dims[last:]]


# --- areas ----------------------------------------------------------------------------


def _areas(
    source: str, rows: Sequence[Row], dim: str, tried: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """Return the paired and unpaired area of each corruption and strength."""
    found = []
    for name, strength in ((name, s) for name, levels in tried.items() for s in levels):
        shares, groups = _shares(rows, dim, name, strength), [row.group for row in rows]
        paired, unpaired = paired_area(np.diagonal(shares), groups), unpaired_area(shares, groups)
        found.append(
            {
                "source": source,
                "dim": dim,
                "corruption": name,
                "strength": strength,
                "n": paired.n,
                "paired": _plain(paired),
                "unpaired": _plain(unpaired),
                "verdict": paired.verdict,
            }
        )
    return found


def _shares(rows: Sequence[Row], dim: str, name: str, strength: float) -> np.ndarray:
    """Return how often each corrupted clip is below each sound one, (N, N)."""
    null = np.array([[row.value(dim, f"saved {k}") for row in rows] for k in range(NULLS)])
    return shares_below(null, np.array([row.value(dim, f"{name} {strength:g}") for row in rows]))


def _summary(
    source: str, rows: Sequence[Row], dim: str, tried: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return by strength the mean area over detectable faults, and which lower or raise the dim."""
    groups, levels = (
        [row.group for row in rows],
        sorted({s for levels_of_corruption in tried.values() for s in levels_of_corruption}),
    )
    return {
        "source": source,
        "dim": dim,
        "strengths": {f"{s:g}": _at(rows, dim, groups, s, tried) for s in levels},
    }


def _at(
    rows: Sequence[Row],
    dim: str,
    groups: Sequence[str],
    strength: float,
    tried: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Return the summary of one dim at one strength."""
    faults = [
        name for name in tried if strength in tried[name] and HACKS[name].detectable(strength)
    ]
    shares = {name: _shares(rows, dim, name, strength) for name in faults}
    areas = {
        name: paired_area(np.diagonal(shares_of_fault), groups)
        for name, shares_of_fault in shares.items()
    }
    significant, mean = _significant_faults(shares, groups), _mean(list(shares.values()), len(rows))
    return (
        {
            "faults": len(faults),
            "paired": _plain(paired_area(np.diagonal(mean), groups)),
            "unpaired": _plain(unpaired_area(mean, groups)),
        }
        | {
            verdict: [name for name in faults if areas[name].verdict == verdict]
            for verdict in ("lowers", "open", "raises", "few", "unscored")
        }
        | {
            f"{verdict}_corrected": [name for name in significant if areas[name].verdict == verdict]
            for verdict in ("lowers", "raises")
        }
        | {"below": [name for name in faults if areas[name].value < 0.5]}
    )


def _significant_faults(shares: Mapping[str, np.ndarray], groups: Sequence[str]) -> list[str]:
    """Return the faults whose p is below 0.05 after Holm's correction over the dim's faults."""
    p = {
        name: chance_p(np.diagonal(shares_of_fault), groups)
        for name, shares_of_fault in shares.items()
    }
    known = [name for name in p if np.isfinite(p[name])]
    return [
        name
        for name, corrected in zip(known, holm([p[name] for name in known]), strict=True)
        if corrected < 0.05
    ]


def _mean(shares: Sequence[np.ndarray], n: int) -> np.ndarray:
    """Return the mean of the known values, entry by entry, (N, N)."""
    if not shares:
        return np.full((n, n), np.nan)
    known = np.isfinite(shares).sum(0)
    return np.where(known > 0, np.nansum(shares, 0) / np.maximum(known, 1), np.nan)


def _plain(area: Area) -> dict[str, float | None]:
    """Return an area rounded to the precision that the clips allow, None for NaN."""
    return {
        key: None if value != value else round(value, 4)
        for key, value in (("area", area.value), ("low", area.low), ("high", area.high))
    }


def _unscored(rows: Sequence[Row], dims: Sequence[Dim | QualitySum]) -> list[dict[str, Any]]:
    """Count missing values by dim and reason; "untouched" is one of the reasons."""
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        for dim in dims:
            for reason in row.why.get(dim.name, {}).values():
                found[dim.name, reason] = found.get((dim.name, reason), 0) + 1
    return [{"dim": dim, "why": why, "times": times} for (dim, why), times in found.items()]


def _detectable_from(name: str) -> float | None:
    """Return the strength from which a person could see the corruption, None if never."""
    strength = HACKS[name].told_from
    return strength if strength != float("inf") else None


def _versions() -> dict[str, str]:
    import cv2
    import torch

    import vidrl

    return {
        "vidrl": vidrl.__version__,
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _command() -> str:
    return " ".join(["vidrl", *sys.argv[1:]])
