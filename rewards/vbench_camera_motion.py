"""VBench-I2V's camera motion, found from four points near the edges of the picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from .base import Card, Reward, Samples, Score, all_unscored, refusals, score_of_curves
from .flow import Motion
from .vbench import Network, colour, unit

# the camera motion that words of a prompt ask for
ASKED = {
    "camera pans left": "pan_left",
    "camera pans right": "pan_right",
    "camera tilts up": "tilt_up",
    "camera tilts down": "tilt_down",
    "camera zooms in": "zoom_in",
    "camera zooms out": "zoom_out",
    "camera static": "static",
}
# the camera motion that two opposite edges show together, by the directions in which they move;
# the picture moves against the camera
ALIKE = {
    ("left", "left"): "pan_right",
    ("right", "right"): "pan_left",
    ("down", "down"): "tilt_up",
    ("up", "up"): "tilt_down",
    ("static", "static"): "static",
}
UPRIGHT = ALIKE | {("up", "down"): "zoom_in", ("down", "up"): "zoom_out"}
LEVEL = ALIKE | {("left", "right"): "zoom_in", ("right", "left"): "zoom_out"}
EDGES = ((0, 5), (9, 5), (5, 0), (5, 9))  # (row, column) of the grid: top, bottom, left, right


class VbenchCameraMotion(Reward):
    """VBench-I2V's camera_motion: 1 if the camera moves as the prompt asks, else 0.

    A grid of 10 x 10 points is tracked. Four of them, near the middles of the edges,
    decide: the path of each from the first frame to the last, in whole pixels, is called
    left, right, up or down where it is longer than 0.005 min(H, W) pixels, else static. Top
    and bottom together, and left and right together, name pans, tilts, zooms or static. The
    value is 1 if the requested motion is among the named ones. The prompt asks for a motion
    by words such as "camera pans left"; for other prompts the option `target` is the
    request, and without it the clip is inapplicable.

    As published: only the first and the last frame count; positions are cut to whole
    pixels; a diagonal path names two motions and either is right; a thing that crosses the
    middle of an edge counts as the camera.

    `network` is called as network(video, grid_size=10), where video is (1, F, 3, H, W) of
    0..255. It returns tracks (1, F, 100, 2) in pixels, x first, row by row, alone or with
    the visibility. Published numbers need CoTracker2, whose licence is non-commercial and
    which is therefore not part of this library. flow="dis" follows the points along
    OpenCV's flow instead; its numbers cannot be compared with published ones.

    Source: VBench++, arXiv:2411.13503; CoTracker, arXiv:2307.07635.

    >>> still = Samples(torch.zeros(1, 4, 3, 64, 64), ["a tree, camera static"], 8.0)
    >>> VbenchCameraMotion(flow="dis")(still).value
    tensor([1.])
    """

    learned = True
    needs = ("cv2",)
    range = (0.0, 1.0)
    time_support = "clip"
    least_frames = 2
    card = Card(
        sees="Where four points near the edges are in the last frame, compared with the first "
        "frame.",
        blind_to="Everything between the first frame and the last; speed; the centre of the "
        "picture.",
        hacks="A single jump at any time; borders that move alone; a diagonal motion, which "
        "counts as two motions at once.",
        input="A prompt that names the camera's motion. Not in pieces: the tracker needs the "
        "whole clip.",
        cost="47 ms a frame of 192 x 341 by DIS on one thread; by CoTracker2, the cost of that "
        "tracker.",
    )

    def __init__(
        self, target: str = "", flow: str = "", network: Network | None = None, flow_size: int = 192
    ) -> None:
        super().__init__()
        if target and target not in ASKED.values():
            raise ValueError(
                f"expected target to be one of {', '.join(ASKED.values())}, got {target!r}"
            )
        self.target, self.flow = target, flow
        self.network, self.flow_size = network, flow_size

    @classmethod
    def tiny(cls) -> VbenchCameraMotion:
        """Return the reward with OpenCV's flow; other prompts ask for a static camera."""
        return cls(target="static", flow="dis")

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips."""
        why = refusals(samples, self.needed, self.least_side)
        wanted = [asked(p) or self.target for p in samples.prompts]
        unasked = (
            "inapplicable: the prompt names no camera motion such as 'camera pans left', "
            "and target is not given"
        )
        why = [reason or (None if want else unasked) for reason, want in zip(why, wanted)]
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return all_unscored(samples, self.time_support, why)
        found = [
            labels(track, min(samples.video.shape[-2:]))
            for track in self._tracks(samples.pick(rows))
        ]
        value = torch.tensor(
            [float(wanted[i] in names) for i, names in zip(rows, found)],
            device=samples.video.device,
        )
        return score_of_curves(
            value[:, None].expand(-1, samples.video.shape[1]), self.time_support, why, rows
        )

    @torch.no_grad()
    def _tracks(self, samples: Samples) -> Tensor:
        """Return the points in the first and the last frame, (B, 2, 100, 2) pixels."""
        if self.network is None and self.flow:
            return followed(self.motion(samples), samples.video.shape[-2])
        if self.network is None:
            raise RuntimeError(
                "VbenchCameraMotion needs a point tracker: CoTracker2 is published under a "
                "non-commercial licence and not part of vidrl; pass network=..., or flow='dis', "
                "whose numbers cannot be compared with published ones"
            )
        return torch.stack([self._tracked(clip) for clip in samples.video])

    def _tracked(self, clip: Tensor) -> Tensor:
        """Return the network's points in the first and the last frame, (2, 100, 2)."""
        assert self.network is not None
        if isinstance(self.network, torch.nn.Module):
            self.network.eval().to(clip.device)
        output = self.network(colour(unit(clip))[None] * 255, grid_size=10)
        tracks = output[0] if isinstance(output, (tuple, list)) else output
        return tracks[0, [0, -1]].float()


def asked(prompt: str) -> str:
    """Return the camera motion that a prompt asks for, or an empty text.

    >>> asked("a quiet street, camera pans left"), asked("a street")
    ('pan_left', '')
    """
    return next((name for words, name in ASKED.items() if words in prompt), "")


def labels(track: Tensor, side: int) -> set[str]:
    """Return the camera motions found by points in the first and the last frame.

    The points are (2, 100, 2), pixels. The result is {"None"} if no motion is found.
    """
    first, last = track.trunc().view(2, 10, 10, 2)
    top, bottom, left, right = (directions(last[at] - first[at], 0.005 * side) for at in EDGES)
    found = named(UPRIGHT, top, bottom) | named(LEVEL, left, right)
    for empty in ("static", "None"):  # they count only where nothing else is found
        if len(found) > 1:
            found.discard(empty)
    return found


def named(
    table: Mapping[tuple[str, str], str], first: Sequence[str], second: Sequence[str]
) -> set[str]:
    """Return the motions that two opposite edges show together; {"None"} for none."""
    pairs = itertools.product(first, second)
    return {table[pair] for pair in pairs if pair in table} or {"None"}


def directions(path: Tensor, least: float) -> list[str]:
    """Return right or left, down or up, or both, of a path (x, y) in pixels.

    The result is ["static"] if neither part is longer than `least`.

    >>> directions(torch.tensor([3.0, -2.0]), 1.0), directions(torch.tensor([1.0, 0.0]), 1.0)
    (['right', 'up'], ['static'])
    """
    x, y = path.tolist()
    sides = (
        ["right"] * (x > least)
        + ["left"] * (x < -least)
        + ["down"] * (y > least)
        + ["up"] * (y < -least)
    )
    return sides or ["static"]


def followed(motion: Motion, height: int) -> Tensor:
    """Return a grid of 10 x 10 points and where the flow takes them, (B, 2, 100, 2).

    Positions are in pixels of frames of this height.
    """
    rows, columns = motion.frames.shape[-2:]
    margin = columns / 64  # as CoTracker places its grid
    y, x = torch.linspace(margin, rows - margin, 10), torch.linspace(margin, columns - margin, 10)
    start = (
        torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
        .view(1, 100, 2)
        .to(motion.forward)
    )
    start = start.expand(len(motion.frames), -1, -1)
    now = start
    for flow in motion.forward.unbind(1):
        now = now + _at(flow, now)
    return torch.stack([start, now], 1) * (height / rows)


def _at(flow: Tensor, points: Tensor) -> Tensor:
    """Sample the flow (B, 2, H, W) at points (B, N, 2)."""
    size = torch.tensor([flow.shape[-1] - 1, flow.shape[-2] - 1]).to(flow)
    grid = (points / size * 2 - 1)[:, None]
    return grid_sample(flow, grid, padding_mode="border", align_corners=True)[:, :, 0].transpose(
        1, 2
    )
