"""Spread weights over processes, block by block, with torch's FSDP2 (`fully_shard`).

A sharded parameter is a DTensor: each process holds a part of its rows. FSDP2 gathers the
parameters of a block just before the block computes, and frees them afterwards. Frozen weights
keep their own precision, and trained weights, a LoRA or all, stay float32. The functions below
take plain tensors as well, which they leave as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# The name of the mesh's dimension over which the parts of the weights lie.
SHARD = "shard"
# The name of the mesh's dimension over which the weights are repeated (HSDP).
REPLICATE = "replicate"


def mesh_shape(shard: str, processes: int, machines: int, replicas: int = 0) -> tuple[int, ...]:
    """Return the shape of the mesh of processes: (parts,) or, for "hsdp", (replicas, parts).

    `replicas`: how often the weights are repeated; 0 is once a machine. Raises ValueError for a
    number of replicas that does not divide the processes.

    Example:
        >>> mesh_shape("fsdp", 8, 2), mesh_shape("hsdp", 8, 2), mesh_shape("hsdp", 4, 1, 2)
        ((8,), (2, 4), (2, 2))
    """
    if shard == "fsdp":
        return (processes,)
    count = replicas or machines
    if processes % count:
        raise ValueError(
            f"parallel.replicas: expected a divisor of the {processes} processes, got {count}: "
            "start as many processes on each machine, or choose another number of replicas"
        )
    return (count, processes // count)


def mesh(device: str, shape: Sequence[int]) -> Any:
    """Return torch's DeviceMesh of this shape; every process must call this function."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, tuple(shape), mesh_dim_names=(REPLICATE, SHARD)[-len(shape) :])


def shard(network: nn.Module, mesh: Any) -> list[nn.Module]:
    """Spread a network's weights over the mesh, in place; return its `roots`.

    Gradients become sums over all processes. Raises ValueError for weights that FSDP2 cannot
    spread: quantised ones.
    """
    from torch.distributed.fsdp import fully_shard

    _check(network)
    for root in roots(network):
        # the inner modules first, as FSDP2 asks for
        for module in (*reversed(blocks(root)), root):
            # True also for the outermost module: weights that stay gathered after a forward
            # pass without a backward pass would survive a change of the set of weights
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
            # vidrl's losses are divided by the rows of all processes already
            module.set_gradient_divide_factor(1.0)  # type: ignore[operator]
            # a plain sum, because gloo has no operation that multiplies before it adds
            module.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]
    return roots(network)


def roots(network: nn.Module) -> list[nn.Module]:
    """Return the modules whose forward pass runs: a table of several networks has none itself."""
    return list(network.values()) if isinstance(network, nn.ModuleDict) else [network]


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the modules of a network that are spread one by one, outer ones first.

    These are the blocks that diffusers names in `_repeated_blocks` or `_no_split_modules`, else
    the elements of lists of modules.

    Example:
        >>> net = nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), nn.Linear(2, 2))
        >>> [type(block).__name__ for block in blocks(net)]
        ['Linear', 'Linear']
    """
    for attribute in ("_repeated_blocks", "_no_split_modules"):
        named = getattr(network, attribute, None) or ()
        found = [module for module in network.modules() if type(module).__name__ in named]
        if found:
            return found
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    inside = {id(module) for outer in lists for module in outer}
    return [module for module in network.modules() if id(module) in inside]


def reset(outermost: Iterable[Any]) -> None:
    """Make sharded networks ready again after a forward or backward pass that raised an error.

    The gradients of that pass are lost.
    """
    for module in outermost:
        module.reset_iter_state()


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor, of which this process holds a part."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds; it shares memory with the tensor."""
    sharded: Any = tensor
    return sharded.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return all rows of a tensor; for a sharded tensor every process must call this function."""
    sharded: Any = tensor
    return sharded.full_tensor() if is_sharded(tensor) else tensor


def on_main(tensor: Tensor) -> Tensor:
    """Return all rows of a sharded tensor on the CPU of the main process.

    The other processes, which must call this function too, get an empty tensor, so that the
    memory of a machine holds the whole weights once. A plain tensor is returned as it is.
    """
    if not is_sharded(tensor):
        return tensor
    full = whole(tensor)
    return full.cpu() if torch.distributed.get_rank() == 0 else full.new_empty(0, device="cpu")


def like(full: Tensor, parameter: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, spread as `parameter` is; always a copy."""
    if not is_sharded(parameter):
        return full.to(parameter, copy=True)
    from torch.distributed.tensor import distribute_tensor

    p: Any = parameter
    # no process sends anything: each one cuts its part out of its own copy
    return distribute_tensor(
        full.to(p.device, p.dtype), p.device_mesh, p.placements, src_data_rank=None
    ).clone()


@torch.no_grad()
def replace(parameter: nn.Parameter, value: Tensor) -> None:
    """Give a parameter other numbers.

    A plain parameter points at `value` afterwards. FSDP2 gathers from memory of its own, so that
    the numbers of a sharded parameter are copied.
    """
    if is_sharded(parameter):
        local(parameter.detach()).copy_(local(value))
    else:
        parameter.data = value


def kept(parameter: nn.Parameter) -> Tensor:
    """Return the numbers of a parameter as `replace` can restore them."""
    return parameter.detach().clone() if is_sharded(parameter) else parameter.data


def equal(pairs: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Return whether the tensors of every pair are equal, on all processes if they are sharded."""
    found = list(pairs)
    same = all(torch.equal(local(a), local(b)) for a, b in found)
    if not any(is_sharded(a) for a, _ in found):
        return same
    flag = torch.tensor([int(same)], device=found[0][0].device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
    return bool(flag)


def _check(network: nn.Module) -> None:
    """Raise ValueError for weights that are no plain floating-point tensors."""
    for name, p in network.named_parameters():
        if p.element_size() < 2 or type(p.data) is not Tensor:
            raise ValueError(
                f"parallel.shard: expected plain weights, got {type(p.data).__name__} of {p.dtype} "
                f"in {name}: FSDP2 spreads no quantised weights; leave the quantisation out, or "
                'set parallel.shard = "none"'
            )
