"""Items × dims: what is in the cache is read, what is missing is measured, in processes
that may crash or hang."""

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
NOT_VBENCH = "inapplicable: VBench does not measure this dim on this prompt"
CLIP_FACTS = ("fps", "size", "frames", "reader", "note", "written")  # of a clip, beside its numbers
TIME_LIMIT = 1800.0  # seconds for all dims of one clip, after which it hangs


@dataclass
class _Clip:
    """An item on its way: its hash, that of its reference, the keys of its dims, and what
    is known of it."""

    item: Item
    id: str | None = None
    reference: str | None = None
    keys: dict[str, str] = field(default_factory=dict)
    known: Outcome = field(default_factory=Outcome)


def run(
    items: Sequence[Item],
    suite: Suite,
    cache: Path | None = None,
    jobs: int = 0,
    timeout: float | None = TIME_LIMIT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Row]:
    """One row an item, in order: a clip as results.json has it, or of one that could not be
    read {"path", "why", "prompt", "seed"}.

    `jobs` processes of one thread each measure; 0 measures in this process, without a time
    limit, on one thread too, so that numbers do not depend on it. What is measured lies in
    the folder `cache` at once: whoever is killed and runs again, or adds a dim or a clip,
    measures only what is missing.

    >>> import tempfile
    >>> from vidrl.bench import suite
    >>> from vidrl.rewards import video
    >>> clip = video.write(tempfile.mkdtemp() + "/still.mp4", torch.full((5, 3, 32, 32), 0.5), fps=8.0)
    >>> (row,) = run([Item(clip)], suite.load("temporal").only(["flicker", "freeze"]))
    >>> row["frames"], row["value"]["flicker"], sorted(row["why"])
    (5, 0.0, [])
    """
    clips = _identified(items, suite, cache, device)
    kept = Cache(cache) if cache is not None else None
    if kept is not None:
        _load_cached(clips, kept)
    tasks = _tasks(clips)
    measurer = Measurer(suite.dims, suite.protocol, cache, device)
    done = _measured(measurer, [task for task, _ in tasks], jobs, timeout)
    for (_, waiting), one in zip(
        tasks, progress(done, len(tasks)) if progress and tasks else done, strict=True
    ):
        for clip in waiting:
            _take_outcome(clip, one, kept)
    _warn(kept)
    return [_row(clip, suite.dims) for clip in clips]


# --- what is missing
# -------------------------------------------------------------------------------------------------


def _identified(
    items: Sequence[Item], suite: Suite, cache: Path | None, device: str
) -> list[_Clip]:
    """Every item with its hash and the keys of its dims; those that cannot be read have
    their reason."""
    hashes, reads, found = Hashes(cache), _reads(suite.dims), []
    fixed = (suite.protocol.hash, torch.device(device).type)
    for item in items:
        clip = _Clip(item)
        try:
            clip.id = hashes.of(item.path)
            clip.reference = (
                hashes.of(item.reference) if item.reference and item.reference.is_file() else None
            )
            clip.keys = {
                dim.name: _key(clip, reads[dim.name], clip.reference, fixed)
                for dim in _dims_of(item, suite)
            }
        except OSError as error:
            clip.known.why = (
                f"missing: {error}"
                if isinstance(error, FileNotFoundError)
                else f"unreadable: {error}"
            )
        found.append(clip)
    hashes.save()
    return found


def _reads(dims: Sequence[Dim]) -> dict[str, tuple[str, Mapping[str, bool]]]:
    asked = ("prompt", "reference", "meta")
    return {
        dim.name: (dim.hash + dim.code, {what: dim.reads(what) for what in asked}) for dim in dims
    }


def _key(
    clip: _Clip,
    reads: tuple[str, Mapping[str, bool]],
    reference: str | None,
    fixed: tuple[str, str],
) -> str:
    """Of a dim, whose hash and what it reads are `reads`."""
    about = {
        "prompt": clip.item.prompt,
        "reference": reference,
        "meta": _reward_meta(clip.item.meta),
    }
    about = {what: value if reads[1][what] else None for what, value in about.items()}
    return key(
        str(clip.id),
        reads[0],
        fixed[0],
        device=fixed[1],
        suffix=clip.item.path.suffix.lower(),
        **about,
    )


def _reward_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What rewards may read of it; the list of VBench's dims is ours."""
    return {name: value for name, value in meta.items() if name != "vbench"}


def _dims_of(item: Item, suite: Suite) -> list[Dim]:
    return [dim for dim in suite.dims if dim.profile != "vbench" or _on_list(item, dim)]


def _on_list(item: Item, dim: Dim) -> bool:
    from vidrl.bench.totals import NAMES

    listed = item.meta.get("vbench")
    return listed is None or NAMES.get(dim.reward, dim.reward) in listed


def _load_cached(clips: Sequence[_Clip], kept: Cache) -> None:
    for clip in clips:
        for name in [name for name in clip.keys if name not in clip.known.rows]:
            row = kept.get(clip.keys[name])
            if row is not None:
                clip.known.facts = {fact: row[fact] for fact in CLIP_FACTS}
                clip.known.rows[name] = {part: row[part] for part in ("value", "curve", "why")}


def _tasks(clips: Sequence[_Clip]) -> list[tuple[Task, list[_Clip]]]:
    """What is to be measured, each with the clips that wait for it: the same bytes are
    measured once."""
    found: dict[tuple[str, ...], tuple[Task, list[_Clip]]] = {}
    for clip in clips:
        missing = {name: key for name, key in clip.keys.items() if name not in clip.known.rows}
        if missing:
            task = Task(replace(clip.item, meta=_reward_meta(clip.item.meta)), missing)
            found.setdefault(tuple(missing.values()), (task, []))[1].append(clip)
    return list(found.values())


# --- measuring
# -------------------------------------------------------------------------------------------------------


def _measured(
    measurer: Measurer, tasks: Sequence[Task], jobs: int, timeout: float | None
) -> Iterator[TaskResult[Task]]:
    if jobs:
        large = measurer.device != "cpu" or any(dim.learned for dim in measurer.dims.values())
        yield from map_in_processes(measurer, tasks, jobs, timeout, None if large else MEMORY)
        return
    with _one_thread():
        for task in tasks:
            yield TaskResult(task, measurer(task))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _take_outcome(clip: _Clip, done: TaskResult[Task], kept: Cache | None) -> None:
    """What came of the task; of a process that died, what it had kept before."""
    said: Outcome = done.result if done.why is None else Outcome(why=f"unreadable: {done.why}")
    clip.known.facts = said.facts or clip.known.facts
    clip.known.rows |= said.rows
    if said.why is not None:
        if kept is not None:
            _load_cached([clip], kept)
        clip.known.why = said.why


def _warn(kept: Cache | None) -> None:
    for path in kept.corrupt if kept else []:
        print(f"vidrl: {path} could not be read, and was measured again", file=sys.stderr)


# --- rows
# ------------------------------------------------------------------------------------------------------------


def _row(clip: _Clip, dims: Sequence[Dim]) -> Row:
    item, known = clip.item, clip.known
    if known.why is not None and not known.rows:
        return {"path": str(item.path), "why": known.why, "prompt": item.prompt, "seed": item.seed}
    missing = unscored_row("unscored: " + str(known.why).removeprefix("unreadable: "))
    rows = {
        dim.name: known.rows.get(
            dim.name, missing if dim.name in clip.keys else unscored_row(NOT_VBENCH)
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
        **known.facts,
        "value": {name: row["value"] for name, row in rows.items()},
        "curve": {name: row["curve"] for name, row in rows.items()},
        "why": {name: row["why"] for name, row in rows.items() if row["value"] is None},
    }
