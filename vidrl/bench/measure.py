"""Measure items × dims: read from the cache what is there, and compute the rest.

The computation runs in worker processes, because a clip may make a decoder or a network
crash, hang or run out of memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vidrl.bench.cache import Cache, Hashes, key
from vidrl.bench.dims import Dim
from vidrl.bench.items import Item
from vidrl.bench.scoring import Measurer, Outcome, Row, Task, unscored_row
from vidrl.bench.suite import Suite
from vidrl.rewards._files.memory import MEMORY
from vidrl.rewards._files.workers import TaskResult, map_in_processes

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
# Why a clip has no number on a dim of VBench: its list gives this prompt other dims.
NOT_VBENCH = "inapplicable: VBench does not measure this dim on this prompt"
# Facts of a clip, stored with its numbers.
CLIP_FACTS = ("fps", "size", "frames", "reader", "note", "written")
TIME_LIMIT = 1800.0  # seconds for all dims of one clip; a worker that takes longer is killed


@dataclass
class _Clip:
    """An item while it is measured.

    `id` and `reference` are the hashes of the clip's and the reference's bytes, `keys` the
    cache key of each dim, `outcome` the rows that are measured so far.
    """

    item: Item
    id: str | None = None
    reference: str | None = None
    keys: dict[str, str] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)


def run(
    items: Sequence[Item],
    suite: Suite,
    cache: Path | None = None,
    jobs: int = 0,
    timeout: float | None = TIME_LIMIT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Row]:
    """Measure the items and return one row for each, in order.

    A row is a clip as results.json has it, or {"path", "why", "prompt", "seed"} for a file
    that could not be read. `jobs` worker processes of one thread each measure; with 0 this
    process measures, without a time limit, and also with one thread, so that the numbers
    are the same. Every number goes to `cache` as soon as it is there, so that a run that
    was killed loses at most the clips in work. `timeout` is in seconds for all dims of a
    clip. `progress` wraps the iterator of outcomes, as tqdm does.

    >>> import tempfile, torch
    >>> from vidrl.bench import suite
    >>> from vidrl.rewards import video
    >>> still = torch.full((5, 3, 32, 32), 0.5)
    >>> clip = video.write(tempfile.mkdtemp() + "/still.mp4", still, fps=8.0)
    >>> (row,) = run([Item(clip)], suite.load("temporal").only(["flicker", "freeze"]))
    >>> row["frames"], row["value"]["flicker"], sorted(row["why"])
    (5, 0.0, [])
    """
    clips = _identified(items, suite, cache, device)
    stored = Cache(cache) if cache is not None else None
    if stored is not None:
        _load_cached(clips, stored)
    tasks = _tasks(clips)
    measurer = Measurer(suite.dims, suite.protocol, cache, device)
    outcomes = _measured(measurer, [task for task, _ in tasks], jobs, timeout)
    for (_, clips_of_task), outcome in zip(
        tasks, progress(outcomes, len(tasks)) if progress and tasks else outcomes, strict=True
    ):
        for clip in clips_of_task:
            _take_outcome(clip, outcome, stored)
    _warn(stored)
    return [_row(clip, suite.dims) for clip in clips]


# --- what is missing ------------------------------------------------------------------


def _identified(
    items: Sequence[Item], suite: Suite, cache: Path | None, device: str
) -> list[_Clip]:
    """Return every item with its hash and the cache keys of its dims.

    An item that cannot be read has the reason in its outcome.
    """
    hashes, reads = Hashes(cache), _reads(suite.dims)
    clips = []
    protocol_and_device = (suite.protocol.hash, torch.device(device).type)
    for item in items:
        clip = _Clip(item)
        try:
            clip.id = hashes.of(item.path)
            # A reference that does not exist is left to the dims: only those that read it
            # then have no number.
            clip.reference = (
                hashes.of(item.reference) if item.reference and item.reference.is_file() else None
            )
            clip.keys = {
                dim.name: _key(clip, reads[dim.name], clip.reference, protocol_and_device)
                for dim in _dims_of(item, suite)
            }
        except OSError as error:
            clip.outcome.why = (
                f"missing: {error}"
                if isinstance(error, FileNotFoundError)
                else f"unreadable: {error}"
            )
        clips.append(clip)
    hashes.save()
    return clips


def _reads(dims: Sequence[Dim]) -> dict[str, tuple[str, Mapping[str, bool]]]:
    """For each dim, return its hash and which of prompt, reference and meta its reward reads."""
    asked = ("prompt", "reference", "meta")
    return {
        dim.name: (dim.hash + dim.code, {what: dim.reads(what) for what in asked}) for dim in dims
    }


def _key(
    clip: _Clip,
    reads: tuple[str, Mapping[str, bool]],
    reference: str | None,
    protocol_and_device: tuple[str, str],
) -> str:
    """Return the cache key of one dim of a clip.

    Only what the reward reads enters the key: if a reward does not read the prompt, a
    changed prompt does not cause a new measurement.
    """
    inputs = {
        "prompt": clip.item.prompt,
        "reference": reference,
        "meta": _reward_meta(clip.item.meta),
    }
    inputs = {what: value if reads[1][what] else None for what, value in inputs.items()}
    return key(
        str(clip.id),
        reads[0],
        protocol_and_device[0],
        device=protocol_and_device[1],
        suffix=clip.item.path.suffix.lower(),
        **inputs,
    )


def _reward_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that rewards may read; the list of VBench's dims is for this module."""
    return {name: value for name, value in meta.items() if name != "vbench"}


def _dims_of(item: Item, suite: Suite) -> list[Dim]:
    """Return the dims that are measured on this item."""
    return [dim for dim in suite.dims if dim.profile != "vbench" or _on_list(item, dim)]


def _on_list(item: Item, dim: Dim) -> bool:
    """Return whether VBench measures this dim on the item's prompt; without a list, always."""
    from vidrl.bench.totals import NAMES

    listed = item.meta.get("vbench")
    return listed is None or NAMES.get(dim.reward, dim.reward) in listed


def _load_cached(clips: Sequence[_Clip], cache: Cache) -> None:
    """Fill in the rows that the cache holds."""
    for clip in clips:
        for name in [name for name in clip.keys if name not in clip.outcome.rows]:
            row = cache.get(clip.keys[name])
            if row is not None:
                clip.outcome.facts = {fact: row[fact] for fact in CLIP_FACTS}
                clip.outcome.rows[name] = {part: row[part] for part in ("value", "curve", "why")}


def _tasks(clips: Sequence[_Clip]) -> list[tuple[Task, list[_Clip]]]:
    """Return what is to be measured, each task with the clips that need its result.

    Clips of equal bytes and inputs have equal keys, and are measured once.
    """
    tasks: dict[tuple[str, ...], tuple[Task, list[_Clip]]] = {}
    for clip in clips:
        missing = {name: key for name, key in clip.keys.items() if name not in clip.outcome.rows}
        if missing:
            task = Task(replace(clip.item, meta=_reward_meta(clip.item.meta)), missing)
            tasks.setdefault(tuple(missing.values()), (task, []))[1].append(clip)
    return list(tasks.values())


# --- measuring ------------------------------------------------------------------------


def _measured(
    measurer: Measurer, tasks: Sequence[Task], jobs: int, timeout: float | None
) -> Iterator[TaskResult[Task]]:
    """Run the tasks, in worker processes if `jobs` is above 0, and yield their outcomes."""
    if jobs:
        # A limit on address space would stop CUDA and large networks, which reserve much
        # more memory than they use.
        large = measurer.device != "cpu" or any(dim.learned for dim in measurer.dims.values())
        yield from map_in_processes(measurer, tasks, jobs, timeout, None if large else MEMORY)
        return
    with _one_thread():
        for task in tasks:
            yield TaskResult(task, measurer(task))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread of torch, so that sums are rounded as in the worker processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _take_outcome(clip: _Clip, done: TaskResult[Task], stored: Cache | None) -> None:
    """Store a task's outcome in the clip.

    If the worker died, the rows that it had already put into the cache are read back.
    """
    outcome: Outcome = done.result if done.why is None else Outcome(why=f"unreadable: {done.why}")
    clip.outcome.facts = outcome.facts or clip.outcome.facts
    clip.outcome.rows |= outcome.rows
    if outcome.why is not None:
        if stored is not None:
            _load_cached([clip], stored)
        clip.outcome.why = outcome.why


def _warn(cache: Cache | None) -> None:
    """Print which files of the cache could not be read."""
    for path in cache.corrupt if cache else []:
        print(f"vidrl: {path} could not be read, and was measured again", file=sys.stderr)


# --- rows -----------------------------------------------------------------------------


def _row(clip: _Clip, dims: Sequence[Dim]) -> Row:
    """Return the clip as results.json has it, or path and reason if it could not be read."""
    item, outcome = clip.item, clip.outcome
    if outcome.why is not None and not outcome.rows:
        return {
            "path": str(item.path),
            "why": outcome.why,
            "prompt": item.prompt,
            "seed": item.seed,
        }
    unmeasured = unscored_row("unscored: " + str(outcome.why).removeprefix("unreadable: "))
    rows = {
        dim.name: outcome.rows.get(
            dim.name, unmeasured if dim.name in clip.keys else unscored_row(NOT_VBENCH)
        )
        for dim in dims
    }
    return {
        "path": str(item.path),
        "id": clip.id,
        "prompt": item.prompt,
        "seed": item.seed,
        "reference": str(item.reference) if item.reference else None,
        "reference_id": clip.reference,
        "meta": dict(_reward_meta(item.meta)),
        **outcome.facts,
        "value": {name: row["value"] for name, row in rows.items()},
        "curve": {name: row["curve"] for name, row in rows.items()},
        "why": {name: row["why"] for name, row in rows.items() if row["value"] is None},
    }
