"""What a turn of a pipeline's loop steps: one latents, or several that are denoised
together.

A pipeline that denoises sound beside video copies its scheduler, and each copy steps
latents of its own. The schedulers of a run are known by number: 0 is the pipeline's, n its
n-th copy. Between the drive and the rest of vidrl several latents are joined, as rows of
numbers.

Legend: B batch, E all numbers of one clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._stand_ins import RunExit

if TYPE_CHECKING:
    from ._runner import Runner


class LatentParts:
    """Joins the latents of several schedulers, and cuts them apart.

    `sizes`: how many numbers one clip has in the latents of each scheduler.

    Example:
        >>> parts, sound = Parts({0: 4, 1: 2}), torch.tensor([[5.0, 6.0]])
        >>> rows = parts.joined({0: torch.ones(1, 2, 2), 1: sound}, 1)
        >>> rows, parts.part(rows, sound, 1)
        (tensor([[1., 1., 1., 1., 5., 6.]]), tensor([[5., 6.]]))
    """

    def __init__(self, sizes: Mapping[int, int]):
        self.sizes = dict(sorted(sizes.items()))

    def joined(self, latent_parts: Mapping[int, Tensor], rows: int) -> Tensor:
        """Latents of so many rows as (B, E); those of one scheduler as they are."""
        if len(self.sizes) == 1:
            return latent_parts[0]
        return torch.cat([latent_parts[number].reshape(rows, -1) for number in self.sizes], 1)

    def part(self, joined: Tensor, like: Tensor, number: int) -> Tensor:
        """The latents of one scheduler in the shape of `like`; `like` itself if none are
        joined."""
        if number not in self.sizes:
            return like
        if len(self.sizes) == 1:
            return joined
        start = sum(size for other, size in self.sizes.items() if other < number)
        return joined[:, start : start + self.sizes[number]].reshape(like.shape)


def needs_first_iteration(runner: Runner, row: int) -> bool:
    """Whether the last turn needs what the first turn made, so that it cannot be reached
    alone."""

    def leave(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
        raise RunExit

    try:
        runner.run([row], runner.probe.grid[-2], leave, 1, {})
    except UnboundLocalError:
        return True
    return False


def latent_parts(runner: Runner, row: int) -> LatentParts:
    """The latents that are denoised together.

    What a scheduler returned must come back to it in the next turn. Latents that do not are
    never stepped: they stay as the pipeline drew them, and are no part of what a policy
    makes. A whole turn is run, so that the step of a scheduler that is no probe is met, and
    refused.
    """
    initial_latents_by_scheduler = runner.initial_latents_by_scheduler(row)
    returned, received = dict[int, Tensor](), dict[int, Tensor]()

    def visit(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
        if number not in returned:
            returned[number] = sample + 1
            return returned[number]
        received[number] = sample
        if len(received) == len(returned):
            raise RunExit
        return sample

    runner.run([row], runner.probe.grid[0], visit, 2, {})
    _check_times(runner, received)
    found = [n for n, sample in received.items() if n == 0 or torch.equal(sample, returned[n])]
    return LatentParts({number: initial_latents_by_scheduler[number].numel() for number in found})


def _check_times(runner: Runner, stepped: Mapping[int, Tensor]) -> None:
    times = [
        each.schedule_times()
        for each in (runner.probe, *runner.probe.copies)
        if each.number in stepped
    ]
    if any(each != times[0] for each in times):
        raise runner.refusal("what it denoises together is at several times at once")
