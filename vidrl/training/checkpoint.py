"""Write and read checkpoints, without pickle; a kill never leaves a damaged one.

A checkpoint is a folder: `tensors.safetensors` holds every tensor, `state.json` everything
else. The folder is written under a temporary name, fsynced and renamed, and only then does
the file `latest` name it. A kill at any moment leaves the old checkpoint or the new one
complete.
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
    """A checkpoint could not be written, or a checkpoint on the disk cannot be read."""


class WriteError(RuntimeError):
    """The disk refused to write a file of a run."""


class RunFolderError(ValueError):
    """The run folder holds another run, or a run that this call must not continue."""


def save(
    run_dir: str | Path,
    step: int,
    state: Mapping[str, Any],
    keep: int = 3,
    protect: Iterable[str] = (),
    files: Callable[[Path], None] | None = None,
) -> Path:
    """Write `state` as the run's newest checkpoint, and return the checkpoint's folder.

    The folder is `checkpoints/000010` for step 10. `state` nests mappings, lists, tuples,
    numbers, text, None, tensors and NumPy arrays, and `load` returns an equal state.
    `files` may write further files into the folder. The newest `keep` checkpoints and those
    named in `protect` are kept, the others deleted. Raises `CheckpointError` where the disk
    is full or not writable; earlier checkpoints are then intact.
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
    """Return the state of the newest checkpoint, or of the checkpoint `name`; None for none.

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
    """Return the name of the newest checkpoint, or None.

    Raises `CheckpointError` where the file `latest` holds no name of a checkpoint.
    """
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
    """Return what `parse` reads in a text file; raise `RunFolderError` where it is damaged."""
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, TOML and UTF-8 alike
        raise RunFolderError(f"{path} is damaged: {error}. {cure}") from error


def summary(run_dir: str | Path) -> dict[str, Any]:
    """Return the content of summary.json; empty where there is no such file.

    Raises `RunFolderError` where the file is damaged.
    """
    path = Path(run_dir) / "summary.json"
    cure = "Delete the file: --resume goes on from the newest checkpoint and writes it anew"
    return parsed(path, json.loads, cure) if path.is_file() else {}


def clean(run_dir: str | Path) -> None:
    """Remove what an interrupted save left behind."""
    for path in (Path(run_dir) / "checkpoints").glob(f"{PARTIAL}*"):
        folder = path.is_dir() and not path.is_symlink()
        shutil.rmtree(path, ignore_errors=True) if folder else path.unlink(missing_ok=True)


# --- the run folder


def status(run_dir: str | Path) -> str:
    """Return the status of a run: "new", "interrupted", "stopped" or "finished".

    An interrupted run has rounds or a checkpoint to continue from. A stopped run was ended
    by `train.time_limit`: it has its tables and its page, and rounds left to do. A run that
    a guard ended is finished.
    """
    folder = Path(run_dir)
    if (folder / "summary.json").is_file():
        ended = summary(folder).get("status", "")
        return {
            "interrupted": "interrupted",
            "running": "interrupted",
            "stopped": "stopped",
            # an earlier version of vidrl wrote "time limit"
            "time limit": "stopped",
        }.get(ended, "finished")
    started = latest(folder) is not None or (folder / "metrics.jsonl").is_file()
    return "interrupted" if started else "new"


def append(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one JSON object as a line, and wait until the disk has it.

    NaN and infinity, which JSON cannot hold, are written as null.
    """
    with open(path, "a", encoding="utf-8", opener=atomic_file.refuse_link) as file:
        file.write(json.dumps(_finite(row), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def cut_back(path: str | Path, last_round: int) -> None:
    """Delete the rows of a JSON-lines file whose `round` is above `last_round`.

    A row that a kill cut off is deleted too.
    """
    if not Path(path).is_file():
        return
    # "replace", because a kill may leave half of a letter's bytes
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    kept = [line for line in lines if line and _round(line) <= last_round]
    write_text(path, "".join(f"{line}\n" for line in kept))


@contextmanager
def writing(run_dir: str | Path, what: str) -> Iterator[None]:
    """Raise `WriteError` where the disk refuses a file that is written inside this context.

    The message names `what` was written, and the newest checkpoint that is intact.
    """
    try:
        yield
    except Exception as error:
        # by name: safetensors raises an error that has no base class to catch
        refused = isinstance(error, OSError) or type(error).__name__ == "SafetensorError"
        if not refused or isinstance(error, FileNotFoundError):
            raise
        raise WriteError(_complaint(run_dir, what, error)) from error


def write_text(path: str | Path, text: str) -> None:
    """Write a text file at once: a reader or a crash never sees half of the file."""
    with atomic_file.new_file(Path(path)) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    _sync(Path(path).parent)


# --- random numbers


def rng_state() -> dict[str, Any]:
    """Return the states of the global random generators of torch, NumPy and Python."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": np.random.get_state(legacy=False),
        "python": random.getstate(),
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Restore the states that `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    if torch.cuda.is_available():  # a resumed run may have fewer devices, or none
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


# --- writing and reading


def _put_in_place(
    folder: Path, step: int, state: Mapping[str, Any], files: Callable[[Path], None] | None
) -> Path:
    """Write a checkpoint under a temporary name, rename it, and name it in `latest`."""
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
        # `latest` may have been written before the error; its checkpoint must then stay
        if latest(folder.parent) != final.name:
            shutil.rmtree(final, ignore_errors=True)
        raise
    return final


def _write(folder: Path, state: Mapping[str, Any], files: Callable[[Path], None] | None) -> None:
    """Write the files of a checkpoint into a folder, and wait until the disk has them."""
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
    """Return `value` as JSON can hold it; tensors and arrays are put into `tensors`.

    Each tensor has a number as its name. Raises `TypeError` for any other type, because a
    checkpoint never pickles.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        kind, tensor = (
            ("tensor", value) if isinstance(value, Tensor) else ("array", torch.from_numpy(value))
        )
        key = str(len(tensors))
        # a copy, because safetensors refuses tensors that share memory
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
        "expected numbers, text, lists, mappings, tensors, arrays; got "
        f"{type(value).__name__}: {value!r}"
    )


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `pack` packed."""
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
    """Wait until the disk has a file, or the names in a folder."""
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
    """Return the folder for a step's checkpoint, which does not exist yet.

    A step may be saved twice: by schedule, and when a signal stops the run a moment later.
    """
    names = [f"{step:06d}", *(f"{step:06d}-{again}" for again in range(2, 1000))]
    return next(folder / name for name in names if not (folder / name).exists())


def _prune(folder: Path, keep: int, protected: set[str]) -> None:
    """Delete the oldest checkpoints until `keep` are left; the protected ones stay."""
    newest_last = sorted(_folders(folder), key=lambda path: path.stat().st_mtime_ns)
    for path in newest_last[: max(0, len(newest_last) - keep)]:
        if path.name not in protected:
            shutil.rmtree(path, ignore_errors=True)


def _complaint(run_dir: str | Path, what: str, error: Exception) -> str:
    """Return the message for a file that the disk refused, with the cure."""
    earlier = latest(run_dir)
    left = f"checkpoint {earlier} is intact" if earlier else "there is no earlier checkpoint"
    # safetensors wraps the disk's error: its number is lost, and only its text is left
    number, text = getattr(error, "errno", None), str(error)
    disk_is_full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text
    cure = "Make room on the disk" if disk_is_full else "Make the folder writable"
    return f"could not write {what} of {run_dir}: {error}; {left}. {cure} and add --resume"


def _finite(value: Any) -> Any:
    """Return nested values with None in place of NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _round(line: str) -> float:
    """Return the round of a row; infinity for a row that is damaged."""
    try:
        return json.loads(line)["round"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
