"""Check the values of a backbone's options before a model is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidrl.plugin import nearest

from ._attention import check_names

DTYPES = ("float32", "bfloat16", "float16")
# options, and arguments of a pipeline's call, that count pixels or frames
SIZES = ("height", "width", "frames", "num_frames", "video_length")


def check(options: Mapping[str, Any], training: bool) -> None:
    """Raise for values that no model takes, and for kernels that are not on this machine.

    Raises ValueError for a `call` that is no table, a size that is no positive whole number, or
    a `dtype` that is not known, and `AttentionError` for a kernel. `training`: the kernel must
    have a backward pass.

    Example:
        >>> check({"call": {"height": -16}}, training=False)
        Traceback (most recent call last):
        ValueError: call.height: expected a whole number of at least 1, got -16: ...
    """
    call = options.get("call") or {}
    if not isinstance(call, Mapping):
        raise ValueError(
            f"call: expected a table of arguments of the pipeline's call, got {call!r}: write "
            "call.height = 32"
        )
    _check_sizes({**options, **{f"call.{name}": value for name, value in call.items()}})
    dtype = options.get("dtype", DTYPES[0])
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {_meant(dtype)}")
    kernel = options.get("attention", "sdpa")
    check_names(kernel, options.get("rollout_attention", ""), training)


def _check_sizes(options: Mapping[str, Any]) -> None:
    """Raise ValueError for a size that is given, and is no positive whole number."""
    for name, value in options.items():
        if name.removeprefix("call.") not in SIZES or value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(
                f"{name}: expected a whole number of at least 1, got {value!r}: leave it out for "
                "the model's own"
            )


def _meant(dtype: object) -> str:
    """Return a value that is no dtype, with the dtype that was probably meant.

    >>> _meant("bf16")
    "'bf16': did you mean 'bfloat16'? known: bfloat16, float16, float32"
    """
    return f"{dtype!r}: {nearest(str(dtype), DTYPES)}"
