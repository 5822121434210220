"""Latent frames that a pipeline takes from a given picture, and not from its loop.

Whatever a step makes of such a frame, the picture's latents stand there when the clip is
decoded. So its latents are not the policy's: no pixel depends on them, and what the network
says of them is not seen. vidrl's latents leave them out, so that noise, log-density, ratio
and credit are of the free frames alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidrl.data.prompt import is_file

from ._drive import Drive
from ._layout import Layout
from ._switch import Decoding

Kind = frozenset[tuple[str, int]]  # the references of a row that are pictures, and how many


def kind(drive: Drive, row: int) -> Kind:
    """The pictures that a row brings, or the call for all rows; rows of one kind have the
    same given frames."""
    known = {**drive.call, **drive.table[row].references}
    return frozenset(
        (name, len(value) if isinstance(value, list) else 1)
        for name, value in known.items()
        if is_file(name) and value is not None
    )


def frames(drive: Drive, layout: Any, row: int, decoding: Decoding | None) -> tuple[int, ...]:
    """The numbers of the latent frames that are given in a row; `layout` is that of all
    frames.

    None of them is found in a pipeline that decodes a clip in several pieces, or that gives
    all.
    """
    alone = isinstance(layout, Layout)  # latents of sound beside it are looked at by nobody
    if not alone or decoding is None or layout.length < 2 or not kind(drive, row):
        return ()
    zero = torch.zeros(1, *layout.shape, device=drive.memory.device())
    still = _reached(drive, layout, row, decoding, zero)
    whole = _reached(drive, layout, row, decoding, zero + 1)
    if still.numel() < zero.numel() or bool((whole != still).all()):
        return ()
    found = []
    for k in range(layout.length):
        moved = zero.index_fill(2, torch.tensor([k], device=zero.device), 1.0)
        if torch.equal(_reached(drive, layout, row, decoding, moved), still):
            found.append(k)
    return tuple(found) if len(found) < layout.length else ()


@torch.no_grad()
def _reached(drive: Drive, layout: Layout, row: int, decoding: Decoding, latents: Tensor) -> Any:
    """What reaches the autoencoder first of the latents of one clip."""
    decoding.leaves = True
    try:
        return drive.pixels([row], layout.theirs(latents))
    finally:
        decoding.leaves = False


def check(drive: Drive, layout: Any, row: int, decoding: Decoding | None) -> None:
    """Raise ValueError where other frames are given in a row than `layout` leaves out."""
    if not isinstance(layout, Layout):
        return
    found, known = frames(drive, layout.whole(), row, decoding), layout.given
    if found != known:
        raise ValueError(
            f"expected pictures that give {_told(known)}, as they do without a prompt, got "
            f"{drive.table[row].prompt[:60]!r}, whose pictures give {_told(found)}: bring pictures of "
            "the same names with every prompt, and name one of each in backbone.options.call"
        )


def _told(found: tuple[int, ...]) -> str:
    return f"latent frames {', '.join(map(str, found))}" if found else "no latent frame"
