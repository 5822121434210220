"""Encode the clips of results.json as features, and compute distances between the sets.

Features are stored as safetensors, named by a hash of clip, protocol and encoder. So a run
that was killed, or that gets more clips or distances, encodes only what is missing. Each
distance carries the hash of protocol, encoder and formula: only distances with equal hashes
can be compared.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from vidrl import plugin
from vidrl.bench import items as items_
from vidrl.bench.cache import Hashes, key
from vidrl.bench.clip import Clip
from vidrl.bench.encoding import Encoder
from vidrl.bench.measure import _one_thread
from vidrl.bench.pairing import pairing_rule
from vidrl.bench.protocol import Protocol, digest
from vidrl.bench.statistics import json_number
from vidrl.rewards._files import atomic_file
from vidrl.rewards._files.workers import TaskResult, map_in_processes
from vidrl.rewards.video import Unreadable

Array = np.ndarray
Progress = Callable[[Iterable[Any], int], Iterable[Any]]
DEFAULT_ENCODER = "efficientnet"


@dataclass(frozen=True)
class Source:
    """A set of clips to encode, as results.json has them: path, id, prompt and seed."""

    name: str
    clips: list[Mapping[str, Any]]
    notes: list[str]


@dataclass
class Features:
    """The features of a set: the encoded clips, the rows (W, D) of each, and notes."""

    name: str
    clips: list[Mapping[str, Any]]
    rows: list[Array]
    notes: list[str]

    def table(self, prompts: Sequence[Hashable]) -> tuple[Array, list[Hashable]]:
        """Return all rows (N, D) and the group of each row, which is its clip's."""
        groups = [group for group, rows in zip(prompts, self.rows, strict=True) for _ in rows]
        return np.concatenate(self.rows), groups


def distances(
    results: Mapping[str, Any],
    names: Sequence[str],
    encoder: str = DEFAULT_ENCODER,
    against: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    jobs: int = 0,
    timeout: float | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Return the distances `names`, as "frechet" and "kernel", between sets of results.

    With the folder `against`, each set is compared with the clips in it, and then every two
    sets by which of them is `nearer` to it. Without it, the other sets are compared with
    the first. Files are read again under the results' protocol and encoded by `encoder`,
    see `vidrl.bench.encoding`, in `jobs` processes, as `measure.run` does. In a row,
    `value` is the published formula, `low` to `high` the interval of `unbiased`, and `n`
    counts rows of features, of which a clip may have several. Clips that cannot be encoded
    are left out, with a note.

    Raises plugin.UnknownName; ImportError if weights are missing; ValueError if there is
    nothing to compare with, if this machine decodes with another library than the results',
    or if the features of the clips have different lengths.
    """
    measures = {name: plugin.load("benchmarks", name) for name in names}
    protocol, encoder_ = _protocol_of(results), Encoder(encoder, device)
    sources = _sources(results, against, cache)
    encode = Encode(encoder, protocol, cache, device)
    keys = {
        clip["id"]: encode.key(clip, encoder_.hash) for source in sources for clip in source.clips
    }
    sets = _features(
        sources, keys, _encoded(sources, keys, encode, encoder_, jobs, timeout, progress)
    )
    pairs = (
        [(one, sets[-1]) for one in sets[:-1]] if against else [(sets[0], one) for one in sets[1:]]
    )
    hash_of = {name: digest([protocol.hash, encoder_.hash, name]) for name in names}
    rows = [
        _distance_row(name, measure, *pair) for pair in pairs for name, measure in measures.items()
    ]
    rows += _nearness_rows(measures, sets) if against else []
    return [row | {"protocol": hash_of[row["name"]], "encoder": encoder} for row in rows]


class Encode:
    """A callable that encodes one clip and stores its features, (W, D).

    It returns the features, or a text that says why there are none.
    """

    def __init__(
        self, spec: str, protocol: Protocol, cache: str | os.PathLike[str] | None, device: str
    ) -> None:
        self.spec, self.protocol = spec, protocol
        self.device = device
        self.cache = Path(cache) / "features" if cache is not None else None
        self.encoder: Encoder | None = None

    def __call__(self, task: tuple[str, str]) -> Array | str:
        path, key = task
        try:
            self.encoder = self.encoder or Encoder(self.spec, self.device)
            found = self.encoder.clip(Clip(Path(path), self.protocol))
        except (OSError, Unreadable) as error:
            return f"unreadable: {error}"
        except Exception as error:  # noqa: BLE001  an encoder may raise anything
            return f"not encoded: {type(error).__name__}: {error}"
        if self.cache:
            _write(self._file(key), found)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"encoder": None}

    def kept(self, key: str) -> Array | None:
        """Return the stored features of a key, None if there are none."""
        return _read(self._file(key)) if self.cache else None

    def key(self, clip: Mapping[str, Any], encoder: str) -> str:
        """Return the cache key of a clip's features."""
        return key(
            clip["id"],
            f"features {encoder}",
            self.protocol.hash,
            device=self.device,
            suffix=Path(clip["path"]).suffix.lower(),
        )

    def _file(self, key: str) -> Path:
        assert self.cache is not None
        return self.cache / key[:2] / f"{key}.safetensors"


# --- sets -----------------------------------------------------------------------------


def _protocol_of(results: Mapping[str, Any]) -> Protocol:
    """Return the protocol of the results. Raises ValueError if another decoder is installed."""
    stored = results["protocol"]
    here = Protocol(stored["fps"], stored["side"], stored["frames"])
    if here.hash != stored["hash"]:
        raise ValueError(
            f"expected to read clips as the results did, by {stored.get('decoder')}, but here "
            f"it is {here.decoder}: measure them anew, or install that version"
        )
    return here


def _sources(
    results: Mapping[str, Any],
    against: str | os.PathLike[str] | None,
    cache: str | os.PathLike[str] | None,
) -> list[Source]:
    """Return the sets, with the clips of the folder `against` as the last one."""
    sets = [
        Source(
            one["name"],
            one["clips"],
            [f"{len(one['skipped'])} clips of {one['name']} could not be read"]
            * bool(one.get("skipped")),
        )
        for one in results["sets"]
    ]
    if against is not None:
        name = Path(os.path.abspath(against)).name
        return [
            *sets,
            _folder(
                name if name not in {one.name for one in sets} else "reference", against, cache
            ),
        ]
    if len(sets) < 2:
        raise ValueError(
            "expected two sets, or a folder of clips to compare with, --against; got one set alone"
        )
    return sets


def _folder(
    name: str, against: str | os.PathLike[str], cache: str | os.PathLike[str] | None
) -> Source:
    """Return the clips of a folder as a set."""
    found, hashes = items_.find([against]), Hashes(cache)
    clips: list[Mapping[str, Any]] = [
        {
            "path": str(item.path),
            "id": hashes.of(item.path),
            "prompt": item.prompt,
            "seed": item.seed,
        }
        for item in found.items
    ]
    hashes.save()
    return Source(name, clips, [f"{row['path']}: {row['why']}" for row in found.skipped])


def _encoded(
    sources: Sequence[Source],
    keys: Mapping[str, str],
    encode: Encode,
    encoder: Encoder,
    jobs: int,
    timeout: float | None,
    progress: Progress | None,
) -> dict[str, Array | str]:
    """Return for each key the features, or why there are none; equal bytes are encoded once."""
    clips = [clip for source in sources for clip in source.clips]
    paths = {keys[clip["id"]]: clip["path"] for clip in clips if not clip.get("closed")}
    found: dict[str, Array | str] = {
        keys[clip["id"]]: clip["closed"]
        for clip in clips
        if clip.get("closed") and keys[clip["id"]] not in paths
    }
    found |= {
        key: features for key in [*found, *paths] if (features := encode.kept(key)) is not None
    }
    tasks = [(path, key) for key, path in paths.items() if key not in found]
    if tasks:
        encoder.try_out()
        encode.encoder = encoder
        outcomes = (
            map_in_processes(encode, tasks, jobs, timeout, memory=None)
            if jobs
            else _encode_here(encode, tasks)
        )
        for outcome in progress(outcomes, len(tasks)) if progress else outcomes:
            found[outcome.task[1]] = (
                outcome.result if outcome.why is None else f"not encoded: {outcome.why}"
            )
    return found


def _encode_here(
    encode: Encode, tasks: Sequence[tuple[str, str]]
) -> Iterator[TaskResult[tuple[str, str]]]:
    """Encode in this process with one thread, as the worker processes do."""
    with _one_thread():
        for task in tasks:
            yield TaskResult(task, encode(task))


def _features(
    sources: Sequence[Source], keys: Mapping[str, str], found: Mapping[str, Array | str]
) -> list[Features]:
    """Return the features of the sets. Raises ValueError if clips have different numbers."""
    sets = []
    for source in sources:
        outcomes = [found[keys[clip["id"]]] for clip in source.clips]
        failures = [
            f"{clip['path']}: {why}"
            for clip, why in zip(source.clips, outcomes, strict=True)
            if isinstance(why, str)
        ]
        left_out = [
            f"{len(failures)} of {len(outcomes)} clips of {source.name} are left out, the "
            f"first is {it}"
            for it in failures[:1]
        ]
        rows = [
            (clip, one)
            for clip, one in zip(source.clips, outcomes, strict=True)
            if not isinstance(one, str)
        ]
        sets.append(
            Features(
                source.name,
                [clip for clip, _ in rows],
                [one for _, one in rows],
                source.notes + left_out,
            )
        )
    path_of_width = {
        one.shape[1]: clip["path"]
        for part in sets
        for clip, one in zip(part.clips, part.rows, strict=True)
    }
    if len(path_of_width) > 1:
        widths_text = " and ".join(f"{width} ({path})" for width, path in path_of_width.items())
        raise ValueError(
            f"expected as many features of every clip, got {widths_text}: the encoder's "
            "output must not depend on the length of a clip"
        )
    return sets


# --- distances ------------------------------------------------------------------------


def _distance_row(name: str, measure: Any, first: Features, second: Features) -> dict[str, Any]:
    """Return a row of "distances" for two sets."""
    n, notes = [sum(map(len, one.rows)) for one in (first, second)], [*first.notes, *second.notes]
    row: dict[str, Any] = {"name": name, "first": first.name, "second": second.name}
    if not min(n):
        return (
            row
            | dict.fromkeys(("value", "low", "high", "unbiased"))
            | {"n": n, "notes": [*notes, "refused: a set has no clip that could be encoded"]}
        )
    (x, mine), (y, others) = (
        one.table(groups) for one, groups in zip((first, second), _groups(first, second))
    )
    found = measure.measure(x, y, (mine, others))
    windows = [
        f"{one.name}: {rows} windows of {len(one.clips)} clips"
        for one, rows in zip((first, second), n)
        if rows != len(one.clips)
    ]
    return row | {
        "value": json_number(found.value),
        "low": json_number(found.low),
        "high": json_number(found.high),
        "n": n,
        "unbiased": json_number(found.unbiased),
        "notes": [*found.notes, *windows, *notes],
    }


def _nearness_rows(measures: Mapping[str, Any], sets: Sequence[Features]) -> list[dict[str, Any]]:
    """Return rows that say which of every two sets is nearer to the reference set.

    The level of their intervals is Bonferroni's over all these rows, because they are read
    together.
    """
    *models, real = sets
    pairs = [(name, *pair) for pair in combinations(models, 2) for name in measures]
    level = 1 - 0.05 / max(1, len(pairs))
    return [
        _nearness_row(name, measures[name], first, second, real, level)
        for name, first, second in pairs
    ]


def _nearness_row(
    name: str, measure: Any, first: Features, second: Features, real: Features, level: float
) -> dict[str, Any]:
    """Return a row with how much nearer the second set is to the reference than the first."""
    sets = (first, second, real)
    n = [sum(map(len, one.rows)) for one in sets]
    row: dict[str, Any] = {
        "name": name,
        "first": first.name,
        "second": second.name,
        "reference": real.name,
        "n": n,
        "level": level,
    } | dict.fromkeys(("difference", "low", "high"))
    if not min(n):
        return row | {"notes": ["refused: a set has no clip that could be encoded"]}
    tables = [one.table(groups) for one, groups in zip(sets, _groups(*sets), strict=True)]
    found = measure.nearer(
        *(rows for rows, _ in tables), tuple(groups for _, groups in tables), level
    )
    return (
        row
        | {key: json_number(getattr(found, key)) for key in ("difference", "low", "high")}
        | {"notes": list(found.notes)}
    )


def _groups(*sets: Features) -> list[list[Hashable]]:
    """Return the group of each clip, for the blocks of the jackknife.

    Clips of one prompt form a group, within a set and across sets. Without prompts, clips
    of one file name do, if the sets are paired by file name. Else a clip is a group of its
    own.
    """
    *models, last = sets
    ways = [pairing_rule(one.clips, last.clips) for one in models]
    named = [keys if by == "file name" else None for by, keys in ways]
    keys = [found and found[0] for found in named] + [
        next((found[1] for found in named if found), None)
    ]
    return [
        [
            clip.get("prompt") or (key and key(clip)) or ("clip", at, i)
            for i, clip in enumerate(one.clips)
        ]
        for at, (one, key) in enumerate(zip(sets, keys, strict=True))
    ]


# --- what is kept ---------------------------------------------------------------------


def _read(path: Path) -> Array | None:
    """Return stored features, None if there are none that can be read."""
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())["features"]
    except FileNotFoundError:
        return None
    except Exception:  # noqa: BLE001  the reader raises various types for a damaged file
        print(f"vidrl: {path} could not be read, and its clip is encoded again", file=sys.stderr)
        return None


def _write(path: Path, features: Array) -> None:
    """Store features atomically: readers see all of them or none."""
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_bytes(path, save({"features": np.ascontiguousarray(features)}))
