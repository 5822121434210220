"""Send what the main process read to every process.

Only the machine of the main process then needs the files of the run folder.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from .processes import Workers

# How many bytes are sent at once: they lie on the device, beside the model.
PIECE = 2**26


def from_main(workers: Workers, action: Callable[[], Any]) -> Any:
    """Call `action` on the main process, and return its result on every process.

    The result may be anything that a checkpoint can hold: nested mappings, lists, numbers,
    text, None, tensors (they arrive on the CPU). Where `action` raises, every process
    raises.
    """
    held: list[Any] = []
    workers.once(lambda: held.append(action()))
    if workers.size == 1:
        return held[0]
    tensors: dict[str, Tensor] = {}
    packed = checkpoint.pack(held[0], tensors) if workers.main else None
    about = {
        key: [str(value.dtype).removeprefix("torch."), list(value.shape)]
        for key, value in tensors.items()
    }
    text = _bytes(workers, json.dumps([packed, about]).encode() if workers.main else b"")
    packed, about = json.loads(bytes(text.tolist()))
    return checkpoint.unpack(
        packed, {key: _tensor(workers, tensors.get(key), *how) for key, how in about.items()}
    )


def texts(workers: Workers, own: str) -> list[str]:
    """Return the text of every process, in order of their ranks; every process must call this."""
    data = torch.tensor(list(own.encode()), dtype=torch.uint8)
    sizes = workers.everywhere(torch.tensor([len(data)])).tolist()
    return [bytes(part.tolist()).decode() for part in workers.everywhere(data).split(sizes)]


def unlike(workers: Workers, digest: str) -> list[int]:
    """Return the ranks of the processes whose hexadecimal digest is not the main process's."""
    digests = workers.everywhere(torch.tensor([int(digest[:15], 16)])).tolist()
    return [rank for rank, other in enumerate(digests) if other != digests[0]]


def unseen(workers: Workers, folder: Path) -> list[int]:
    """Return the ranks of the processes that do not see the main process's files in a folder."""
    mark = from_main(workers, lambda: _marked(folder))
    seen = workers.everywhere(torch.tensor([int((folder / mark).is_file())])).tolist()
    workers.once(lambda: (folder / mark).unlink())
    return [rank for rank, visible in enumerate(seen) if not visible]


def _marked(folder: Path) -> str:
    """Write a file with a random name that no other machine has; return the name."""
    name = f"{checkpoint.PARTIAL}{secrets.token_hex(8)}"
    (folder / name).touch()
    return name


def _bytes(workers: Workers, data: bytes) -> Tensor:
    """Return the main process's bytes on every process."""
    length = torch.tensor([len(data)], device=workers.device)
    values = torch.zeros(int(_sent(length)), dtype=torch.uint8)
    if workers.main:
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return _in_pieces(workers, values)


def _tensor(workers: Workers, own: Tensor | None, dtype: str, shape: Sequence[int]) -> Tensor:
    """Return the main process's tensor `own` on every process; `own` is None on the others."""
    values = torch.empty(tuple(shape), dtype=getattr(torch, dtype)) if own is None else own
    if not values.numel():
        return values
    # as bytes, because not every backend sends every type of number
    flat = _in_pieces(workers, values.reshape(-1).view(torch.uint8))
    return flat.view(values.dtype).view(values.shape)


def _in_pieces(workers: Workers, flat: Tensor) -> Tensor:
    """Return the main process's bytes, sent in pieces that fit beside a model on a device."""
    return torch.cat([_sent(piece.to(workers.device)).cpu() for piece in flat.split(PIECE)])


def _sent(values: Tensor) -> Tensor:
    from accelerate.utils import broadcast

    return broadcast(values)
