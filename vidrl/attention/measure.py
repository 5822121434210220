"""Choose the fastest kernel: measure the installed ones on the shapes of the run's own network."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from .agreement import ALONE, Agreement
from .in_place import Proof, Trial, prove_in, without_cache
from .kernels import KERNELS, AttentionError, Kernel
from .switch import Switch

# "math" is the reference and holds all weights; "flex" is compiled for minutes, and is made for
# sparse masks
LEFT_OUT = ("math", "flex")
SECONDS, PASSES = 1.0, 5  # a pass is repeated until it took so long, or so often
MARGIN = 0.97  # another kernel must take at most this share of sdpa's seconds to be chosen


class Shape(NamedTuple):
    """What one call of attention is given: sizes, types, and what kind of mask."""

    query: tuple[int, ...]  # (B, H, L, D)
    key: tuple[int, ...]  # (B, H, M, D)
    types: tuple[torch.dtype, ...]  # of query, key and value
    mask: torch.dtype | None
    mask_size: tuple[int, ...] = ()
    causal: bool = False


@dataclass(frozen=True)
class Row:
    """What was measured of a kernel; a number is None where it was not, and `reason` says why.

    Seconds are of all attention calls of one prediction, forward, or forward and backward.
    """

    kernel: str
    forward: float | None = None
    both: float | None = None
    peak: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """The measured kernels, and the one that was chosen."""

    choice: str
    shapes: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    proof: Proof | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain values, for a JSON file."""
        return {"shapes": self.shapes, "rows": [asdict(row) for row in self.rows]}


class Recorder(TorchFunctionMode):
    """Counts the calls of torch's attention by their shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes = Counter[Shape]()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            self.record(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def record(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **others: Any,
    ) -> None:
        """Count one call."""
        shape = Shape(
            tuple(query.shape),
            tuple(key.shape),
            tuple(x.dtype for x in (query, key, value)),
            None if attn_mask is None else attn_mask.dtype,
            () if attn_mask is None else tuple(attn_mask.shape),
            is_causal,
        )
        self.shapes[shape] += 1


def recorded(predict: Callable[[], object]) -> Counter[Shape]:
    """Return the shapes of the attention calls of a prediction, with how often each comes."""
    with torch.no_grad(), Recorder() as recorder:
        predict()
    return recorder.shapes


def fastest(
    shapes: Counter[Shape],
    trials: Sequence[Trial],
    device: torch.device,
    training: bool = True,
    names: Sequence[str] = (),
    agreement: Agreement = ALONE,
) -> Report:
    """Measure the kernels, and return a report with the fastest one that passes the proof.

    `names`: the candidates; none stands for all that are known, without `LEFT_OUT`.
    `agreement`: that of all processes of a run, which must call this function together. The
    seconds of the main process decide, and a kernel that fails on one process is out for all.
    """
    names = names or [name for name in KERNELS if name not in LEFT_OUT]
    own = [measured(KERNELS[name], shapes, device, training) for name in names]
    reasons = agreement.failures([row.reason for row in own])
    rows = {row.kernel: replace(row, reason=why) for row, why in zip(own, reasons, strict=True)}
    seconds = {n: r.both if training else r.forward for n, r in rows.items() if not r.reason}
    usual = seconds.get("sdpa") or float("inf")
    ready = {
        n: s for n, s in seconds.items() if s is not None and (n == "sdpa" or s < MARGIN * usual)
    }
    proof = None
    choice = "sdpa"
    for name in agreement.of_main(sorted(ready, key=lambda name: ready[name])):
        if name == "sdpa":
            break
        try:
            proof = [prove_in(name, trial, training, False, agreement) for trial in trials][-1]
            choice = name
            break
        except AttentionError as error:
            rows[name] = replace(rows[name], reason=f"refused: {error}")
    return Report(choice, [_described(s, n) for s, n in shapes.items()], list(rows.values()), proof)


def _described(shape: Shape, count: int) -> dict[str, Any]:
    """Return a shape as plain values."""
    return {
        "calls": count,
        "query": list(shape.query),
        "key": list(shape.key),
        "types": [str(dtype).removeprefix("torch.") for dtype in shape.types],
        "mask": None if shape.mask is None else str(shape.mask).removeprefix("torch."),
    }


def measured(
    kernel: Kernel, shapes: Counter[Shape], device: torch.device, training: bool = True
) -> Row:
    """Return the seconds and the peak memory of a kernel on these calls of attention."""
    if not kernel.backward:
        return Row(kernel.name, reason="it has no backward pass, and is for rollouts only")
    if kernel.missing():
        return Row(kernel.name, reason=kernel.missing())
    if kernel.cuda and device.type != "cuda":
        return Row(kernel.name, reason="it needs a CUDA device, and the networks are on another")
    try:
        forward = sum(n * _cost(kernel, s, device, False)[0] for s, n in shapes.items())
        both = [(n, *_cost(kernel, s, device, True)) for s, n in shapes.items()] if training else []
    except Exception as error:  # noqa: BLE001  kernels raise errors of their own types
        reason = str(error).strip().split("\n")[0][:200]
        return Row(kernel.name, reason=f"{type(error).__name__}: {reason}")
    seconds = sum(n * one for n, one, _ in both) if training else None
    peak = max((bytes_ for *_, bytes_ in both), default=0) or None
    return Row(kernel.name, forward, seconds, peak)


def _cost(kernel: Kernel, shape: Shape, device: torch.device, training: bool) -> tuple[float, int]:
    """Return the median seconds of one call, and the bytes above its inputs (0 on a CPU)."""
    draw = torch.Generator().manual_seed(0)
    sizes = (shape.query, shape.key, shape.key)
    inputs = [
        torch.randn(size, generator=draw).to(device, dtype).requires_grad_(training)
        for size, dtype in zip(sizes, shape.types, strict=True)
    ]
    mask = _mask(shape, device)

    def run() -> None:
        with without_cache(device), torch.set_grad_enabled(training):
            q, k, v = inputs
            out = Switch(kernel).attend(q, k, v, mask, is_causal=shape.causal)
        if training:
            torch.autograd.grad(out.float().sum(), inputs)

    run()  # fills caches, and compiles where a kernel is compiled
    with _peak(device) as peak:
        seconds: list[float] = []
        while not seconds or (sum(seconds) < SECONDS and len(seconds) < PASSES):
            start = _now(device)
            run()
            seconds.append(_now(device) - start)
    return median(seconds), peak.bytes


def _mask(shape: Shape, device: torch.device) -> Tensor | None:
    """Return a mask of this shape that hides nothing."""
    if shape.mask is None:
        return None
    if shape.mask == torch.bool:
        return torch.ones(shape.mask_size, dtype=torch.bool, device=device)
    return torch.zeros(shape.mask_size, dtype=shape.mask, device=device)


def _now(device: torch.device) -> float:
    """Return the clock in seconds, once the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _Peak:
    """The bytes that a CUDA device held at most within a block, above those at its start."""

    bytes = 0

    def __init__(self, device: torch.device):
        self.device = device

    def __enter__(self) -> _Peak:
        torch.cuda.reset_peak_memory_stats(self.device)
        self.before = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(self, *error: object) -> None:
        self.bytes = torch.cuda.max_memory_allocated(self.device) - self.before


class _NoPeak(_Peak):
    """No measure of memory, for devices whose allocator keeps none."""

    def __enter__(self) -> _Peak:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _peak(device: torch.device) -> AbstractContextManager[_Peak]:
    return _Peak(device) if device.type == "cuda" else _NoPeak(device)
