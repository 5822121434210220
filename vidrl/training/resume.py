"""Check a run folder before any work: which run it holds, whether work is left, what changed."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import torch

from vidrl.config import Recipe
from vidrl.data import prompts
from vidrl.data.references import without_folders
from vidrl.recipe import toml
from vidrl.rewards._files import atomic_file

from . import changes, checkpoint, inputs
from .changes import Change
from .checkpoint import RunFolderError

LOCK = ".lock"
# The files of the run folder that hold the prompts of a recipe's key.
PROMPTS = {"data.prompts": "prompts", "data.held_out": "held_out"}
# The packages whose versions may change the numbers.
PACKAGES = ("vidrl", "torch", "diffusers", "transformers", "accelerate", "peft", "numpy")
Prompts = Mapping[str, Sequence[str]]
# The lock files of this process, which stay open, and so locked, until it ends.
_HELD: dict[Path, IO[str]] = {}


def claim(
    run_dir: str | Path, config: Mapping[str, Any], resume: bool, given: Prompts | None = None
) -> str:
    """Claim `run_dir` for the run that `config` describes; return the run's earlier status.

    Writes config.toml, the prompts (prompts.txt and held_out.txt, .jsonl where references
    go with the prompts) and inputs.json (hashes of the input files). The summary of a run
    that continues after its end is deleted; a finished run that does not continue is left
    as it is. This process holds the folder until it ends.

    Raises `RunFolderError` as `examine` does, where the input files differ from the run's,
    and where another process is at work in the folder.
    `given`: the prompts of a run that has no prompt files, by the keys of `PROMPTS`.
    """
    folder, status = Path(run_dir), examine(run_dir, config, resume, given)
    with checkpoint.writing(folder, "the folder"):
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder, f"name another folder, as run={folder}-2")
    recorded = _inputs(folder)
    found = inputs.fingerprint(config, recorded)
    _refuse(folder, inputs.differences(recorded, found))
    if goes_on(folder, config):
        with checkpoint.writing(folder, "what the run is"):
            _describe(folder, config, found, given or _asked(config))
    return status


def _describe(
    folder: Path, config: Mapping[str, Any], found: Mapping[str, inputs.Files], asked: Prompts
) -> None:
    """Write the recipe, the prompts and the hashes; delete the summary of an earlier end."""
    (folder / "summary.json").unlink(missing_ok=True)
    # config.toml comes first, because it marks the folder as a run folder
    checkpoint.write_text(folder / "config.toml", toml.write(config))
    for key, name in PROMPTS.items():
        _keep(folder, name, asked[key])
    checkpoint.write_text(folder / "inputs.json", json.dumps(found, indent=1))


def _keep(folder: Path, name: str, asked: Sequence[str]) -> None:
    """Write prompts as `name`.txt, or as `name`.jsonl where references go with them.

    Only one of the two files exists afterwards.
    """
    suffix, text = prompts.as_text(asked)
    checkpoint.write_text(folder / f"{name}{suffix}", text)
    (folder / f"{name}{'.txt' if suffix == '.jsonl' else '.jsonl'}").unlink(missing_ok=True)


def examine(
    run_dir: str | Path, config: Mapping[str, Any], resume: bool, given: Prompts | None = None
) -> str:
    """Return the `status` of the run that `config` describes in this folder; write nothing.

    Raises `RunFolderError` where the folder holds another run (the message shows the
    difference), this run while `resume` is false, more rounds than `config` asks for, or
    files that no run wrote. `given`: see `claim`.
    """
    folder, status = Path(run_dir), checkpoint.status(run_dir)
    another = f"or name another folder, as run={folder}-2"
    if (folder / "config.toml").is_file():
        _refuse(folder, _another_run(folder, config, given or _asked(config)))
        if status != "new" and not resume:
            raise RunFolderError(
                f"{folder} holds this run already ({status}): add --resume to go on, {another}"
            )
        _enough_rounds(folder, config)
    elif folder.is_dir() and any(not ours(path.name) for path in folder.iterdir()):
        raise RunFolderError(
            f"{folder} holds files but no config.toml, so no run of vidrl: expected a new or an "
            f"empty folder; empty it, {another}"
        )
    elif folder.exists() and not folder.is_dir():
        raise RunFolderError(f"expected a run folder, got the file {folder}: move it, {another}")
    return status


def goes_on(run_dir: str | Path, config: Mapping[str, Any]) -> bool:
    """Return whether work is left.

    A finished run continues where `config` asks for more rounds than are recorded. A run
    that a guard stopped also continues where the guards differ from the recorded guards.
    """
    folder = Path(run_dir)
    if checkpoint.status(folder) != "finished":
        return True
    old, new = filled(_recorded(folder)), filled(config)
    loosened = checkpoint.summary(folder).get("status") == "guard" and old["guard"] != new["guard"]
    return loosened or new["train"]["rounds"] > old["train"]["rounds"]


def unused(run_dir: str | Path, config: Mapping[str, Any]) -> list[str]:
    """Return the changed values without effect, because the run is finished for good."""
    return [str(change) for change in _changed(Path(run_dir), config)]


def filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's table, with the defaults of the values that it lacks.

    The table may have been written by an earlier version of vidrl.
    """
    defaults = Recipe().to_dict()
    sections = {
        key: {**defaults[key], **value}
        for key, value in config.items()
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping)
    }
    return {**defaults, **config, **sections}


def world(processes: int) -> dict[str, Any]:
    """Return what the numbers of a run depend on besides its recipe.

    Two runs are equal to the last bit only where all of this is the same.
    """
    cpu = f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return {
        "processes": processes,
        "threads": torch.get_num_threads(),
        "device": device,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def since(
    saved: Mapping[str, Any], recipe: Mapping[str, Any], now: Mapping[str, Any]
) -> list[Change]:
    """Return the changes since the checkpoint `saved`, in the recipe and the `world`.

    Values of the world that the checkpoint lacks are not compared.
    """
    old, new = filled(saved["recipe"]), filled(recipe)
    here = {key: value for key, value in now.items() if key in saved["world"]}
    return [*changes.between(old, new, ignore=("run",)), *changes.between(saved["world"], here)]


# --- what makes it another run


def _another_run(folder: Path, config: Mapping[str, Any], asked: Prompts) -> list[str]:
    """Return one line for each difference that would make this another run."""
    found = [str(change) for change in changes.refused(_changed(folder, config))]
    kept = inputs.kept_prompts(folder, PROMPTS["data.prompts"])
    edited = (
        ""
        if kept is None
        else prompts.differences(
            # without folders, because the files may be moved
            *(list(map(without_folders, some)) for some in (kept, asked["data.prompts"]))
        )
    )
    where = folder / f"prompts{prompts.as_text(kept or [])[0]}"
    return [
        *found,
        *([f"data.prompts: {edited}; the recorded ones are in {where}"] if edited else []),
    ]


def _changed(folder: Path, config: Mapping[str, Any]) -> list[Change]:
    """Return the changed values of the recipe, without paths whose content is compared."""
    ignored = [
        "run",
        *(key for key, name in PROMPTS.items() if inputs.kept_prompts(folder, name) is not None),
    ]
    # `claim` compares their content
    ignored += [key for key in _inputs(folder) if inputs.named(config, key)]
    return changes.between(filled(_recorded(folder)), filled(config), ignore=ignored)


def _refuse(folder: Path, lines: Sequence[str]) -> None:
    """Raise `RunFolderError` where there are lines, each a difference from the recorded run."""
    if lines:
        shown = "\n  ".join(lines)
        raise RunFolderError(
            f"{folder} holds another run; recorded -> asked for:\n  {shown}\n"
            "Ask for the recorded values to resume it, or name another folder, as "
            f"run={folder}-2. `vidrl train --help` lists what may change"
        )


def ours(name: str) -> bool:
    """Return whether a file may be left by a start that was killed at once."""
    return name == LOCK or name.startswith(checkpoint.PARTIAL)


def _enough_rounds(folder: Path, config: Mapping[str, Any]) -> None:
    done, asked = int((checkpoint.latest(folder) or "0")[:6]), filled(config)["train"]["rounds"]
    if asked < done:
        raise RunFolderError(
            f"{folder}: train.rounds: expected at least the {done} rounds that are done, got "
            f"{asked}: ask for more, or name another folder, as run={folder}-2"
        )


def _asked(config: Mapping[str, Any]) -> Prompts:
    """Return the prompts of a recipe's files, by the keys of `PROMPTS`."""
    data = filled(config)["data"]
    trained = prompts.read(data["prompts"]) if data["prompts"] else []
    held_out = prompts.read(data["held_out"]) if data["held_out"] else []
    return {"data.prompts": trained, "data.held_out": held_out[: data["held_out_n"]]}


def _recorded(folder: Path) -> dict[str, Any]:
    """Return the table of the recipe that a run folder records."""
    cure = f"Restore it from a copy, or name another folder, as run={folder}-2"
    return checkpoint.parsed(folder / "config.toml", tomllib.loads, cure)


def _inputs(folder: Path) -> dict[str, inputs.Files]:
    """Return the hashes that a run folder holds; none where it has no inputs.json."""
    path, cure = (
        folder / "inputs.json",
        "Delete it if the model's files are those that the run began with",
    )
    return checkpoint.parsed(path, json.loads, cure) if path.is_file() else {}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def hold(folder: Path, otherwise: str) -> None:
    """Lock a folder until this process ends; raise `RunFolderError` where it is locked.

    `otherwise` says in the error what to do in place of waiting.
    """
    if os.name != "posix" or folder.resolve() in _HELD:
        return
    import fcntl

    # not closed before the process ends, else the lock would be lost
    refuse_link = atomic_file.refuse_link
    handle = open(folder / LOCK, "w", encoding="utf-8", opener=refuse_link)  # noqa: SIM115
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise RunFolderError(
            f"another process is at work in {folder}: wait until it has ended, or {otherwise}"
        ) from None
    _HELD[folder.resolve()] = handle
