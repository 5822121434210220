"""Find which latents one iteration of a pipeline's loop steps: one, or several together.

A pipeline that denoises sound beside video copies its scheduler, and each copy steps its
own latents. The schedulers of a run have numbers: 0 is the pipeline's own, n its n-th copy.
Outside the runner several latents are joined to rows of numbers.

Legend: B batch, E all numbers of one clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ._scheduler_probe import Probe, Visit
from ._stand_ins import RunExit


class LoopRunner(Protocol):
    """What this module reads of a `Runner`, whose module imports this module."""

    probe: Probe

    def run(
        self,
        rows: Sequence[int],
        time: float | None,
        visit: Visit,
        iterations: int,
        call: Mapping[str, Any],
    ) -> Any:
        """Run the pipeline's call once; see `Runner.run`."""
        ...

    def initial_latents_by_scheduler(self, row: int) -> dict[int, Tensor]:
        """Return the latents with which the loop begins, by the number of the scheduler."""
        ...

    def refusal(self, reason: str) -> ValueError:
        """Build the ValueError for a pipeline that cannot be driven."""
        ...


class LatentParts:
    """The latents of several schedulers, which it joins to one tensor and splits again.

    `sizes`: the number of elements of one clip in the latents of each scheduler.

    Example:
        >>> parts, sound = LatentParts({0: 4, 1: 2}), torch.tensor([[5.0, 6.0]])
        >>> rows = parts.joined({0: torch.ones(1, 2, 2), 1: sound}, 1)
        >>> rows, parts.part(rows, sound, 1)
        (tensor([[1., 1., 1., 1., 5., 6.]]), tensor([[5., 6.]]))
    """

    def __init__(self, sizes: Mapping[int, int]):
        self.sizes = dict(sorted(sizes.items()))

    def joined(self, latent_parts: Mapping[int, Tensor], rows: int) -> Tensor:
        """Join the latents of `rows` rows to (B, E); those of a single scheduler stay unchanged."""
        if len(self.sizes) == 1:
            return latent_parts[0]
        return torch.cat([latent_parts[number].reshape(rows, -1) for number in self.sizes], 1)

    def part(self, joined: Tensor, like: Tensor, number: int) -> Tensor:
        """Return one scheduler's latents in the shape of `like`; `like` if they are not joined."""
        if number not in self.sizes:
            return like
        if len(self.sizes) == 1:
            return joined
        start = sum(size for other, size in self.sizes.items() if other < number)
        return joined[:, start : start + self.sizes[number]].reshape(like.shape)


def needs_first_iteration(runner: LoopRunner, row: int) -> bool:
    """Return whether the last iteration reads variables that only the first iteration sets.

    Then Python raises UnboundLocalError when the last iteration runs alone.
    """

    def leave(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
        raise RunExit

    try:
        runner.run([row], runner.probe.grid[-2], leave, 1, {})
    except UnboundLocalError:
        return True
    return False


def latent_parts(runner: LoopRunner, row: int) -> LatentParts:
    """Return the latents that a pipeline denoises together.

    Latents count only if what their scheduler returned comes back to it in the next
    iteration. Other latents are never stepped: they stay as the pipeline drew them, and a
    policy does not generate them. The second iteration runs to its end, so that the step of
    a scheduler that is not intercepted is met and refused.
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


def _check_times(runner: LoopRunner, stepped: Mapping[int, Tensor]) -> None:
    """Raise ValueError if the latents are at several times at once."""
    times = [
        each.schedule_times()
        for each in (runner.probe, *runner.probe.copies)
        if each.number in stepped
    ]
    if any(each != times[0] for each in times):
        raise runner.refusal("what it denoises together is at several times at once")
