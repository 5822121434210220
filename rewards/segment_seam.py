"""A reward that finds seams between the segments of a long video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from ._flow.fast_pans import motion_with_pans, warp_difference
from .base import About, Card, Reward, Samples

CELLS = 4  # motion is compared in a grid of 4 x 4 cells


class SegmentSeam(Reward):
    """Minus how much more the picture changes where segments meet; 0 means no seam.

    The value is -(the mean over borders of max(0, ln (a / a') - slack) + weight max(0, ln
    (m / m') - slack)), in [-20, 0]. a is the mean |difference| that the flow leaves between
    the two frames at the border. m is the jump of motion there, in diagonals a frame over 4
    x 4 cells: the larger of |f - (f_before + f_after) / 2| and |f_after - f_before| / 2,
    where f is the flow at the border. a' and m' are the medians of the same numbers inside
    the two segments that meet. `floors` are added to a, a' and to m, m', so that changes
    too small to see do not count.

    One of these options says where segments meet:

    - `borders`: the first frame of each segment.
    - `every`: a segment has so many frames.
    - `latents`: a segment has so many latent frames; or `segments`: the clip has so many
      segments, as even as `vidrl.diffusion.segments` cuts. Both assume an autoencoder like
      Wan's, which decodes latent frame 0 to frame 0 and latent frame k to frames 4 k - 3 to
      4 k.

    A clip whose `meta` has an entry "borders" uses that entry. A clip without a border
    inside is inapplicable. A term compares two neighbouring frames and is credited to both;
    it is 0 except at borders. Raises ValueError unless at most one of the options is given,
    with numbers above 0.

    >>> SegmentSeam(latents=2).places(13)  # latents 0 1 | 2 3: frames 0 to 4, 5 to 12
    [5]
    >>> SegmentSeam(segments=3).places(13), SegmentSeam(every=4).places(13)
    ([5, 9], [4, 8, 12])
    """

    needs = ("cv2",)
    lowered_by = ("cut",)
    range = (-20.0, 0.0)
    time_support = "pair"
    lookahead = 1
    shrinks = True
    lost = "inapplicable: no border between segments in the clip"
    card = Card(
        sees="Jumps of light, colour, content and motion exactly where segments meet, compared "
        "with the inside of the two segments.",
        blind_to="Seams at other places than the given borders; drift that continues all the time; "
        "a seam in a clip that is as rough inside.",
        hacks="Flicker, noise or cuts inside the segments, which make seams look usual; "
        "freezing the whole clip.",
        input="Borders inside the clip, and segments of 3 frames or more. A jump is clearer at "
        "a higher frame rate: compare clips of one rate.",
        cost="1 ms a frame of 96 x 171, and 5 ms for the flow at that size.",
    )

    def __init__(
        self,
        every: int = 0,
        segments: int = 0,
        latents: int = 0,
        borders: Sequence[int] = (),
        weight: float = 0.5,
        slack: float = 0.4,
        floors: tuple[float, float] = (0.004, 0.003),
        flow: str = "auto",
        flow_size: int = 96,
    ) -> None:
        super().__init__()
        given = [number for number in (every, segments, latents, *borders) if number]
        options = sum(map(bool, (every, segments, latents, borders)))
        if any(number < 0 for number in given) or options > 1:
            got = f"every={every}, segments={segments}, latents={latents}, borders={tuple(borders)}"
            raise ValueError(
                f"expected one of every, segments, latents and borders, in numbers above 0, "
                f"got {got}"
            )
        self.every = every if given else 16
        self.segments, self.latents = segments, latents
        self.borders = tuple(borders)
        self.weight, self.slack = weight, slack
        self.floors = floors
        self.flow, self.flow_size = flow, flow_size

    @classmethod
    def tiny(cls) -> SegmentSeam:
        """Return the reward for segments of 8 frames, which suit short clips."""
        return cls(every=8)

    def places(self, frames: int) -> list[int]:
        """Return the first frames of all segments but the first, in a clip of `frames`."""
        if self.borders:
            found = sorted(set(self.borders))
        elif self.segments or self.latents:
            # latent frame k >= 1 begins at frame 4 k - 3, as Wan's autoencoder decodes
            found = [4 * k - 3 for k in self._latent_borders((frames + 2) // 4 + 1)]
        else:
            found = list(range(self.every, frames, self.every))
        return [b for b in found if 0 < b < frames]

    def features(self, samples: Samples) -> Tensor:
        """Return what the flow leaves of each pair, and its flow, (B, F - 1, 33).

        The first number is the mean |difference|; the other 32 are the flow (x, y) of 4 x 4
        cells in diagonals.
        """
        motion = motion_with_pans(self, samples)
        frames = motion.frames.detach()
        left = warp_difference(frames[:, :-1], frames[:, 1:], motion.forward).clamp(max=1)
        cells = (
            adaptive_avg_pool2d(motion.forward.flatten(0, 1), CELLS).flatten(1) / motion.diagonal
        )
        return torch.cat([left[..., None], cells.unflatten(0, left.shape)], 2)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return minus the seam at each border, 0 at the other pairs, (B, F - 1).

        The terms are scaled so that their mean over all pairs is the mean over the borders.
        """
        appearance, motion = features[..., 0], jumps(features[..., 1:])
        rows = []
        for i in range(len(features)):
            places = self._of(i, features.shape[1] + 1, about.meta)
            rows.append(self._clip(appearance[i], motion[i], places))
        return torch.stack(rows)

    def _clip(self, appearance: Tensor, motion: Tensor, places: list[int]) -> Tensor:
        """Return the terms of one clip, (F - 1,)."""
        if not places:
            return torch.full_like(appearance, torch.nan)
        terms, edges = torch.zeros_like(appearance), [0, *places, len(appearance) + 1]
        for before, at, after in zip(edges, edges[1:], edges[2:], strict=False):
            inside = [t for t in range(before, after - 1) if t != at - 1]
            # motion is compared with the pairs before and after, so pairs near a border also
            # see its jump: only pairs deeper inside count as inside
            deep = [t for t in inside if before + 1 <= t < after - 2 and abs(t - at + 1) > 1]
            seam = self._excess(appearance, at - 1, inside, self.floors[0])
            terms[at - 1] = -seam - self.weight * self._excess(motion, at - 1, deep, self.floors[1])
        return terms * len(terms) / len(places)

    def _excess(self, curve: Tensor, at: int, inside: list[int], floor: float) -> Tensor:
        """Return how much the curve at a border exceeds its median inside, at least 0.

        The unit is the natural logarithm, less the slack. Without an inside, the result is
        0.
        """
        if not inside:
            return curve.new_zeros(())
        return (((curve[at] + floor) / (curve[inside].median() + floor)).log() - self.slack).clamp(
            min=0
        )

    def _of(self, row: int, frames: int, meta: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the borders of one clip: those in its `meta`, or those of the options."""
        own = meta[row].get("borders") if len(meta) else None
        return (
            self.places(frames)
            if own is None
            else [int(b) for b in sorted(set(own)) if 0 < b < frames]
        )

    def _latent_borders(self, latent: int) -> list[int]:
        """Return the first latent frames of all segments but the first."""
        if self.latents:
            return list(range(self.latents, latent, self.latents))
        count = min(self.segments, latent)
        sizes = [latent // count + (j < latent % count) for j in range(count)]
        return torch.tensor(sizes).cumsum(0).tolist()[:-1]


def jumps(flow: Tensor) -> Tensor:
    """Return how much each flow departs from its neighbours in time, (B, T).

    The flows are (B, T, N). The result is the larger of the distance from the neighbours'
    mean and half the distance between the neighbours.

    >>> jumps(torch.tensor([0.0, 0.0, 4.0, 4.0]).view(1, 4, 1).expand(1, 4, 2) / 2**0.5).round()
    tensor([[0., 2., 2., 0.]])
    """
    cells = flow.unflatten(2, (2, -1))
    # `pad` replicates along the last axis only, so time goes there and back
    padded = pad(cells.flatten(2).mT, (1, 1), mode="replicate").mT.unflatten(2, cells.shape[2:])
    before, after = padded[:, :-2], padded[:, 2:]
    departure = torch.maximum(
        (cells - (before + after) / 2).norm(dim=2), (after - before).norm(dim=2) / 2
    )
    return departure.mean(2)
