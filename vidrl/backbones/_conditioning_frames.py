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

from ._latent_layout import Layout
from ._runner import Runner
from ._stand_ins import DecodeHook

Pictures = frozenset[tuple[str, int]]  # the references of a row that are pictures, and how many


def pictures_of_row(runner: Runner, row: int) -> Pictures:
    """The pictures that a row brings, or the call for all rows; rows of one kind have the
    same given frames."""
    known = {**runner.call, **runner.table[row].references}
    return frozenset(
        (name, len(value) if isinstance(value, list) else 1)
        for name, value in known.items()
        if is_file(name) and value is not None
    )


def find_frames(
    runner: Runner, layout: Any, row: int, decode_hook: DecodeHook | None
) -> tuple[int, ...]:
    """The numbers of the latent frames that are given in a row; `layout` is that of all
    frames.

    None of them is found in a pipeline that decodes a clip in several pieces, or that gives
    all.
    """
    is_video_alone = isinstance(
        layout, Layout
    )  # latents of sound beside it are looked at by nobody
    if (
        not is_video_alone
        or decode_hook is None
        or layout.length < 2
        or not pictures_of_row(runner, row)
    ):
        return ()
    zero = torch.zeros(1, *layout.shape, device=runner.encoder_cache.device())
    at_zero = _decoder_input(runner, layout, row, decode_hook, zero)
    at_one = _decoder_input(runner, layout, row, decode_hook, zero + 1)
    if at_zero.numel() < zero.numel() or bool((at_one != at_zero).all()):
        return ()
    found = []
    for k in range(layout.length):
        changed = zero.index_fill(2, torch.tensor([k], device=zero.device), 1.0)
        if torch.equal(_decoder_input(runner, layout, row, decode_hook, changed), at_zero):
            found.append(k)
    return tuple(found) if len(found) < layout.length else ()


@torch.no_grad()
def _decoder_input(
    runner: Runner, layout: Layout, row: int, decode_hook: DecodeHook, latents: Tensor
) -> Any:
    """What reaches the autoencoder first of the latents of one clip."""
    decode_hook.exits = True
    try:
        return runner.pixels([row], layout.to_pipeline(latents))
    finally:
        decode_hook.exits = False


def check(runner: Runner, layout: Any, row: int, decode_hook: DecodeHook | None) -> None:
    """Raise ValueError where other frames are given in a row than `layout` leaves out."""
    if not isinstance(layout, Layout):
        return
    found, known = (
        find_frames(runner, layout.with_all_frames(), row, decode_hook),
        layout.conditioned,
    )
    if found != known:
        raise ValueError(
            f"expected pictures that give {_frame_list(known)}, as they do without a prompt, got "
            f"{runner.table[row].prompt[:60]!r}, whose pictures give {_frame_list(found)}: bring pictures of "
            "the same names with every prompt, and name one of each in backbone.options.call"
        )


def _frame_list(found: tuple[int, ...]) -> str:
    return f"latent frames {', '.join(map(str, found))}" if found else "no latent frame"
