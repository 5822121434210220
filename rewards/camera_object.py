"""How fast things move, and how fast the camera does, told apart."""

from __future__ import annotations

import torch
from torch import Tensor

from ._flow.camera import NAMES, Split, camera_speed, object_speed, shared_split
from ._flow.coarse import coarse_motion
from .base import About, Card, Reward, Samples, Score, finish, interleave, spread

PARTS = ("object", "camera", *NAMES)


class CameraObject(Reward):
    """How fast things move beside the camera, or how fast the camera itself does, in
    diagonals a second.

    From each pair of frames the similarity u(p) = s + (exp(z + i r) - 1) p that most of the
    ground's flow obeys is taken out (RANSAC, then iteratively reweighted least squares);
    what is left is the motion of things. With f and b the flows so left over from the
    middle of three frames to the next and to the one before, the object's speed is that of
    the fastest 5 % of the picture, (|f - b| - |f + b|) / 2, which takes what shakes on the
    spot as still. The camera's is the mean over the picture of the similarity's speed.
    `what` says which of the two is the value, "object" or "camera", cut at `most` so that
    haste is not paid without end.

    `Score.parts`, on whole clips, has both, and the camera's pan to the right and tilt up
    (diagonals a second), zoom in (natural log of the scale a second) and roll clockwise
    (radians a second). Where the ground is plain nobody can tell the camera, and it is
    taken to rest. A term is three frames, credited to the middle one. Raises ValueError for
    another `what` or a `most` that is not positive.

    >>> score = CameraObject()(Samples(torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32), [""], 8.0))
    >>> score.value.item(), score.parts["pan"].value.item() + 0
    (0.0, 0.0)
    """

    needs = ("cv2",)
    lowered_by = ("freeze", "duplicate", "grey")
    range = (0.0, 1.0)
    support = "pair"
    reach = 2
    rate = 8.0
    shrinks = True
    card = Card(
        sees="The lasting speed of things once the camera's shift, zoom and roll are taken out, or that of the camera.",
        blind_to="Direction, and whether motion is wanted (motion_target knows); parallax, which counts as the motion "
        "of things; a camera over plain ground or along stripes; things smaller than a few hundredths of the picture.",
        hacks='"object": anything that moves fast, warping ground too, and blur, which spreads motion; "camera": '
        "sliding a still picture.",
        input="At least 3 frames of 8 pixels.",
        cost="3 ms a frame of 192 x 341 on one thread, beside the flow's 25 ms.",
    )

    def __init__(
        self, what: str = "object", most: float = 1.0, flow: str = "dis", flow_size: int = 192
    ) -> None:
        super().__init__()
        if what not in PARTS[:2]:
            raise ValueError(f"expected what to be object or camera, got {what!r}")
        if not most > 0:
            raise ValueError(f"expected most, diagonals a second, to be positive, got {most}")
        self.what, self.most, self.flow, self.flow_size = what, most, flow, flow_size

    def features(self, samples: Samples) -> Tensor:
        """The six numbers of PARTS a second, (B, F - 2, 6)."""
        found = self._split(samples)
        height, width = found.ink.shape[-2:]
        alone = object_speed(found) / (height**2 + width**2) ** 0.5
        speeds = torch.stack([alone, camera_speed(found)], -1)
        return torch.cat([speeds, found.numbers], -1) * samples.fps

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """The speed asked for, (B, F - 2)."""
        return features[..., PARTS.index(self.what)].clamp(max=self.most)

    def forward(self, samples: Samples) -> Score:
        """The score of whole clips; all that was measured is in `parts`."""
        score = super().forward(samples)
        rows = [i for i, reason in enumerate(score.why) if reason is None]
        if rows:
            chosen = samples.pick(rows)
            phases = chosen.phases(self.stride(samples.fps, samples.video.shape[1]))
            curves = interleave(
                [
                    torch.stack([spread(x, 2) for x in self.features(p).unbind(-1)], 2)
                    for p in phases
                ]
            )
            made = zip(PARTS, curves.unbind(2), strict=True)
            score.parts = {
                name: finish(curve, self.support, list(score.why), rows) for name, curve in made
            }
            score.weights = {name: float(name == self.what) for name in PARTS}
            below = (score.parts[self.what].value < self.most).to(score.value)
            score.slopes = {name: w * below for name, w in score.weights.items()}
        return score

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """Lasting speed beside the camera, diagonals a second; NaN in the first and last
        frame."""
        if samples.video.shape[1] < 3:
            return {}
        found = self._split(samples)
        height, width = found.ink.shape[-2:]
        drawn = found.lasting * samples.fps / (height**2 + width**2) ** 0.5
        return {"object": torch.nn.functional.pad(drawn, (0, 0, 0, 0, 1, 1), value=torch.nan)}

    def _split(self, samples: Samples) -> Split:
        return shared_split(samples, coarse_motion(self, samples), (self.flow, self.flow_size))
