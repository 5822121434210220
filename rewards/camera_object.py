"""A reward that measures how fast things move, or how fast the camera moves."""

from __future__ import annotations

import torch
from torch import Tensor

from ._flow.camera import NAMES
from ._flow.coarse import coarse_motion
from ._flow.things import Split, camera_speed, object_speed, shared_split
from .base import About, Card, Reward, Samples, Score, curve_of_terms, interleave, score_of_curves

PARTS = ("object", "camera", *NAMES)


class CameraObject(Reward):
    """How fast things move relative to the camera, or how fast the camera moves.

    The unit is picture diagonals a second.

    From the flow of each pair of frames, the similarity u(p) = s + (exp(z + i r) - 1) p
    (shift s, zoom z, roll r) that fits most of the background is removed. RANSAC and then
    iteratively reweighted least squares find the similarity. The rest is the motion of
    things.

    Let f and b be the remaining flows from the middle of three frames to the next and to
    the previous frame. The lasting speed of a pixel is (|f - b| - |f + b|) / 2, which is 0
    for a thing that shakes around one place. The speed of things is the mean lasting speed
    of the fastest 5 % of the picture. The speed of the camera is the mean over the picture
    of the similarity's lasting speed.

    `what` chooses the value, "object" or "camera". The value is cut at `most`, so that more
    speed than that is not rewarded. A term reads three frames and is credited to the middle
    frame.

    For whole clips, `Score.parts` holds both speeds, and the camera's pan to the right and
    tilt up (diagonals a second), zoom in (natural log of the scale a second) and roll
    clockwise (radians a second). Where the background has no texture, the camera's motion
    cannot be measured, and the camera counts as still.

    Raises ValueError for another `what`, or for a `most` that is not positive.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32)
    >>> score = CameraObject()(Samples(still, [""], 8.0))
    >>> score.value.item(), score.parts["pan"].value.item() + 0
    (0.0, 0.0)
    """

    needs = ("cv2",)
    lowered_by = ("freeze", "duplicate", "grey")
    range = (0.0, 1.0)
    time_support = "pair"
    lookahead = 2
    rate = 8.0
    shrinks = True
    card = Card(
        sees="The lasting speed of things once the camera's shift, zoom and roll are removed, "
        "or the speed of the camera.",
        blind_to="Direction, and whether motion is wanted (motion_target measures both). Parallax "
        "counts as the motion of things. A camera that moves over a background without "
        "texture, or along stripes, is not seen, nor are things smaller than a few "
        "hundredths of the picture.",
        hacks='With "object": anything that moves fast, a background that warps too, and blur, '
        'which spreads motion over more pixels. With "camera": a still picture that '
        "slides.",
        input="At least 3 frames of 8 pixels.",
        cost="3 ms a frame of 192 x 341 on one thread, and 25 ms for the flow.",
    )

    def __init__(
        self, what: str = "object", most: float = 1.0, flow: str = "auto", flow_size: int = 192
    ) -> None:
        super().__init__()
        if what not in PARTS[:2]:
            raise ValueError(f"expected what to be object or camera, got {what!r}")
        if not most > 0:
            raise ValueError(f"expected most, diagonals a second, to be positive, got {most}")
        self.what, self.most = what, most
        self.flow, self.flow_size = flow, flow_size

    def features(self, samples: Samples) -> Tensor:
        """Return the six quantities of PARTS, each per second, (B, F - 2, 6)."""
        found = self._split(samples)
        height, width = found.ink.shape[-2:]
        alone = object_speed(found) / (height**2 + width**2) ** 0.5
        speeds = torch.stack([alone, camera_speed(found)], -1)
        return torch.cat([speeds, found.numbers], -1) * samples.fps

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the chosen speed, cut at `most`, (B, F - 2)."""
        return features[..., PARTS.index(self.what)].clamp(max=self.most)

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips; `Score.parts` holds all six quantities."""
        score = super().forward(samples)
        rows = [i for i, reason in enumerate(score.why) if reason is None]
        if rows:
            chosen = samples.pick(rows)
            phases = chosen.phases(self.stride(samples.fps, samples.video.shape[1]))
            curves = interleave(
                [
                    torch.stack([curve_of_terms(x, 2) for x in self.features(p).unbind(-1)], 2)
                    for p in phases
                ]
            )
            named = zip(PARTS, curves.unbind(2), strict=True)
            score.parts = {
                name: score_of_curves(curve, self.time_support, list(score.why), rows)
                for name, curve in named
            }
            score.weights = {name: float(name == self.what) for name in PARTS}
            # the value does not change with a speed that is above `most`, so its slope is 0 there
            below = (score.parts[self.what].value < self.most).to(score.value)
            score.slopes = {name: w * below for name, w in score.weights.items()}
        return score

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """Return `object`, each pixel's lasting speed relative to the camera.

        The unit is diagonals a second. The first and the last frame have NaN, because a
        term needs the frames before and after.
        """
        if samples.video.shape[1] < 3:
            return {}
        found = self._split(samples)
        height, width = found.ink.shape[-2:]
        drawn = found.lasting * samples.fps / (height**2 + width**2) ** 0.5
        return {"object": torch.nn.functional.pad(drawn, (0, 0, 0, 0, 1, 1), value=torch.nan)}

    def _split(self, samples: Samples) -> Split:
        return shared_split(
            samples, coarse_motion(self, samples), (self.flow_method(samples), self.flow_size)
        )
