"""Seams where the segments of a long video meet: a jump of appearance or of motion that the
inside does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from ._flow.swift import swift, unlike
from .base import About, Card, Reward, Samples

CELLS = 4


class SegmentSeam(Reward):
    """How much more the picture changes where segments meet than inside of them; 0 is no
    seam.

    -mean over borders of (ln (a / a') - slack)+ + weight (ln (m / m') - slack)+. a is what
    the flow leaves between the two frames at the border, mean |difference|; m the jump of
    motion there, the flow over 4 x 4 cells against that of its neighbours, diagonals a
    frame: the larger of |f - (f_before + f_after) / 2| and |f_after - f_before| / 2. a' and
    m' are their medians inside the two segments that meet; `floors` are added to a, a' and
    to m, m', so that less than is seen does not count.

    Where segments meet: `borders`, the first frames of segments; or `every` so many frames;
    or `latents` latent frames a segment, or `segments` of them, as even as
    `vidrl.diffusion.segments` cuts, for an autoencoder that, as Wan's, decodes latent 0 to
    frame 0 and latent k to frames 4 k - 3 to 4 k. A clip whose `meta` has "borders" has
    those. A clip without a border in it is inapplicable. A term is a pair of frames, 0 but
    at borders, credited to both. Raises ValueError unless at most one way is given, in
    numbers above 0.

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
        sees="Jumps of light, colour, content and motion exactly where segments meet, against the inside of the two.",
        blind_to="Seams elsewhere than it is told; drift that goes on all the time; a seam in a clip as rough inside.",
        hacks="Flicker, noise or cuts inside the segments, which make the seams usual; freezing all of it.",
        input="Borders inside the clip, and segments of 3 frames or more. A jump stands out more at a higher frame "
        "rate: compare clips of one rate.",
        cost="1 ms a frame of 96 x 171, and 5 ms for the flow of its own at that size.",
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
        flow: str = "dis",
        flow_size: int = 96,
    ) -> None:
        super().__init__()
        given = [way for way in (every, segments, latents, *borders) if way]
        if any(way < 0 for way in given) or sum(map(bool, (every, segments, latents, borders))) > 1:
            got = f"every={every}, segments={segments}, latents={latents}, borders={tuple(borders)}"
            raise ValueError(
                f"expected one of every, segments, latents and borders, in numbers above 0, got {got}"
            )
        self.every = every if given else 16
        self.segments, self.latents = segments, latents
        self.borders = tuple(borders)
        self.weight, self.slack = weight, slack
        self.floors = floors
        self.flow, self.flow_size = flow, flow_size

    @classmethod
    def tiny(cls) -> SegmentSeam:
        """With segments of 8 frames, for short clips."""
        return cls(every=8)

    def places(self, frames: int) -> list[int]:
        """The first frames of all segments but the first, in a clip of `frames`."""
        if self.borders:
            found = sorted(set(self.borders))
        elif self.segments or self.latents:
            found = [4 * k - 3 for k in self._latent_borders((frames + 2) // 4 + 1)]
        else:
            found = list(range(self.every, frames, self.every))
        return [b for b in found if 0 < b < frames]

    def features(self, samples: Samples) -> Tensor:
        """Of each pair what the flow leaves, and the flow in cells, in diagonals, (B, F -
        1, 33)."""
        motion = swift(self, samples)
        frames = motion.frames.detach()
        left = unlike(frames[:, :-1], frames[:, 1:], motion.forward).clamp(max=1)
        cells = (
            adaptive_avg_pool2d(motion.forward.flatten(0, 1), CELLS).flatten(1) / motion.diagonal
        )
        return torch.cat([left[..., None], cells.unflatten(0, left.shape)], 2)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Minus the seam at each border, so weighted that the mean over all pairs is that
        over borders, (B, F - 1)."""
        appearance, motion = features[..., 0], jumps(features[..., 1:])
        rows = []
        for i in range(len(features)):
            places = self._of(i, features.shape[1] + 1, about.meta)
            rows.append(self._clip(appearance[i], motion[i], places))
        return torch.stack(rows)

    def _clip(self, appearance: Tensor, motion: Tensor, places: list[int]) -> Tensor:
        if not places:
            return torch.full_like(appearance, torch.nan)
        terms, edges = torch.zeros_like(appearance), [0, *places, len(appearance) + 1]
        for before, at, after in zip(edges, edges[1:], edges[2:], strict=False):
            inside = [t for t in range(before, after - 1) if t != at - 1]
            deep = [t for t in inside if before + 1 <= t < after - 2 and abs(t - at + 1) > 1]
            seam = self._excess(appearance, at - 1, inside, self.floors[0])
            terms[at - 1] = -seam - self.weight * self._excess(motion, at - 1, deep, self.floors[1])
        return terms * len(terms) / len(places)

    def _excess(self, curve: Tensor, at: int, inside: list[int], floor: float) -> Tensor:
        """(ln (curve at the border / its median inside) - slack)+, 0 where there is no
        inside."""
        if not inside:
            return curve.new_zeros(())
        return (((curve[at] + floor) / (curve[inside].median() + floor)).log() - self.slack).clamp(
            min=0
        )

    def _of(self, row: int, frames: int, meta: Sequence[Mapping[str, Any]]) -> list[int]:
        own = meta[row].get("borders") if len(meta) else None
        return (
            self.places(frames)
            if own is None
            else [int(b) for b in sorted(set(own)) if 0 < b < frames]
        )

    def _latent_borders(self, latent: int) -> list[int]:
        """The first latent frames of all segments but the first."""
        if self.latents:
            return list(range(self.latents, latent, self.latents))
        count = min(self.segments, latent)
        sizes = [latent // count + (j < latent % count) for j in range(count)]
        return torch.tensor(sizes).cumsum(0).tolist()[:-1]


def jumps(flow: Tensor) -> Tensor:
    """By how much each flow departs from its neighbours in time, or they from each other,
    (B, T, N) to (B, T).

    >>> jumps(torch.tensor([0.0, 0.0, 4.0, 4.0]).view(1, 4, 1).expand(1, 4, 2) / 2**0.5).round()
    tensor([[0., 2., 2., 0.]])
    """
    cells = flow.unflatten(2, (2, -1))
    flat = pad(cells.flatten(2).mT, (1, 1), mode="replicate").mT.unflatten(2, cells.shape[2:])
    before, middle, after = flat[:, :-2], flat[:, 1:-1], flat[:, 2:]
    apart = torch.maximum(
        (middle - (before + after) / 2).norm(dim=2), (after - before).norm(dim=2) / 2
    )
    return apart.mean(2)
