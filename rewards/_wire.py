"""Samples and scores as bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Samples, Score

DTYPES = {"U8": torch.uint8, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def pack(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """Tensors and JSON facts as bytes in the format of safetensors.

    >>> tensors, facts = unpack(pack({"x": torch.tensor([1.5, float("nan")])}, {"fps": 8}))
    >>> tensors["x"], facts
    (tensor([1.5000,    nan]), {'fps': 8})
    """
    header: dict[str, Any] = {"__metadata__": {"vidrl": json.dumps(facts)}}
    parts, place = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        part = flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().tobytes()  # one number may have any stride
        ends = [place, place := place + len(part)]
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": ends}
        parts.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def unpack(body: bytes | bytearray) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `pack` or any writer of safetensors packed; raises ValueError for anything else."""
    length = int.from_bytes(body[:8], "little")
    if len(body) < 8 or length > len(body) - 8:
        raise ValueError("expected a body in the format of safetensors, got something else")
    try:
        header = json.loads(bytes(body[8 : 8 + length]))
        facts = json.loads(header.pop("__metadata__", {}).get("vidrl", "{}"))
        tensors = {name: _tensor(body, 8 + length, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"expected a body in the format of safetensors: {type(error).__name__}: {error}") from None
    if not isinstance(facts, dict):
        raise ValueError("expected the metadata 'vidrl' to be a JSON object")
    return tensors, facts


def _tensor(body: bytes | bytearray, start: int, entry: Mapping[str, Any]) -> Tensor:
    dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError("expected sizes and offsets to be natural numbers")
    if end - begin != math.prod(shape) * dtype.itemsize or start + end > len(body):
        raise ValueError(f"expected {math.prod(shape) * dtype.itemsize} bytes of a tensor {shape}")
    if end == begin:
        raise ValueError("expected no empty tensor")
    flat = torch.frombuffer(bytearray(memoryview(body)[start + begin : start + end]), dtype=torch.uint8)
    return flat.view(dtype).reshape(shape)


def pack_samples(samples: Samples) -> bytes:
    """A request."""
    tensors = {"video": samples.video}
    if samples.reference is not None:
        tensors["reference"] = samples.reference
    meta = [dict(entry) for entry in samples.meta]
    return pack(tensors, {"prompts": list(samples.prompts), "fps": samples.fps, "meta": meta})


def unpack_samples(body: bytes | bytearray) -> Samples:
    """The samples of a request; raises ValueError."""
    tensors, facts = unpack(body)
    if "video" not in tensors or not tensors["video"].dim():
        raise ValueError("expected a tensor 'video', (batch, frames, channels, height, width)")
    prompts, meta = facts.get("prompts", [""] * len(tensors["video"])), facts.get("meta", [])
    if not _all(prompts, str) or not _all(meta, dict):
        raise ValueError("expected prompts, a list of strings, and meta, a list of objects")
    samples = Samples(tensors["video"], prompts, facts.get("fps", math.nan), tensors.get("reference"), meta)
    if samples.reference is not None and len(samples.reference) != len(samples):
        raise ValueError(f"expected a reference for each of {len(samples)} clips, got {len(samples.reference)}")
    if meta and len(meta) != len(samples):
        raise ValueError(f"expected meta for each of {len(samples)} clips, got {len(meta)}")
    return samples


def pack_score(score: Score) -> bytes:
    """An answer."""
    return pack(dict(_tensors(score, "")), _facts(score))


def unpack_score(body: bytes | bytearray) -> Score:
    """The score of an answer; raises ValueError."""
    tensors, facts = unpack(body)
    try:
        return _score(tensors, facts, "")
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"expected a score, got an answer without {error}") from None


def _tensors(score: Score, prefix: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{prefix}value", score.value
    if score.frames is not None:
        yield f"{prefix}frames", score.frames
    yield from ((f"{prefix}slopes/{name}", slope) for name, slope in score.slopes.items())
    yield from ((f"{prefix}adds/{name}", add) for name, add in score.adds.items())
    for name, part in score.parts.items():
        yield from _tensors(part, f"{prefix}parts/{name}/")


def _facts(score: Score) -> dict[str, Any]:
    parts = {name: _facts(part) for name, part in score.parts.items()}
    weights = {name: float(weight) for name, weight in score.weights.items()}
    named = {"slopes": list(score.slopes), "adds": list(score.adds)}
    return {"support": score.support, "why": list(score.why), "weights": weights, "parts": parts, **named}


def _score(tensors: Mapping[str, Tensor], facts: Mapping[str, Any], prefix: str) -> Score:
    value = tensors[f"{prefix}value"]
    parts = {name: _score(tensors, told, f"{prefix}parts/{name}/") for name, told in facts["parts"].items()}
    slopes = {name: tensors[f"{prefix}slopes/{name}"] for name in facts["slopes"]}
    adds = {name: tensors[f"{prefix}adds/{name}"] for name in facts.get("adds", ())}
    if len(facts["why"]) != len(value) or not all(reason is None or isinstance(reason, str) for reason in facts["why"]):
        raise ValueError("expected a reason or null for each clip")
    frames = tensors.get(f"{prefix}frames")
    return Score(value, frames, facts["support"], parts, facts["why"], dict(facts["weights"]), slopes, adds=adds)


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and all(isinstance(v, kind) for v in values)
