"""Find the latent frames that a pipeline takes from a given picture, and not from its loop.

Image-to-video pipelines may overwrite such a frame with the picture's latents before
decoding. Then no pixel depends on what the loop made of the frame, and the network's
prediction for it is not used. So vidrl's latents leave these frames out: noise,
log-density, ratio and credit are of the free frames alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidrl.data.prompt import is_file

from ._latent_layout import Layout
from ._row_independence import inverted
from ._runner import Row, Runner, is_film
from ._stand_ins import DecodeHook

Pictures = frozenset[tuple[str, int]]  # the references of a row that are pictures, and how many


LATE = 0.01  # a time near the end, where a frame that is held in all steps is still held


def pictures_of_row(runner: Runner, row: int) -> Pictures:
    """Return the names and numbers of the pictures of a row, those of the call included.

    Rows with the same pictures have the same conditioned frames.
    """
    references = {**runner.call, **runner.table[row].references}
    return frozenset(
        (name, len(value) if isinstance(value, list) else 1)
        for name, value in references.items()
        if is_file(name) and value is not None
    )


def free_layout(runner: Runner, layout: Any, row: int, decode_hook: DecodeHook | None) -> Any:
    """Return the layout without the latent frames that the pictures of a row set."""
    runner.lists_films = _reads_first_picture_alone(runner, layout, row)
    found = find_frames(runner, layout, row, decode_hook)
    return layout.without_frames(found) if isinstance(layout, Layout) else layout


@torch.no_grad()
def _reads_first_picture_alone(runner: Runner, layout: Any, row: int) -> bool:
    """Return whether the later pictures of a row's film change nothing that the networks receive.

    A call that takes a list of films reads the pictures of one film as films of one picture
    each, and may leave out all but the first one.
    """
    references = {**runner.call, **runner.table[row].references}
    films = {name: film for name, film in references.items() if is_film(film) and len(film) > 1}
    if not films or not isinstance(layout, Layout):
        return False
    changed = {name: [film[0], *inverted(film[1:])] for name, film in films.items()}
    own = runner.table[row]
    runner.table.append(Row(own.prompt, {**own.references, **changed}))
    x = layout.to_pipeline(torch.zeros(1, *layout.shape, device=runner.encoder_cache.device()))
    one, other = (
        runner.dry_iteration([each], x, runner.probe.grid[0])
        for each in (row, len(runner.table) - 1)
    )
    return one.same_inputs(other)


def find_frames(
    runner: Runner, layout: Any, row: int, decode_hook: DecodeHook | None
) -> tuple[int, ...]:
    """Return the numbers of the conditioned latent frames of a row; `layout` has all frames.

    Each latent frame is changed in turn, and is conditioned if the decoder's input stays
    the same. The result is empty for a pipeline that decodes a clip in several pieces, and
    for one whose decoder's input depends on no frame.
    """
    # A layout of another class holds sound as well; its given frames are not searched for.
    is_video_alone = isinstance(layout, Layout)
    if (
        not is_video_alone
        or decode_hook is None
        or layout.length < 2
        or not pictures_of_row(runner, row)
    ):
        return ()
    zero = torch.zeros(1, *layout.shape, device=runner.encoder_cache.device())
    at_zero, held = _held(runner, layout, row, decode_hook, runner.probe.grid[-2])
    # Fewer numbers: the decoder is called for pieces of the clip.
    if at_zero.numel() < zero.numel():
        return ()
    for time in (runner.probe.grid[0], LATE):
        if not torch.equal(_held(runner, layout, row, decode_hook, time)[1], held):
            raise runner.refusal(
                "it holds the given frames in some steps and denoises them in others",
                "set call.strength = 1, if the pipeline takes it",
            )
    if not bool(held.any()):  # the pictures give no frame
        return ()
    found = []
    for k in range(layout.length):
        changed = zero.index_fill(2, torch.tensor([k], device=zero.device), 1.0)
        if torch.equal(_decoder_input(runner, layout, row, decode_hook, changed), at_zero):
            found.append(k)
    return tuple(found) if len(found) < layout.length else ()


def _held(
    runner: Runner, layout: Layout, row: int, decode_hook: DecodeHook, time: float
) -> tuple[Tensor, Tensor]:
    """Return the decoder's input for zeros, and which of its numbers no latent changes."""
    zero = torch.zeros(1, *layout.shape, device=runner.encoder_cache.device())
    at_zero, at_one = (
        _decoder_input(runner, layout, row, decode_hook, x, time) for x in (zero, zero + 1)
    )
    return at_zero, at_zero == at_one


@torch.no_grad()
def _decoder_input(
    runner: Runner,
    layout: Layout,
    row: int,
    decode_hook: DecodeHook,
    latents: Tensor,
    time: float | None = None,
) -> Any:
    """Return the first input of the autoencoder's decoder for the latents of one clip.

    `time`: that of the step before the decoder, None for the schedule's last one.
    """
    # with `exits`, the hook ends the run at the decoder and returns the decoder's input
    decode_hook.exits = True
    try:
        return runner.pixels([row], layout.to_pipeline(latents), time=time)
    finally:
        decode_hook.exits = False


def check(runner: Runner, layout: Any, row: int, decode_hook: DecodeHook | None) -> None:
    """Raise ValueError if the pictures of a row set other frames than `layout` leaves out."""
    if not isinstance(layout, Layout):
        return
    expected = layout.conditioned
    found = find_frames(runner, layout.with_all_frames(), row, decode_hook)
    if found != expected:
        raise ValueError(
            f"expected pictures that give {_frame_list(expected)}, as they do without a prompt, "
            f"got {runner.table[row].prompt[:60]!r}, whose pictures give {_frame_list(found)}: "
            "bring pictures of the same names with every prompt, and name one of each in "
            "backbone.options.call"
        )


def _frame_list(found: tuple[int, ...]) -> str:
    """Return the frame numbers as text."""
    return f"latent frames {', '.join(map(str, found))}" if found else "no latent frame"
