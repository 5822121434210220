"""The inputs that a run folder keeps: its prompts, and hashes of its files: of the model,
of the LoRA, of clips.

A path alone does not say which run it is: the file behind it may be edited between a kill
and a resumption, or moved.
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
MEASURED = "influence.safetensors"  # a result of `vidrl influence`, no part of the model
KEYS = ("backbone.options.model", "policy.lora", "data.prompts", "data.clips", "data.pairs")
LARGE = 2**30  # bytes that take a second or more to read
Files = dict[str, dict[str, Any]]  # a file's path below its folder → {"sha256", "stamp"}


def fingerprint(recipe: Mapping[str, Any], known: Mapping[str, Files]) -> dict[str, Files]:
    """The hashes of the files behind the model, the LoRA and the clips that a recipe names;
    none where it names none.

    A file whose size, times and inode are those in `known`, hashes of an earlier start, is
    not read again.
    """
    return {
        key: {name: _hashed(path, known.get(key, {}).get(name, {})) for name, path in paths.items()}
        for key in KEYS
        if (paths := named(recipe, key))
    }


def named(recipe: Mapping[str, Any], key: str) -> dict[str, Path]:
    """The files behind one value of a recipe; none where it names no files."""
    value: Any = recipe
    for name in key.split("."):
        value = value.get(name, "") if isinstance(value, Mapping) else ""
    if value and key in ("data.clips", "data.pairs"):
        return _of_table(clip_files.read(key.removeprefix("data."), value))
    if key == "data.prompts":
        return _of_prompts(prompts.read(value)) if value else {}
    return files(value) if isinstance(value, str) and value else {}


def files(name: str) -> dict[str, Path]:
    """The files of a model or LoRA by their paths below it: a folder, a file, or a model of
    the hub that is cached."""
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
    """A table and the clips that it names, by their paths from the folder of the table."""
    clips = {os.path.relpath(clip, table.path.parent): clip for clip in table.clips}
    pictures = {
        f"{name}/{one.name}": one
        for name, clip in clips.items()
        if clip.is_dir()
        for one in sorted(clip.iterdir())
        if one.is_file()
    }
    return {
        table.path.name: table.path,
        **{name: clip for name, clip in clips.items() if clip.is_file()},
        **pictures,
        **_of_prompts(table.prompts),
    }


def _of_prompts(asked: Sequence[str]) -> dict[str, Path]:
    """The files that go with prompts, by the prompt's place and without folders: they may
    be moved."""
    return {
        f"prompt {i}, {name}: {path.name}": path
        for i, prompt in enumerate(asked, 1)
        if isinstance(prompt, prompts.Prompt)
        for name, path in prompt.files.items()
    }


def differences(old: Mapping[str, Files], new: Mapping[str, Files]) -> list[str]:
    """One line for each file that was changed, added or removed. Inputs that were not
    recorded are not compared."""
    return [line for key in old for line in _differences(key, old[key], new.get(key, {}))]


def kept_prompts(folder: Path, name: str) -> list[str] | None:
    """The prompts that a run folder holds as `name`.txt or .jsonl; None where an earlier
    version of vidrl kept none."""
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
    told = []
    for name in sorted({**old, **new}):
        before, after = (one.get(name, {}).get("sha256", "") for one in (old, new))
        if before != after:
            told.append(f"{key}: {name}: {_shown(before)} -> {_shown(after)}")
    return told


def _shown(sha256: str) -> str:
    return f"sha256 {sha256[:12]}…" if sha256 else "(no such file)"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _hashed(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    seen = path.stat()
    stamp = [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_dev]
    if known.get("stamp") == stamp:
        return dict(known)
    return {"sha256": _blob(path) or _sha256(path), "stamp": stamp}


def _blob(path: Path) -> str:
    """The hash in the name of a cached file of the hub, whose target is called after its
    SHA-256; else empty."""
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
    """The folder in the hub's cache that holds the model of this name; None where it is not
    cached."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "model_index.json")
    except (ImportError, ValueError):  # no hub at hand, or a name that the hub cannot have
        return None
    return Path(found).parent if isinstance(found, str) else None
