"""Features of the clips of results.json, kept in the cache, and the distances between sets that come of them.

Features lie as safetensors under the hash of the clip, the protocol and the encoder: whoever is killed and runs again,
or adds clips or distances, encodes only what is missing. A distance carries the hash of protocol, encoder and formula.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidrl import plugin
from vidrl.bench import items as items_
from vidrl.bench.cache import Hashes, key
from vidrl.bench.clip import Clip
from vidrl.bench.encoding import Encoder
from vidrl.bench.measure import _one_thread
from vidrl.bench.protocol import Protocol, digest
from vidrl.bench.statistics import number
from vidrl.rewards._workers import Done, each
from vidrl.rewards.video import Unreadable

Array = np.ndarray
Progress = Callable[[Iterable[Any], int], Iterable[Any]]
USUAL = "efficientnet"


@dataclass(frozen=True)
class Source:
    """A clip to be encoded: where it is, the hash of its bytes, and its prompt, if one is given."""

    path: str
    id: str
    prompt: str = ""


@dataclass
class Features:
    """Of a set: rows (N, D), the prompt of each or a group of its own, and what was left out."""

    name: str
    rows: Array
    groups: list[Hashable]
    clips: int
    notes: list[str]


def distances(
    results: Mapping[str, Any],
    names: Sequence[str],
    encoder: str = USUAL,
    against: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    jobs: int = 0,
    timeout: float | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """The distances `names`, as "frechet" and "kernel", of the sets of results, as its "distances" has them.

    Every set against the clips of the folder `against`, or else the other sets against the first. Files are read again,
    under the results' protocol, and encoded by `encoder`, see `vidrl.bench.encoding`, in `jobs` processes as
    `measure.run` does. `value` is the published formula, and `low` to `high` the interval of `unbiased`; `n` counts
    rows of features, of which a clip may have several. Clips that cannot be encoded are left out, and noted.

    Raises plugin.UnknownName, ImportError where weights are missing, and ValueError where there is nothing to compare
    with, another reader than the results', or an encoder whose features do not fit together.
    """
    measures = {name: plugin.load("benchmarks", name) for name in names}
    protocol, made = _protocol(results), Encoder(encoder, device)
    made.try_out()
    encode = Encode(encoder, protocol, cache, device)
    sets = [_set(one, encode, made.hash, jobs, timeout, progress) for one in _sets(results, against, cache)]
    pairs = [(one, sets[-1]) for one in sets[:-1]] if against else [(sets[0], one) for one in sets[1:]]
    marks = {name: digest([protocol.hash, made.hash, name]) for name in names}
    return [_distance(name, measure, *pair) | {"protocol": marks[name], "encoder": encoder}
            for pair in pairs for name, measure in measures.items()]


class Encode:
    """Encodes one clip, or reads what was kept of it: features (W, D), or why there are none."""

    def __init__(self, spec: str, protocol: Protocol, cache: str | os.PathLike[str] | None, device: str) -> None:
        self.spec, self.protocol, self.device = spec, protocol, device
        self.cache = Path(cache) / "features" if cache is not None else None
        self.encoder: Encoder | None = None

    def __call__(self, task: tuple[Source, str]) -> Array | str:
        source, name = task
        kept = self.cache / name[:2] / f"{name}.safetensors" if self.cache else None
        found = _read(kept) if kept else None
        if found is None:
            try:
                self.encoder = self.encoder or Encoder(self.spec, self.device)
                found = self.encoder.clip(Clip(Path(source.path), self.protocol))
            except (OSError, Unreadable) as error:
                return f"unreadable: {error}"
            except Exception as error:  # noqa: BLE001  an encoder may raise anything; it is told, and the rest goes on
                return f"not encoded: {type(error).__name__}: {error}"
            if kept:
                _write(kept, found)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"encoder": None}

    def name(self, source: Source, encoder: str) -> str:
        """What the features of a clip are kept under."""
        return key(source.id, f"features {encoder}", self.protocol.hash, device=self.device,
                   suffix=Path(source.path).suffix.lower())


# --- sets ------------------------------------------------------------------------------------------------------------


def _protocol(results: Mapping[str, Any]) -> Protocol:
    """That of the results. Raises ValueError where this machine reads by another decoder."""
    said = results["protocol"]
    here = Protocol(said["fps"], said["side"], said["frames"])
    if here.hash != said["hash"]:
        raise ValueError(f"expected to read clips as the results did, by {said.get('decoder')}, but here it is "
                         f"{here.decoder}: measure them anew, or install that version")
    return here


def _sets(results: Mapping[str, Any], against: str | os.PathLike[str] | None, cache: str | os.PathLike[str] | None
          ) -> list[tuple[str, list[Source], list[str]]]:
    """Names, clips and notes of the sets, those of the folder `against` last."""
    sets = [(one["name"], [Source(clip["path"], clip["id"], clip.get("prompt") or "") for clip in one["clips"]],
             [f"{len(one['skipped'])} clips of {one['name']} could not be read"] if one.get("skipped") else [])
            for one in results["sets"]]
    if against is not None:
        name = Path(os.path.abspath(against)).name
        return [*sets, (name if name not in {one[0] for one in sets} else "reference", *_folder(against, cache))]
    if len(sets) < 2:
        raise ValueError("expected two sets, or a folder of clips to compare with, --against; got one set alone")
    return sets


def _folder(against: str | os.PathLike[str], cache: str | os.PathLike[str] | None) -> tuple[list[Source], list[str]]:
    found, hashes = items_.find([against]), Hashes(cache)
    sources = [Source(str(item.path), hashes.of(item.path), item.prompt) for item in found.items]
    hashes.save()
    return sources, [f"missing: {row['path']}" for row in found.skipped]


def _set(one: tuple[str, list[Source], list[str]], encode: Encode, hash: str, jobs: int, timeout: float | None,
         progress: Progress | None) -> Features:
    """The features of a set."""
    name, sources, notes = one
    tasks = [(source, encode.name(source, hash)) for source in sources]
    done = each(encode, tasks, jobs, timeout) if jobs else _here(encode, tasks)
    found: list[tuple[Source, Array]] = []
    lost: list[str] = []
    for said in progress(done, len(tasks)) if progress and tasks else done:
        if said.why is not None or isinstance(said.result, str):
            lost.append(f"{said.task[0].path}: {said.why or said.result}")
        else:
            found.append((said.task[0], said.result))
    left = [f"{len(lost)} of {len(tasks)} clips of {name} are left out, the first is {lost[0]}"] if lost else []
    groups: list[Hashable] = [source.prompt or ("clip", name, source.path) for source, rows in found for _ in rows]
    return Features(name, _stacked(found), groups, len(found), [*notes, *left])


def _here(encode: Encode, tasks: Sequence[tuple[Source, str]]) -> Iterator[Done[tuple[Source, str]]]:
    with _one_thread():
        for task in tasks:
            yield Done(task, encode(task))


def _stacked(found: Sequence[tuple[Source, Array]]) -> Array:
    widths = {rows.shape[1]: source.path for source, rows in found}
    if len(widths) > 1:
        told = " and ".join(f"{width} ({path})" for width, path in widths.items())
        raise ValueError(f"expected as many features of every clip, got {told}: the encoder's output must not depend "
                         "on the length of a clip")
    return np.concatenate([rows for _, rows in found]) if found else np.zeros((0, 0), np.float32)


# --- distances -------------------------------------------------------------------------------------------------------


def _distance(name: str, measure: Any, first: Features, second: Features) -> dict[str, Any]:
    """A row of "distances"."""
    n, notes = [len(first.rows), len(second.rows)], [*first.notes, *second.notes]
    row: dict[str, Any] = {"name": name, "first": first.name, "second": second.name}
    if not min(n):
        return row | dict.fromkeys(("value", "low", "high", "unbiased")) | {
            "n": n, "notes": [*notes, "refused: a set has no clip that could be encoded"]}
    found = measure.measure(first.rows, second.rows, (first.groups, second.groups))
    windows = [f"{one.name}: {len(one.rows)} windows of {one.clips} clips" for one in (first, second)
               if len(one.rows) != one.clips]
    return row | {"value": number(found.value), "low": number(found.low), "high": number(found.high), "n": n,
                  "unbiased": number(found.unbiased), "notes": [*found.notes, *windows, *notes]}


# --- what is kept ----------------------------------------------------------------------------------------------------


def _read(path: Path) -> Array | None:
    """Features that were kept; None where there are none that can be read."""
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())["features"]
    except FileNotFoundError:
        return None
    except Exception:  # noqa: BLE001  a broken file, whatever its reader calls that
        print(f"vidrl: {path} could not be read, and its clip is encoded again", file=sys.stderr)
        return None


def _write(path: Path, features: Array) -> None:
    """Keep features: readers see all of them or nothing."""
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        part.write_bytes(save({"features": np.ascontiguousarray(features)}))
        os.replace(part, path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
