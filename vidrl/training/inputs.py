"""Identify the inputs of a run by their content: prompts, and hashes of the input files.

The files are those of the model, of the LoRA, of the clips, and those that go with prompts.
A path alone does not identify a run: between a kill and a resumption, a file may be edited
or moved.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrl.data import clip_files, prompts

SUFFIXES = {".json", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".model", ".txt", ".gguf"}
# `vidrl influence` writes this file into the model's folder; it is no part of the model.
MEASURED = "influence.safetensors"
# the reward that `vidrl fit` wrote, alone or as a part of a composite
FITTED = ("reward.options.model", "reward.parts.fitted.options.model")
KEYS = (
    "backbone.options.model",
    "policy.lora",
    "data.prompts",
    "data.clips",
    "data.pairs",
    *FITTED,
)
# Bytes of a file whose reading takes a second or more, and is announced.
LARGE = 2**30
# a file's path below its folder → {"sha256", "stamp"}
Files = dict[str, dict[str, Any]]


def fingerprint(recipe: Mapping[str, Any], earlier: Mapping[str, Files]) -> dict[str, Files]:
    """Return the hashes of the input files that a recipe names, by the recipe's keys.

    `earlier`: the hashes of an earlier start. A file whose size, times and inode are still
    the same is not read again.
    """
    return {
        key: {
            name: _hashed(path, earlier.get(key, {}).get(name, {})) for name, path in paths.items()
        }
        for key in KEYS
        if (paths := named(recipe, key))
    }


def named(recipe: Mapping[str, Any], key: str) -> dict[str, Path]:
    """Return the files that one value of a recipe names; none where it names no files."""
    value = _value(recipe, key)
    if key in FITTED:
        return _of_fitted(recipe, key)
    if value and key in ("data.clips", "data.pairs"):
        return _of_table(clip_files.read(key.removeprefix("data."), value))
    if key == "data.prompts":
        return _of_prompts(prompts.read(value)) if value else {}
    return files(value) if isinstance(value, str) and value else {}


def _value(recipe: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, "" where the recipe has none."""
    value: Any = recipe
    for name in key.split("."):
        value = value.get(name, "") if isinstance(value, Mapping) else ""
    return value


def _of_fitted(recipe: Mapping[str, Any], key: str) -> dict[str, Path]:
    """Return the files of the reward `fitted`: its weights and facts, without card and cache."""
    model = _value(recipe, key)
    if not isinstance(model, str) or not model or _is_other_reward(recipe, key):
        return {}
    found = (Path(model) / name for name in ("fit.json", "fit.safetensors"))
    return {path.name: path for path in found if path.is_file()}


def _is_other_reward(recipe: Mapping[str, Any], key: str) -> bool:
    """Return whether the reward's model is that of a reward that `vidrl fit` did not write."""
    return key == "reward.options.model" and _value(recipe, "reward.name") != "fitted"


def files(name: str) -> dict[str, Path]:
    """Return the files of a model or LoRA, by their paths below its folder.

    `name` is a folder, a file, or a model of the hub that is cached on this machine.
    """
    path = Path(name)
    if path.is_file():
        return {path.name: path}
    folder = path if path.is_dir() else _snapshot(name)
    if folder is None:
        return {}
    inside = (
        (file.relative_to(folder), file) for file in sorted(folder.rglob("*")) if file.is_file()
    )
    return {
        str(below): file
        for below, file in inside
        if file.suffix.lower() in SUFFIXES and file.name != MEASURED and not _hidden(below)
    }


def _of_table(table: clip_files.Table) -> dict[str, Path]:
    """Return the files of a table and of its clips, by their paths from the table's folder.

    A store of a database server is no file; its clips have their whole paths.
    """
    own = {table.path.name: table.path} if table.path.is_file() else {}
    start = table.path.parent if own else Path(os.sep)
    clips = {os.path.relpath(clip, start): clip for clip in table.clips}
    pictures = {
        f"{name}/{picture.name}": picture
        for name, clip in clips.items()
        if clip.is_dir()
        for picture in sorted(clip.iterdir())
        if picture.is_file()
    }
    return {
        **own,
        **{name: clip for name, clip in clips.items() if clip.is_file()},
        **pictures,
        **_of_prompts(table.prompts),
    }


def _of_prompts(asked: Sequence[str]) -> dict[str, Path]:
    """Return the files that go with prompts, by the prompt's number and the file's name.

    The names have no folders, because the files may be moved.
    """
    return {
        f"prompt {i}, {name}: {path.name}": path
        for i, prompt in enumerate(asked, 1)
        if isinstance(prompt, prompts.Prompt)
        for name, path in prompt.files.items()
    }


def differences(old: Mapping[str, Files], new: Mapping[str, Files]) -> list[str]:
    """Return one line for each file that was changed, added or removed.

    Inputs without a recorded hash are not compared.
    """
    return [line for key in old for line in _differences(key, old[key], new.get(key, {}))]


def kept_prompts(folder: Path, name: str) -> list[str] | None:
    """Return the prompts that a run folder holds as `name`.txt or `name`.jsonl.

    None where there is no such file: an earlier version of vidrl wrote none.
    """
    path = folder / f"{name}.txt"
    if path.is_file():
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    path = path.with_suffix(".jsonl")
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else None
    return (
        None
        if lines is None
        else [prompts.Prompt(row.pop("prompt"), row) for row in map(json.loads, lines)]
    )


def _differences(key: str, old: Files, new: Files) -> list[str]:
    lines = []
    for name in sorted({**old, **new}):
        before, after = (files.get(name, {}).get("sha256", "") for files in (old, new))
        if before != after:
            lines.append(f"{key}: {name}: {_shown(before)} -> {_shown(after)}")
    return lines


def _shown(sha256: str) -> str:
    return f"sha256 {sha256[:12]}…" if sha256 else "(no such file)"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _hashed(path: Path, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hash and the stamp of a file; the earlier ones where the stamp is the same."""
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
    if earlier.get("stamp") == stamp:
        return dict(earlier)
    return {"sha256": _blob(path) or _sha256(path), "stamp": stamp}


def _blob(path: Path) -> str:
    """Return the SHA-256 that a cached file of the hub has as its name; else "".

    The hub's cache holds links to files whose names are their hashes.
    """
    name = path.resolve().name if path.is_symlink() else ""
    return name if len(name) == 64 and path.resolve().parent.name == "blobs" else ""


def _sha256(path: Path) -> str:
    size = path.stat().st_size
    if size > LARGE:
        print(
            f"reading {path} ({size / 2**30:.1f} GB) for its SHA-256, which the run folder keeps",
            file=sys.stderr,
        )
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _snapshot(name: str) -> Path | None:
    """Return the folder of a model in the hub's cache; None where it is not cached."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "model_index.json")
    # the hub's package is missing, or the hub can have no model of this name
    except (ImportError, ValueError):
        return None
    return Path(found).parent if isinstance(found, str) else None
