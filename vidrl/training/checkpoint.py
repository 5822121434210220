"""Atomic checkpoints and exact resume, without pickle.

A checkpoint is a folder: `tensors.safetensors` holds every tensor, `state.json` everything
else. It is written under another name, fsynced, renamed, and only then named by the file
`latest`; so a kill at any moment leaves either the old checkpoint or the new one, whole.
"""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrl.rewards._files import atomic_file

PARTIAL = atomic_file.PARTIAL


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or what is on the disk cannot be resumed from."""


class WriteError(RuntimeError):
    """The disk refused what a run was to write."""


class RunFolderError(ValueError):
    """The run folder holds another run, or one that this call may not go on with."""


def save(
    run_dir: str | Path,
    step: int,
    state: Mapping[str, Any],
    keep: int = 3,
    protect: Iterable[str] = (),
    files: Callable[[Path], None] | None = None,
) -> Path:
    """Write `state` as the run's newest checkpoint and return its folder,
    `checkpoints/000010` for step 10.

    `state` nests mappings, lists, tuples, numbers, text, None, tensors and NumPy arrays,
    and is read back equal. `files` may write further files into the folder. The newest
    `keep` checkpoints stay, and those named in `protect`. Raises `CheckpointError` where
    the disk is full or not writable; the checkpoints before it are intact.
    """
    folder = Path(run_dir) / "checkpoints"
    try:
        final = _put_in_place(folder, step, state, files)
    except OSError as error:
        raise CheckpointError(_complaint(run_dir, f"checkpoint {step}", error)) from error
    finally:
        clean(run_dir)
    _prune(folder, keep, {final.name, *protect})
    return final


def load(run_dir: str | Path, name: str = "") -> dict[str, Any] | None:
    """The state of the newest checkpoint, or of the one called `name`; None where the run
    has none.

    Raises `CheckpointError` where the named checkpoint is missing or damaged.
    """
    clean(run_dir)
    chosen = name or latest(run_dir)
    if chosen is None:
        return None
    folder = Path(run_dir) / "checkpoints" / chosen
    try:
        return _read(folder)
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {folder}: expected state.json and tensors.safetensors, but {error}; "
            f"checkpoints there: {_named(folder.parent)}. To go on from another one, write "
            f"its name into {folder.parent / 'latest'}"
        ) from error


def latest(run_dir: str | Path) -> str | None:
    """The name of the newest checkpoint, or None. Raises `CheckpointError` where `latest`
    holds no such name."""
    marker = Path(run_dir) / "checkpoints" / "latest"
    if not marker.is_file():
        return None
    name = marker.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(r"\d{6}(-\d+)?", name):
        raise CheckpointError(
            f"{marker}: expected the name of a checkpoint, got {name[:40]!r}; checkpoints there: "
            f"{_named(marker.parent)}. Write one of them into the file"
        )
    return name


def parsed(path: str | Path, parse: Callable[[str], Any], cure: str) -> Any:
    """What `parse` makes of a text file of a run. Raises `RunFolderError`, with a cure,
    where the file is damaged."""
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, TOML and UTF-8 alike
        raise RunFolderError(f"{path} is damaged: {error}. {cure}") from error


def summary(run_dir: str | Path) -> dict[str, Any]:
    """What summary.json says; empty where there is none. Raises `RunFolderError` where it
    is damaged."""
    path = Path(run_dir) / "summary.json"
    cure = "Delete the file: --resume goes on from the newest checkpoint and writes it anew"
    return parsed(path, json.loads, cure) if path.is_file() else {}


def clean(run_dir: str | Path) -> None:
    """Remove what an interrupted save left behind."""
    for path in (Path(run_dir) / "checkpoints").glob(f"{PARTIAL}*"):
        folder = path.is_dir() and not path.is_symlink()
        shutil.rmtree(path, ignore_errors=True) if folder else path.unlink(missing_ok=True)


# --- the run folder
# --------------------------------------------------------------------------------------------------


def status(run_dir: str | Path) -> str:
    """The status of a run: "new", "interrupted" (it has rounds or a checkpoint to go on
    from), "stopped" or "finished".

    A run that `train.time_limit` ended is stopped: it has its tables and its page, and
    rounds left to do. A run that a guard ended is finished.
    """
    folder = Path(run_dir)
    if (folder / "summary.json").is_file():
        ended = summary(folder).get("status", "")
        return {
            "interrupted": "interrupted",
            "running": "interrupted",
            "stopped": "stopped",
            # "time limit" is an earlier version's word
            "time limit": "stopped",
        }.get(ended, "finished")
    begun = latest(folder) is not None or (folder / "metrics.jsonl").is_file()
    return "interrupted" if begun else "new"


def append(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one JSON object as a line, on the disk when this returns; NaN and infinity are
    written as null."""
    with open(path, "a", encoding="utf-8", opener=atomic_file.refuse_link) as file:
        file.write(json.dumps(_finite(row), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def cut_back(path: str | Path, last_round: int) -> None:
    """Keep the rows of a JSON-lines file whose `round` is at most `last_round`; a
    half-written row goes too."""
    if not Path(path).is_file():
        return
    # a kill may cut a letter in two
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    kept = [line for line in lines if line and _round(line) <= last_round]
    write_text(path, "".join(f"{line}\n" for line in kept))


@contextmanager
def writing(run_dir: str | Path, what: str) -> Iterator[None]:
    """Where the disk refuses what is written inside: `WriteError`, which says what it was
    and what is left."""
    try:
        yield
    except Exception as error:
        # which has no base class
        refused = isinstance(error, OSError) or type(error).__name__ == "SafetensorError"
        if not refused or isinstance(error, FileNotFoundError):
            raise
        raise WriteError(_complaint(run_dir, what, error)) from error


def write_text(path: str | Path, text: str) -> None:
    """Put a text file in place at once: no reader, and no crash, sees half of it."""
    with atomic_file.new_file(Path(path)) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    _sync(Path(path).parent)


# --- random numbers
# --------------------------------------------------------------------------------------------------


def rng_state() -> dict[str, Any]:
    """The states of the global random number generators of torch (all devices), NumPy and
    Python."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": np.random.get_state(legacy=False),
        "python": random.getstate(),
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put back what `rng_state` took."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    if torch.cuda.is_available():  # a resumed run may have fewer devices, or none
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


# --- writing and reading
# ---------------------------------------------------------------------------------------------


def _put_in_place(
    folder: Path, step: int, state: Mapping[str, Any], files: Callable[[Path], None] | None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    clean(folder.parent)
    partial, final = folder / f"{PARTIAL}{secrets.token_hex(8)}", _free_name(folder, step)
    partial.mkdir()
    _write(partial, state, files)
    os.rename(partial, final)
    try:
        _sync(folder)
        write_text(folder / "latest", final.name)
    except OSError:
        if latest(folder.parent) != final.name:
            shutil.rmtree(final, ignore_errors=True)
        raise
    return final


def _write(folder: Path, state: Mapping[str, Any], files: Callable[[Path], None] | None) -> None:
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    text = json.dumps(pack(state, tensors))
    _put(folder / "tensors.safetensors", to_bytes(tensors))
    _put(folder / "state.json", text.encode())
    if files is not None:
        files(folder)
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _read(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load as from_bytes

    tensors = from_bytes((folder / "tensors.safetensors").read_bytes())
    return unpack(json.loads((folder / "state.json").read_text(encoding="utf-8")), tensors)


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON can hold it; its tensors and arrays go into `tensors`, each under a
    number.

    Raises `TypeError` for anything else: a checkpoint never pickles.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        kind, tensor = (
            ("tensor", value) if isinstance(value, Tensor) else ("array", torch.from_numpy(value))
        )
        key = str(len(tensors))
        # a clone: safetensors refuses shared memory
        tensors[key] = tensor.detach().cpu().clone().contiguous()
        return {"is": kind, "key": key}
    if isinstance(value, Mapping):
        return {
            "is": "map",
            "items": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()],
        }
    if isinstance(value, (list, tuple)):
        items = [pack(item, tensors) for item in value]
        return {"is": "tuple", "items": items} if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"expected numbers, text, lists, mappings, tensors, arrays; got {type(value).__name__}: {value!r}"
    )


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `pack`."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value["is"] == "map":
        return {unpack(key, tensors): unpack(item, tensors) for key, item in value["items"]}
    if value["is"] == "tuple":
        return tuple(unpack(item, tensors) for item in value["items"])
    tensor = tensors[value["key"]]
    return tensor if value["is"] == "tensor" else tensor.numpy()


def _put(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _named(folder: Path) -> str:
    return ", ".join(path.name for path in _folders(folder)) or "none"


def _free_name(folder: Path, step: int) -> Path:
    # A step may be saved twice: by schedule, and by the signal that stops the run a moment
    # later.
    names = [f"{step:06d}", *(f"{step:06d}-{again}" for again in range(2, 1000))]
    return next(folder / name for name in names if not (folder / name).exists())


def _prune(folder: Path, keep: int, protected: set[str]) -> None:
    newest_last = sorted(_folders(folder), key=lambda path: path.stat().st_mtime_ns)
    for path in newest_last[: max(0, len(newest_last) - keep)]:
        if path.name not in protected:
            shutil.rmtree(path, ignore_errors=True)


def _complaint(run_dir: str | Path, what: str, error: Exception) -> str:
    before = latest(run_dir)
    left = f"checkpoint {before} is intact" if before else "there is no earlier checkpoint"
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(
        error
    )
    cure = "Make room on the disk" if full else "Make the folder writable"
    return f"could not write {what} of {run_dir}: {error}; {left}. {cure} and add --resume"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _round(line: str) -> float:
    try:
        return json.loads(line)["round"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
