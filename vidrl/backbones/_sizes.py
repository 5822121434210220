"""Find the clip size of a driven pipeline, and name the nearest valid size for a wrong one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from . import _references
from ._runner import FRAMES, Row, Runner

DRY_STEPS = 2  # steps of a dry run: with one step some schedulers divide 0 by 0


def folder_size(folder: Path | None, call_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the size in a folder's vidrl.json as keyword arguments of the pipeline's call."""
    stated = _read(folder)
    frames = next((name for name in FRAMES if name in call_parameters), "")
    found = {
        "height": stated.get("height"),
        "width": stated.get("width"),
        frames: stated.get("frames"),
    }
    return {
        name: value
        for name, value in found.items()
        if value is not None and name in call_parameters
    }


def _read(folder: Path | None) -> dict[str, Any]:
    """Return the content of a folder's vidrl.json, empty without one."""
    file = folder / "vidrl.json" if folder else None
    return json.loads(file.read_text()) if file and file.exists() else {}


def clip_rate(
    folder: Path | None, call: Mapping[str, Any], call_parameters: Mapping[str, Any]
) -> float:
    """Return the frames a second of vidrl.json, the call or the pipeline's default, else 16."""
    named = [
        call.get(name, call_parameters[name].default)
        for name in ("frame_rate", "fps")
        if name in call_parameters
    ]
    rates = [
        value
        for value in (_read(folder).get("fps"), *named)
        if isinstance(value, (int, float)) and value > 0
    ]
    return float(rates[0]) if rates else 16.0


def picture_size(
    pipe: Any, call: Mapping[str, Any], call_parameters: Mapping[str, Any]
) -> _references.Size:
    """Return (height, width) of the pictures; None if no call or pipeline says them."""
    named = [
        call.get(name, call_parameters[name].default) if name in call_parameters else None
        for name in ("height", "width")
    ]
    side = getattr(pipe, "default_sample_size", None)
    factor = getattr(pipe, "vae_scale_factor", None)
    square = side * factor if isinstance(side, int) and isinstance(factor, int) else None
    sizes = [value if isinstance(value, int) else square for value in named]
    height, width = sizes
    return (height, width) if height and width else None


def find_dry_row(runner: Runner, size: _references.Size) -> tuple[int, tuple[str, ...]]:
    """Return the row for dry runs, and the references that the pipeline cannot run without.

    Grey references are tried, the fewest first, until the pipeline's call runs. Raises
    ValueError with the pipeline's own error if the call runs with none of them.
    """
    frames = next(
        (
            runner.call.get(name, runner.call_parameters[name].default)
            for name in FRAMES
            if name in runner.call_parameters
        ),
        1,
    )
    errors: list[Exception] = []
    for references in _references.grey_references(runner.call_parameters, size, frames or 1):
        runner.table[:] = [Row("", references)]
        try:
            runner.times(0, DRY_STEPS)
            return 0, tuple(references)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001  a pipeline may refuse its arguments in any way
            errors.append(error)
    # The first error is that of a call without any reference. The second says more: it is that
    # of the most usual reference, if the pipeline takes references at all.
    raise _refused_arguments(runner, errors[min(1, len(errors) - 1)])


def _refused_arguments(runner: Runner, error: Exception) -> ValueError:
    """Build the error for arguments that the pipeline refuses, with the nearest size if known."""
    if isinstance(error, ValueError) and str(error).startswith(
        "expected a pipeline that vidrl can drive"
    ):
        return error
    arguments = (
        ", ".join(f"{key} = {value!r}" for key, value in runner.call.items()) or "its own defaults"
    )
    refused = ValueError(
        f"expected arguments that {runner.name} runs with, got {arguments[:200]}: "
        f"{type(error).__name__}: {str(error).strip()[:400]}{_nearest(runner, str(error))}"
    )
    refused.__cause__ = error
    return refused


def _nearest(runner: Runner, text: str) -> str:
    """Return advice on the size if the pipeline's error names the number that must divide it.

    >>> class Asked: call = {"height": 17, "width": 32}
    >>> _nearest(Asked, "`height` and `width` have to be divisible by 16 but are 17 and 32.")
    '; the nearest is height = 16'
    """
    found = re.search(r"divisible by (\d+)", text.replace("`", ""))
    if not found:
        return ""
    unit = int(found[1])
    nearest_sizes = {
        name: max(unit, round(runner.call[name] / unit) * unit)
        for name in ("height", "width")
        if isinstance(runner.call.get(name), int) and runner.call[name] % unit
    }
    return (
        "; the nearest is "
        + ", ".join(f"{name} = {value}" for name, value in nearest_sizes.items())
        if nearest_sizes
        else ""
    )
