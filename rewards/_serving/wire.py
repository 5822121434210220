"""Convert samples and scores to bytes and back; refuse bytes that break the format.

The rules of the format are those of the library safetensors: tensors lie one behind the
other from the first byte to the last, without gap or overlap. Three rules are stricter than
the library's: a name occurs once, no tensor is empty, and a header has at most 4 MiB,
because parsed JSON takes about twenty times the memory of its text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base import Samples, Score
from .printable import printable

DTYPES = {
    "U8": torch.uint8,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
LARGEST_HEADER = 1 << 22  # bytes
MOST_AXES = 16
# Frames of one request. Frames of a few pixels are cheap to send, but each frame costs a
# number in every curve of the answer.
MOST_FRAMES = 1 << 20
DEEPEST = 8  # levels of parts within parts
FORMAT = "expected a body in the format of safetensors"


def pack(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """Return tensors and JSON facts as bytes in the format of safetensors.

    >>> tensors, facts = unpack(pack({"x": torch.tensor([1.5, float("nan")])}, {"fps": 8}))
    >>> tensors["x"], facts
    (tensor([1.5000,    nan]), {'fps': 8})
    """
    header: dict[str, Any] = {"__metadata__": {"vidrl": json.dumps(facts)}}
    parts, place = [], 0
    # Wide numbers come first, so that every tensor is aligned to its own width and can be read
    # without a copy.
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        # A tensor of one number may keep any stride, and `view` refuses strides other than 1.
        part = flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().tobytes()
        ends = [place, place := place + len(part)]
        header[name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": ends,
        }
        parts.append(part)
    text = json.dumps(header).encode()
    # Blanks align the first tensor to 8 bytes.
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


# --- the format


class _Entry(NamedTuple):
    """The place of a tensor, in bytes from the end of the header, with its dtype and shape."""

    begin: int
    end: int
    dtype: torch.dtype
    shape: list[int]


def unpack(body: bytes | bytearray) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and facts of bytes in the format of safetensors; raise ValueError.

    The tensors share the memory of a bytearray. The facts are the metadata "vidrl", a JSON
    object.
    """
    start = 8 + int.from_bytes(body[:8], "little")
    if not 8 < start <= len(body):
        raise ValueError(
            f"{FORMAT}: eight bytes, the length of a header, and the header, got {len(body)} bytes"
        )
    if start > LARGEST_HEADER:
        raise ValueError(
            f"{FORMAT} with a header of at most {LARGEST_HEADER} bytes, got {start - 8}"
        )
    header = _parsed(bytes(body[8:start]), "the header")
    facts = _metadata(header.pop("__metadata__", {}))
    entries = {name: _entry(name, fields) for name, fields in header.items()}
    _check_places(entries, len(body) - start)
    return {name: _tensor(body, start, entry) for name, entry in entries.items()}, facts


def _parsed(text: bytes, what: str) -> dict[str, Any]:
    """Parse a text as a JSON object."""
    try:
        found = json.loads(text.decode(), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"{FORMAT}: {what} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{FORMAT}: {what} cannot be read: {printable(str(error), 100)}") from None
    if not isinstance(found, dict):
        raise ValueError(
            f"{FORMAT}: expected {what} to be a JSON object, got {type(found).__name__}"
        )
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict; raise ValueError if a name occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _metadata(entry: Any) -> dict[str, Any]:
    """Return the facts in the metadata of a header."""
    if not isinstance(entry, dict) or not _all(list(entry.values()), str):
        raise ValueError(f"{FORMAT}: expected the metadata to be an object of strings")
    # A lone surrogate is legal in JSON, but plain UTF-8 refuses to encode it.
    text = entry.get("vidrl", "{}").encode("utf-8", "surrogatepass")
    return _parsed(text, "the metadata 'vidrl'")


def _entry(name: str, fields: Any) -> _Entry:
    """Check what a header says of one tensor and return it."""
    it = f"{FORMAT}: of the tensor {printable(name, 40)!r} expected"
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{it} dtype, shape and data_offsets")
    code = fields["dtype"]
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        got = repr(printable(code, 40)) if isinstance(code, str) else type(code).__name__
        raise ValueError(f"{it} one of the dtypes {', '.join(DTYPES)}, got {got}")
    shape, ends = fields["shape"], fields["data_offsets"]
    if not _naturals(shape) or not _naturals(ends) or len(shape) > MOST_AXES or len(ends) != 2:
        raise ValueError(
            f"{it} a shape of at most {MOST_AXES} natural numbers and two data_offsets"
        )
    size = math.prod(shape) * dtype.itemsize
    if not 0 < size == ends[1] - ends[0]:
        raise ValueError(
            f"{it} {size} bytes, more than 0, for the shape {shape}, got the data_offsets {ends}"
        )
    return _Entry(ends[0], ends[1], dtype, shape)


def _check_places(entries: Mapping[str, _Entry], size: int) -> None:
    """Raise ValueError unless the tensors fill `size` bytes without gap or overlap."""
    place = 0
    for begin, end, *_ in sorted(entries.values(), key=lambda entry: entry[:2]):
        if begin != place:
            raise ValueError(
                f"{FORMAT}: tensors {'overlap' if begin < place else 'leave a gap'} at byte {begin}"
            )
        place = end
    if place != size:
        raise ValueError(f"{FORMAT}: expected {place} bytes after the header, got {size}")


def _tensor(body: bytes | bytearray, start: int, entry: _Entry) -> Tensor:
    """Return the tensor of an entry, without a copy where memory allows."""
    place = start + entry.begin
    # torch.frombuffer needs aligned memory, and warns if the memory cannot be written.
    if isinstance(body, bytes) or place % entry.dtype.itemsize:
        body, place = bytearray(memoryview(body)[place : start + entry.end]), 0
    count = math.prod(entry.shape)
    return torch.frombuffer(body, dtype=entry.dtype, count=count, offset=place).reshape(entry.shape)


def _naturals(values: Any) -> bool:
    # `type` and not `isinstance`: True is an int too.
    """Return whether `values` is a list of natural numbers below 2^63."""
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in values)


def _all(values: Any, kind: type) -> bool:
    """Return whether `values` is a sequence, but no string, of instances of `kind`."""
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and all(isinstance(v, kind) for v in values)
    )


# --- samples


def pack_samples(samples: Samples) -> bytes:
    """Return samples as the body of a request."""
    tensors = {"video": samples.video}
    if samples.reference is not None:
        tensors["reference"] = samples.reference
    meta = [dict(entry) for entry in samples.meta]
    return pack(tensors, {"prompts": list(samples.prompts), "fps": samples.fps, "meta": meta})


def unpack_samples(body: bytes | bytearray) -> Samples:
    """Return the samples of a request's body; raise ValueError."""
    tensors, facts = unpack(body)
    if "video" not in tensors or tensors["video"].dim() < 2:
        raise ValueError("expected a tensor 'video', (batch, frames, channels, height, width)")
    strange = [name for name in tensors if name not in ("video", "reference")]
    if strange:
        raise ValueError(
            "expected the tensors 'video' and 'reference' alone, got "
            f"{printable(strange[0], 40)!r} too"
        )
    clips, frames = tensors["video"].shape[:2]
    if clips * frames > MOST_FRAMES:
        raise ValueError(
            f"expected at most {MOST_FRAMES} frames in one request, got {clips * frames}: "
            "send fewer"
        )
    prompts, meta = facts.get("prompts", [""] * clips), facts.get("meta", [])
    if not _all(prompts, str) or not _all(meta, dict):
        raise ValueError("expected prompts, a list of strings, and meta, a list of objects")
    return Samples(
        tensors["video"], prompts, facts.get("fps", math.nan), tensors.get("reference"), meta
    )


# --- scores


def pack_score(score: Score) -> bytes:
    """Return a score as the body of an answer."""
    return pack(dict(_tensors(score, "")), _facts(score))


def unpack_score(body: bytes | bytearray) -> Score:
    """Return the score of an answer, its texts made safe to show; raise ValueError.

    `answers.read_answer` checks whether the numbers belong to the clips that were sent.
    """
    tensors, facts = unpack(body)
    return _score(tensors, facts, "", 0)


def _tensors(score: Score, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and tensor of each number in a score, its parts included."""
    yield f"{prefix}value", score.value
    if score.frames is not None:
        yield f"{prefix}frames", score.frames
    yield from ((f"{prefix}slopes/{name}", slope) for name, slope in score.slopes.items())
    yield from ((f"{prefix}adds/{name}", add) for name, add in score.adds.items())
    for name, part in score.parts.items():
        yield from _tensors(part, f"{prefix}parts/{name}/")


def _facts(score: Score) -> dict[str, Any]:
    """Return what a score holds besides tensors, its parts included."""
    parts = {name: _facts(part) for name, part in score.parts.items()}
    weights = {name: float(weight) for name, weight in score.weights.items()}
    named = {"slopes": list(score.slopes), "adds": list(score.adds)}
    return {
        "support": score.support,
        "why": list(score.why),
        "weights": weights,
        "parts": parts,
        **named,
    }


def _score(tensors: Mapping[str, Tensor], facts: Any, prefix: str, depth: int) -> Score:
    """Build the score, or the part at `depth`, whose tensors' names begin with `prefix`."""
    if not isinstance(facts, dict) or depth > DEEPEST:
        raise ValueError(
            f"expected the facts of a score, an object, with parts at most {DEEPEST} deep"
        )
    value = _numbers(tensors, f"{prefix}value")
    clips = len(value) if value.dim() == 1 else 0
    if not clips:
        raise ValueError(
            f"expected value to have one number a clip, got the shape {tuple(value.shape)}"
        )
    frames = (
        _numbers(tensors, f"{prefix}frames", (clips, None))
        if f"{prefix}frames" in tensors
        else None
    )
    parts = {
        name: _score(tensors, part, f"{prefix}parts/{name}/", depth + 1)
        for name, part in _named(facts, "parts", dict).items()
    }
    slopes = {
        name: _numbers(tensors, f"{prefix}slopes/{name}", (clips,))
        for name in _named(facts, "slopes", list)
    }
    adds = {
        name: _numbers(tensors, f"{prefix}adds/{name}", (clips, 2))
        for name in _named(facts, "adds", list)
    }
    why, weights = _reasons(facts, clips), _weights(facts)
    return Score(
        value, frames, facts.get("support", "clip"), parts, why, weights, slopes, adds=adds
    )


def _numbers(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int | None, ...] | None = None
) -> Tensor:
    """Return a tensor of an answer after a check of its shape; None in `shape` allows any size.

    Numbers of 16 bits are converted to float32.
    """
    if name not in tensors:
        raise ValueError(f"expected a tensor {printable(name, 60)!r}, got none")
    found = tensors[name]
    fits = (
        shape is None
        or len(shape) == found.dim()
        and all(n in (None, m) for n, m in zip(shape, found.shape, strict=True))
    )
    if not fits or not found.is_floating_point():
        want = (
            ""
            if shape is None
            else f" of the shape {tuple('any' if n is None else n for n in shape)}"
        )
        got = f"{found.dtype} of the shape {tuple(found.shape)}"
        raise ValueError(
            f"expected {printable(name, 60)!r} to be floating point numbers{want}, got {got}"
        )
    return found.float() if found.dtype.itemsize == 2 else found


def _named(
    facts: Mapping[str, Any], what: str, kind: type[dict[str, Any]] | type[list[str]]
) -> Any:
    """Return the parts, slopes, adds or weights of an answer; their names must be printable.

    Tables and terminals show these names.
    """
    found: Any = facts.get(what, kind())
    if not isinstance(found, kind) or not all(
        isinstance(name, str) and name.isprintable() for name in found
    ):
        raise ValueError(
            f"expected {what} to be a JSON {'object' if kind is dict else 'list'} of "
            "printable names"
        )
    return found


def _weights(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the weights of an answer; raise ValueError unless they are finite numbers."""
    weights = _named(facts, "weights", dict)
    if not all(type(weight) in (int, float) and abs(weight) < 1e300 for weight in weights.values()):
        raise ValueError("expected weights to be finite numbers")
    return {name: float(weight) for name, weight in weights.items()}


def _reasons(facts: Mapping[str, Any], clips: int) -> list[str | None]:
    """Return the reasons of an answer, made safe to show."""
    why = facts.get("why", [None] * clips)
    if (
        not isinstance(why, list)
        or len(why) != clips
        or not all(one is None or isinstance(one, str) for one in why)
    ):
        raise ValueError("expected why to have a reason or null for each clip")
    return [None if not reason else printable(reason) for reason in why]
