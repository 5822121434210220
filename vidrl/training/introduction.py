"""Let processes introduce themselves before they connect, and refuse those that do not fit.

Without this check, processes that wait for each other by NCCL on one machine and by gloo on
another would wait until their time limit ends, and no message would say why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# Seconds that the processes of a group have to start.
PATIENCE = 600.0
# What must be alike, with what a person can do where it is not.
ALIKE = {
    "device": "processes on GPUs are connected by NCCL and those on CPUs by gloo; look for a "
    "machine without a driver, CUDA_VISIBLE_DEVICES or ACCELERATE_USE_CPU",
    "GPU": "the slowest one would hold up all others, and the numbers would depend on who computes "
    "them; use GPUs of one type, or choose them by CUDA_VISIBLE_DEVICES",
    "torch": "install the same version on every machine",
    "vidrl": "install the same version on every machine",
}
# The store through which the processes of this group met: the main process serves it.
_STORES: list[Any] = []


def facts() -> dict[str, str]:
    """Return what the other processes must have in common with this one."""
    import torch

    on_cpu = not torch.cuda.is_available() or _yes(os.environ.get("ACCELERATE_USE_CPU", ""))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    known = torch.cuda.device_count() if not on_cpu else 0
    try:
        own = version("vidrl")
    except PackageNotFoundError:
        own = "not installed"
    return {
        "device": "cpu" if on_cpu else "cuda",
        "GPU": torch.cuda.get_device_name(local) if local < known else "none",
        "torch": torch.__version__,
        "vidrl": own,
    }


def introduce(mine: Mapping[str, str], patience: float = PATIENCE) -> None:
    """Exchange facts with the other processes of the group, before the processes connect.

    Returns at once where this process is alone or already connected. Raises RuntimeError, on
    every process, for facts that differ, and for processes that have not started in time.
    """
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        return
    if distributed.is_initialized():
        return
    limit = timedelta(seconds=patience)
    try:
        store, rank, count = next(rendezvous("env://", timeout=limit))
        _STORES.append(store)
        store = distributed.PrefixStore("vidrl/introduction", store)
        store.set(str(rank), json.dumps(dict(mine)))
        names = [str(other) for other in range(count)]
        store.wait(names, limit)
        found = [json.loads(store.get(name)) for name in names]
        store.set(f"read {rank}", "")
        if rank == 0:
            # the store ends with this process, which may raise below, before the others have read
            store.wait([f"read {name}" for name in names], limit)
    except distributed.DistError as error:
        raise RuntimeError(
            f"expected {os.environ['WORLD_SIZE']} processes, but not all of them started and met "
            f"at MASTER_ADDR within {patience:g} s ({str(error).splitlines()[0]}): look at the "
            "messages of the other processes"
        ) from error
    compare(found)


def compare(found: Sequence[Mapping[str, str]]) -> None:
    """Raise RuntimeError where the facts of processes, in the order of their ranks, differ.

    Example:
        >>> compare([{"device": "cpu"}, {"device": "cpu"}])
    """
    for fact, cure in ALIKE.items():
        values = [own.get(fact, "unknown") for own in found]
        if len(set(values)) > 1:
            who = {
                value: ", ".join(str(rank) for rank, own in enumerate(values) if own == value)
                for value in dict.fromkeys(values)
            }
            got = "; ".join(f"{value} on process {ranks}" for value, ranks in who.items())
            raise RuntimeError(
                f"expected the same {fact} on all {len(found)} processes, got {got}: {cure}"
            )


def _yes(text: str) -> bool:
    """Return whether an environment variable means yes."""
    return text.lower() in ("1", "true", "yes", "on", "y", "t")
