"""Measure agreement with people: how often each dim chooses the clip that people chose.

One more rater is measured in the same way, for comparison. The command is

    vidrl bench --preferences choices.csv --out runs/people
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidrl.bench import preference_files, preference_page
from vidrl.bench.agreement import (
    agreement_with_ties,
    calibrate_tie_threshold,
    chance_with_ties,
    dependence_clusters,
    leave_one_out,
    majority,
    spearman,
)
from vidrl.bench.agreement import agreement_without_ties as decided
from vidrl.bench.cache import write_atomic
from vidrl.bench.detection import Area, paired_area
from vidrl.bench.preference_files import Choice, Preferences
from vidrl.bench.rater_comparison import compare_dims, compare_with_rater

if TYPE_CHECKING:
    from vidrl.bench.dims import Dim
    from vidrl.bench.items import Item
    from vidrl.bench.suite import Suite

OTHERS_WITHOUT_WEIGHTS = (
    "vbench_temporal_flickering",
    "vbench_dynamic_degree",
    "lai_warping_error",
    "evalcrafter_warping_error",
)
Clip = Mapping[str, Any]  # a clip of results.json: at least value and why, by dim
Measure = Callable[["list[Item]", "Suite"], Iterable[Clip]]  # one clip an item, in order


def run(
    file: str | os.PathLike[str],
    suite: Suite | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    videos: str | os.PathLike[str] | None = None,
    raters: str = "majority",
    measure: Measure | None = None,
    beside: bool = True,
    jobs: int = 0,
    timeout: float | None = None,
    device: str = "cpu",
    cache: str | os.PathLike[str] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Score the clips of a file of choices, and return how far each dim agrees with people.

    `raters` is "majority" (one answer for each pair), "each" (every answer by itself) or
    the name of one rater. `beside` adds others' dims that need no weights. `measure` scores
    items; the default is `vidrl bench`'s, with `jobs` processes and the folder `cache`, by
    default out/cache. With `out`, files are written to that folder. Raises ValueError for a
    file that is not understood, or a rater who is not in it.
    """
    read = preference_files.read(file, videos)
    chosen = _suite(suite, beside)
    prompts, cache_folder = (
        read.prompts,
        cache if cache is not None or out is None else Path(out) / "cache",
    )
    score = measure or _measured(jobs, timeout, cache_folder, device)
    clips = dict(zip(prompts, score(_items(prompts), chosen), strict=True))
    found = results(read, clips, chosen.dims, raters) | {
        "command": command,
        "file": str(file),
        "suite": {"name": chosen.name, "version": chosen.version},
        "protocol": {"hash": chosen.protocol.hash},
        "made": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if out is not None:
        write(found, Path(out))
    return found


def results(
    read: Preferences, clips: Mapping[str, Clip], dims: Sequence[Dim], raters: str = "majority"
) -> dict[str, Any]:
    """Return the tables, from the choices and the clips' values."""
    pairs = {aspect: _pairs(read, aspect, raters) for aspect in read.aspects}
    values = {
        dim.name: {clip: _value(row, dim.name) for clip, row in clips.items()} for dim in dims
    }
    rows = [
        _row(aspect, pairs_of_aspect, dim, values[dim.name], read.scores.get(aspect, {}))
        for aspect, pairs_of_aspect in pairs.items()
        for dim in dims
    ]
    by_majority = {aspect: _pairs(read, aspect, "majority") for aspect in pairs}
    return {
        "format": 2,
        "layout": read.layout,
        "raters": raters,
        "clips": len(clips),
        "people": [
            _people(aspect, pairs_of_aspect, read)
            for aspect, pairs_of_aspect in by_majority.items()
        ],
        "table": rows,
        "beside_a_rater": [
            {"aspect": aspect} | row
            for aspect, pairs_of_aspect in by_majority.items()
            for row in compare_with_rater(
                leave_one_out(_votes(pairs_of_aspect)),
                _clusters(pairs_of_aspect),
                _models(pairs_of_aspect, values),
            )
        ],
        "between": [
            {"aspect": aspect} | row
            for aspect, pairs_of_aspect in pairs.items()
            for row in compare_dims(
                _human(pairs_of_aspect),
                _clusters(pairs_of_aspect),
                _models(pairs_of_aspect, values),
            )
        ],
        "unscored": [
            {"path": path, "dim": dim.name, "why": _why(row, dim.name)}
            for path, row in clips.items()
            for dim in dims
            if math.isnan(_value(row, dim.name))
        ],
        "notes": [*read.notes, *read.warnings, *_repeated(read), *_notes(rows)],
    }


def write(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write preferences.json and preferences.md, and return their paths."""
    texts = {
        "json": json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "md": preference_page.page(found),
    }
    for kind, text in texts.items():
        write_atomic(folder / f"preferences.{kind}", text)
    return [folder / f"preferences.{kind}" for kind in texts]


# --- what is scored -------------------------------------------------------------------


def _suite(suite: Suite | None, beside: bool) -> Suite:
    """Return the suite, with others' dims that need no weights if `beside`."""
    from vidrl.bench import meta_dims
    from vidrl.bench import suite as suites

    chosen = suite if suite is not None else suites.load("temporal")
    names = {dim.name for dim in chosen.dims}
    others = (
        [dim for dim in meta_dims.dims(OTHERS_WITHOUT_WEIGHTS) if dim.name not in names]
        if beside
        else []
    )
    return replace(chosen, dims=(*chosen.dims, *others))


def _items(prompts: Mapping[str, str]) -> list[Item]:
    from vidrl.bench.items import Item

    return [Item(Path(path), prompt) for path, prompt in prompts.items()]


def _measured(
    jobs: int, timeout: float | None, cache: str | os.PathLike[str] | None, device: str
) -> Measure:
    """Return a function that scores items as `vidrl bench` does."""
    from vidrl.bench import measure

    kept = Path(cache) if cache is not None else None
    return lambda items, suite: measure.run(items, suite, kept, jobs, timeout, device)


def _value(clip: Clip, dim: str) -> float:
    found = clip.get("value", {}).get(dim)
    return math.nan if found is None else float(found)


def _why(clip: Clip, dim: str) -> str:
    """Return the reason why a clip has no number on a dim."""
    why = clip.get("why") or {}
    return str(why if isinstance(why, str) else why.get(dim) or "unscored")


# --- pairs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two clips and the raters' votes: 1 for the first, −1 for the second, 0 for a tie."""

    first: str
    second: str
    prompt: str
    votes: tuple[int, ...]


def _pairs(read: Preferences, aspect: str, raters: str) -> list[Pair]:
    """Return the pairs of one aspect; with "each", one pair for each answer."""
    choices = [choice for choice in read.choices if choice.aspect == aspect]
    if raters == "each":
        return [Pair(c.first, c.second, c.prompt, (c.choice,)) for c in choices]
    if raters != "majority":
        known = sorted({choice.rater for choice in read.choices if choice.rater})
        choices = [choice for choice in choices if choice.rater == raters]
        if raters not in known:
            raise ValueError(
                "expected raters to be majority, each, or one of "
                f"{', '.join(known) or 'none named'}, got {raters!r}"
            )
    return _grouped(choices)


def _grouped(choices: Iterable[Choice]) -> list[Pair]:
    """Join all answers on the same two clips, whichever was shown first.

    A rater who answered a pair twice has one vote, the majority of the two answers.
    """
    return [
        Pair(*key, tuple(majority(answers) for answers in votes.values()))
        for key, votes in _by_rater(choices).items()
    ]


def _by_rater(choices: Iterable[Choice]) -> dict[tuple[str, str, str], dict[Any, list[int]]]:
    """Return the answers of each rater on each pair; answers without a name are separate raters."""
    found: dict[tuple[str, str, str], dict[Any, list[int]]] = {}
    for number, choice in enumerate(choices):
        turned = (choice.second, choice.first, choice.prompt) in found
        clips = (choice.second, choice.first) if turned else (choice.first, choice.second)
        votes = found.setdefault((*clips, choice.prompt), {})
        votes.setdefault(choice.rater or number, []).append(
            -choice.choice if turned else choice.choice
        )
    return found


def _repeated(read: Preferences) -> list[str]:
    """Return a note on raters who answered a pair more than once."""
    repeated = sum(
        len(answers) - 1
        for aspect in read.aspects
        for votes in _by_rater(
            choice for choice in read.choices if choice.aspect == aspect
        ).values()
        for answers in votes.values()
    )
    return (
        [
            f"{repeated} answers are by a rater who had answered the same pair before: the "
            "majority of a rater's own answers is one vote"
        ]
        if repeated
        else []
    )


def _votes(pairs: Sequence[Pair]) -> list[tuple[int, ...]]:
    return [pair.votes for pair in pairs]


def _human(pairs: Sequence[Pair]) -> np.ndarray:
    return np.array([majority(pair.votes) for pair in pairs], int)


def _model(pairs: Sequence[Pair], values: Mapping[str, float]) -> np.ndarray:
    """Return the first clip's value less the second's, NaN where either has none."""
    return np.array([values[pair.first] - values[pair.second] for pair in pairs], float)


def _models(
    pairs: Sequence[Pair], values: Mapping[str, Mapping[str, float]]
) -> dict[str, np.ndarray]:
    return {dim: _model(pairs, known) for dim, known in values.items()}


def _clusters(pairs: Sequence[Pair]) -> list[int]:
    """Return the clusters of the pairs; pairs of one prompt, or with a common clip, are one."""

    def prompt(pair: Pair) -> str:
        text = pair.prompt.strip().casefold()
        return f"prompt {text}" if text else ""

    return dependence_clusters(
        (prompt(pair), f"clip {pair.first}", f"clip {pair.second}") for pair in pairs
    )


# --- rows -----------------------------------------------------------------------------


def _row(
    aspect: str,
    pairs: Sequence[Pair],
    dim: Dim,
    values: Mapping[str, float],
    scores: Mapping[str, float],
) -> dict[str, Any]:
    """Return the agreement of one dim with people on one aspect, counted in several ways."""
    human, model = _human(pairs), _model(pairs, values)
    groups, scored = _clusters(pairs), ~np.isnan(model)
    _, epsilon = calibrate_tie_threshold(human, model)
    half = decided(human, model, half=True)
    rank = spearman(np.array(list(scores.values())), np.array([values[clip] for clip in scores]))
    return {
        "aspect": aspect,
        "dim": dim.name,
        "profile": dim.profile,
        "pairs": len(pairs),
        "scored": int(scored.sum()),
        "ties": int((human[scored] == 0).sum()),
        "model_ties": int((model[scored & (human != 0)] == 0).sum()),
        "without_ties": _plain(paired_area(decided(human, model), groups)),
        "half": _plain(paired_area(half, groups)),
        "with_ties": _plain(paired_area(agreement_with_ties(human, model, epsilon), groups)),
        "epsilon": _number(epsilon),
        "chance_with_ties": _number(chance_with_ties(human[scored])),
        "missing_as_chance": _filled(half, human, 0.5),
        "missing_as_wrong": _filled(half, human, 0.0),
        "spearman": _number(rank),
    }


def _filled(half: np.ndarray, human: np.ndarray, value: float) -> float | None:
    """Return the agreement if each missing value counted as `value`, over decided pairs."""
    return (
        _number(float(np.where(np.isnan(half), value, half)[human != 0].mean()))
        if (human != 0).any()
        else None
    )


def _people(aspect: str, pairs: Sequence[Pair], read: Preferences) -> dict[str, Any]:
    """Return how often a rater agrees with the others, and chose the clip shown first.

    The agreement is counted as a dim's. A preference for the first clip is a bias of
    position.
    """
    left_out, groups = leave_one_out(_votes(pairs)), _clusters(pairs)
    where, votes = [groups[i] for i in left_out.rows], left_out.votes.astype(float)
    with_several = sum(len(pair.votes) > 1 for pair in pairs)
    areas = {
        "without_ties": decided(left_out.majority, votes),
        "half": decided(left_out.majority, votes, half=True),
        "with_ties": agreement_with_ties(left_out.majority, votes, 0.0),
    }
    answers = [choice for choice in read.choices if choice.aspect == aspect]
    chose_first = np.array([math.nan if c.choice == 0 else float(c.choice == 1) for c in answers])
    clusters_of_answers = _clusters(
        [Pair(c.first, c.second, c.prompt, (c.choice,)) for c in answers]
    )
    return {
        "aspect": aspect,
        "pairs": len(pairs),
        "answers": len(answers),
        "several": with_several,
        "ties": int((_human(pairs) == 0).sum()),
        "clusters": len(set(groups)),
        **{
            name: _plain(paired_area(area, where)) if with_several else None
            for name, area in areas.items()
        },
        "first": None if read.scores else _plain(paired_area(chose_first, clusters_of_answers)),
    }


def _plain(area: Area) -> dict[str, Any]:
    return {key: _number(getattr(area, key)) for key in ("value", "low", "high")} | {"n": area.n}


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return notes on missing values and small numbers of pairs."""
    unscored = [
        f"{row['dim']} ({row['aspect']}): {row['pairs'] - row['scored']} of {row['pairs']} "
        "pairs have a clip without a value"
        for row in rows
        if row["scored"] < row["pairs"]
    ]
    few = [
        f"{row['aspect']}: only {row['scored']} pairs" for row in rows if 0 < row["scored"] < 100
    ]
    return [*unscored, *dict.fromkeys(few)]
