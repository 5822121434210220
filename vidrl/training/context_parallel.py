"""Split the tokens of each sample over several processes, by diffusers' context parallelism.

A process holds 1 / C of a sample's tokens in every block. Within attention, "ulysses"
exchanges tokens for heads, so that each process attends to all tokens with 1 / C of the
heads (DeepSpeed Ulysses, arXiv 2309.14509); "ring" passes keys and values around instead
(Ring Attention, arXiv 2310.01889). The output of the network is gathered: every process has
the prediction of the whole sample. The gradient of a process is that of its own tokens, so
that the sum over the processes is the gradient of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

KINDS = ("ulysses", "ring")
# The largest difference of the prediction and of the gradient, relative to their largest
# number, by the precision of the network: rounding alone stays below it.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class ContextError(RuntimeError):
    """Raised where the tokens of a network cannot be split, with the reason and the cure."""


def check(networks: Sequence[nn.Module], size: int, kind: str) -> None:
    """Raise ContextError for a network whose tokens cannot be split over `size` processes."""
    for network in networks:
        name = type(network).__name__
        if not (getattr(network, "_cp_plan", None) and hasattr(network, "enable_parallelism")):
            raise ContextError(
                f"expected a network for which diffusers has a plan of context parallelism, got "
                f"{name}, which has none: set parallel.context = 1"
            )
        heads = getattr(network.config, "num_attention_heads", size)
        if kind == "ulysses" and heads % size:
            raise ContextError(
                f"expected a number of attention heads that parallel.context = {size} divides, "
                f"got {heads} of {name}: change parallel.context, or set parallel.kind = "
                '"ring"'
            )


def mesh(device_type: str, size: int, kind: str) -> DeviceMesh:
    """Return the mesh of all processes, with the dimensions data, ring and ulysses.

    `size` neighbouring processes hold the tokens of one sample.
    """
    count = dist.get_world_size()
    within = (1, size) if kind == "ulysses" else (size, 1)
    names = ("data", "ring", "ulysses")
    return init_device_mesh(device_type, (count // size, *within), mesh_dim_names=names)


def split(networks: Sequence[nn.Module], mesh: DeviceMesh, kind: str) -> dist.ProcessGroup:
    """Split the tokens of each network; return the processes that share this one's samples.

    Raises ContextError for a network that has no plan, or whose kernel cannot be split.
    """
    check(networks, mesh["ring"].size() * mesh["ulysses"].size(), kind)
    from diffusers import ContextParallelConfig

    sizes = {"ring_degree": mesh["ring"].size(), "ulysses_degree": mesh["ulysses"].size()}
    config: Any = None
    for network in networks:
        driven: Any = network
        config = ContextParallelConfig(**sizes, mesh=mesh)
        try:
            with _one_device():
                driven.enable_parallelism(config=config)
        except ValueError as error:  # the kernel of the network
            raise ContextError(
                f"expected a kernel of attention that can be split, got: {error}"
            ) from error
    group: dist.ProcessGroup = config._flattened_mesh.get_group()
    return group


@contextmanager
def _one_device() -> Iterator[None]:
    """Let diffusers count one device on a CPU, where torch counts none.

    diffusers divides the rank by the number of accelerators, which is 0 without a GPU.
    """
    if torch.accelerator.device_count():
        yield
        return
    with mock.patch("torch.accelerator.device_count", lambda: 1):
        yield


# --- the proof

# What a network predicts for one sample, with gradient where gradients are enabled.
Predict = Callable[[], Tensor]


def prove(
    predict: Predict,
    weights: Mapping[str, nn.Parameter],
    divide: Callable[[], dist.ProcessGroup],
    precision: torch.dtype = torch.float32,
) -> None:
    """Call `divide`, which splits the tokens, and raise ContextError if the numbers change.

    `precision` is that of the network's products: predictions are float32 in any case.

    The prediction and the gradient of the trained weights, summed over the processes, are
    compared with those of one process. diffusers leaves an input whole if it has another
    number of dimensions than the plan says; the prediction is then wrong, without an error.
    Every process must call this function.
    """
    prediction, gradient = _whole(predict, weights)
    group = divide()
    if not _all_have(gradient, group):
        gradient = None
    try:
        parts, slope = (
            _without_gradient(predict) if gradient is None else _with_gradient(predict, weights)
        )
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ContextError(_failed(error)) from error
    _compare("prediction", prediction, parts, TOLERANCES[precision])
    if gradient is not None and slope is not None:
        dist.all_reduce(slope, group=group)
        _compare("gradient of the trained weights", gradient, slope, TOLERANCES[precision])


def _whole(predict: Predict, weights: Mapping[str, nn.Parameter]) -> tuple[Tensor, Tensor | None]:
    """Return the prediction and the gradient, None where memory does not hold a whole sample."""
    try:
        return _with_gradient(predict, weights)
    except torch.OutOfMemoryError:
        return _without_gradient(predict)


def _without_gradient(predict: Predict) -> tuple[Tensor, None]:
    """Return the prediction alone."""
    with torch.no_grad():
        return predict(), None


def _all_have(gradient: Tensor | None, group: dist.ProcessGroup) -> bool:
    """Return whether every process of the group could compute the gradient of a whole sample."""
    have = torch.tensor([gradient is not None], dtype=torch.int)
    if dist.get_backend(group) == "nccl":
        have = have.cuda()
    dist.all_reduce(have, dist.ReduceOp.MIN, group=group)
    return bool(have)


def _with_gradient(predict: Predict, weights: Mapping[str, nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Return the prediction, and the gradient of the sum of its squares by the weights."""
    with torch.enable_grad():
        made = predict()
        given = torch.autograd.grad(
            made.float().square().sum(), list(weights.values()), allow_unused=True
        )
    filled = [
        torch.zeros_like(weight) if grad is None else grad
        for weight, grad in zip(weights.values(), given, strict=True)
    ]
    return made.detach(), torch.cat([grad.float().flatten() for grad in filled])


def _compare(what: str, whole: Tensor, parts: Tensor, tolerance: float) -> None:
    """Raise ContextError where the numbers of split tokens differ from those of whole ones."""
    difference = float((parts.float() - whole.float()).abs().max())
    largest = float(whole.float().abs().max())
    if not difference <= tolerance * max(largest, 1e-30):
        raise ContextError(
            f"expected the same {what} with split tokens as with whole ones to {tolerance:g} of "
            f"its largest number, got a difference of {difference / max(largest, 1e-30):.2g}: "
            "diffusers' plan of context parallelism does not fit this pipeline; set "
            "parallel.context = 1"
        )


def _failed(error: Exception) -> str:
    """Return the message for a network that fails with split tokens."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "divisible" in text:
        return (
            "expected a number of tokens that parallel.context divides (latent frames × rows × "
            f"columns of patches), got another ({text}): change parallel.context, or the size "
            "of the clips"
        )
    return (
        f"expected a network that runs with split tokens, got {type(error).__name__}: {text}; set "
        "parallel.context = 1"
    )


def networks(backbone: Any) -> list[nn.Module]:
    """Return the networks of a backbone that hold the tokens of its samples."""
    network = backbone.network
    return list(network.values()) if isinstance(network, nn.ModuleDict) else [network]
