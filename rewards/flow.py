"""Optical flow, computed once a clip and shared by all rewards, and the geometry that
rewards build on it.

Shapes: B clips, F frames, C channels, H W pixels; flow (..., 2, H, W) in pixels, channel 0
is x (right), 1 is y (down). A flow lives on the grid of the frame that it starts from:
`warp(later, forward)` lines the later frame up with the earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ._flow.camera import camera, contrast
from ._flow.estimators import METHODS, Estimator, batched, clip_flow, opencv
from ._flow.images import (
    SIZE,
    around,
    blocks,
    energy,
    gradient,
    quantile,
    shrink,
    shrunk,
)
from ._flow.warping import (
    LAI,
    LAI_EDGE,
    length,
    moving_edge,
    norm2,
    occluded,
    outside,
    warp,
)

__all__ = [
    "LAI",
    "LAI_EDGE",
    "METHODS",
    "PAIRS",
    "SIZE",
    "Estimator",
    "Motion",
    "around",
    "blocks",
    "check_method",
    "energy",
    "estimate",
    "gradient",
    "length",
    "moving_edge",
    "norm2",
    "occluded",
    "outside",
    "quantile",
    "zero_where_still",
    "shrink",
    "shrunk",
    "warp",
]

PAIRS = 32  # of frames that an estimator of batches sees at a time


@dataclass(frozen=True)
class Motion:
    """The frames at the size they are measured at, and the flow between neighbours both
    ways, without gradient.

    frames (B, F, C, H, W); forward (B, F-1, 2, H, W) from frame t to t+1; backward (B, F-1,
    2, H, W) from t+1 to t.
    """

    frames: Tensor
    forward: Tensor
    backward: Tensor
    # `later` and `earlier`, where they are known and need no gradient
    warped: tuple[Tensor, Tensor] | None = None

    @cached_property
    def diagonal(self) -> float:
        """Of a frame, pixels."""
        return float(np.hypot(*self.frames.shape[-2:]))

    @cached_property
    def later(self) -> Tensor:
        """Frame t+1 on the grid of frame t, (B, F-1, C, H, W)."""
        return warp(self.frames[:, 1:], self.forward) if self.warped is None else self.warped[0]

    @cached_property
    def earlier(self) -> Tensor:
        """Frame t on the grid of frame t+1, (B, F-1, C, H, W)."""
        return warp(self.frames[:, :-1], self.backward) if self.warped is None else self.warped[1]

    @cached_property
    def returned(self) -> Tensor:
        """The flow back from where the flow forward leads, on the grid of frame t, (B, F-1,
        2, H, W)."""
        return warp(self.backward, self.forward, "bilinear")

    @cached_property
    def seen_later(self) -> Tensor:
        """Whether a pixel of frame t is in sight in frame t+1, bool (B, F-1, H, W)."""
        return ~occluded(self.forward, self.backward, returned=self.returned)

    @cached_property
    def seen_earlier(self) -> Tensor:
        """Whether a pixel of frame t+1 is in sight in frame t, bool (B, F-1, H, W)."""
        return ~occluded(self.backward, self.forward)

    @cached_property
    def edges(self) -> Tensor:
        """The squared brightness gradient, mean over channels, (B, F, H, W)."""
        pad = torch.nn.functional.pad
        across, down = (self.frames.diff(dim=d).square().mean(2) for d in (-1, -2))
        return pad(across, (0, 1)) + pad(down, (0, 0, 0, 1))

    @cached_property
    def structure(self) -> Tensor:
        """How much there is to see motion by: the length of the brightness gradient, (B, F,
        H, W), no gradient."""
        return self.edges.detach().sqrt()

    @cached_property
    def energy(self) -> Tensor:
        """Mean squared slope of each frame, and 1e-4, (B, F)."""
        return energy(self.frames, 1e-4)

    @cached_property
    def ink(self) -> Tensor:
        """Squared strength of edges, (B, F, H, W), no gradient."""
        return self.edges.detach()

    @cached_property
    def hold(self) -> Tensor:
        """From 0 where nothing shows to 1 near edges, relative to the strong edges of each
        frame, (B, F, H, W).

        What even the plainest quarter of the frame has is grain, and none of it counts.
        """
        near = around(self.ink[:, :, None], 0.1)[:, :, 0]
        plain, strong = (quantile(near.flatten(2), q)[..., None, None] for q in (0.25, 0.95))
        near = (near - plain).clamp(min=0)
        return near / (near + (strong - plain) / 16 + 1e-8)

    @cached_property
    def weight(self) -> Tensor:
        """How much the motion at a pixel tells: `ink` where there is hold, (B, F, H, W), no
        gradient."""
        return self.ink * self.hold

    @cached_property
    def contrast(self) -> Tensor:
        """From 0 on plain ground to 1, (B, F, H, W), no gradient; see
        `_camera.contrast`."""
        return contrast(self.frames)

    @cached_property
    def camera_forward(self) -> Tensor:
        """The part of `forward` that is the camera's, (B, F-1, 2, H, W)."""
        return self._camera(self.forward, slice(None, -1))

    @cached_property
    def camera_backward(self) -> Tensor:
        """The part of `backward` that is the camera's, (B, F-1, 2, H, W)."""
        return self._camera(self.backward, slice(1, None))

    def _camera(self, flow: Tensor, part: slice) -> Tensor:
        found = camera(flow, self.frames[:, part], self.structure[:, part], self.contrast[:, part])
        return found.flow(*self.frames.shape[-2:])


def check_method(method: str | Estimator) -> None:
    """Raise ValueError for a name that is no method of `estimate`.

    >>> check_method("farnback")
    Traceback (most recent call last):
    ValueError: expected flow to be one of dis, dis_fast, farneback, torch, raft:PATH, or a function, got 'farnback'
    """
    if not (
        callable(method)
        or method == "torch"
        or method.partition(":")[0] == "raft"
        or method in METHODS
    ):
        raise ValueError(
            f"expected flow to be one of {', '.join(METHODS)}, or a function, got {method!r}"
        )


def estimate(
    video: Tensor, method: str | Estimator = "dis", size: int = SIZE, pairs: int = PAIRS
) -> Motion:
    """Flow both ways between all neighbouring frames of clips (B, F, C, H, W), float in [0,
    1] or uint8.

    `method` is one of OpenCV's on the CPU: "dis" (medium preset), "dis_fast", "farneback";
    or, on the clips' device, "torch" (vidrl's own), "raft:PATH" (torchvision's raft_large
    with the weights in PATH), or any function of two batches of frames (N, 3, H, W) in [0,
    1] to their flow (N, 2, H, W) in pixels, which sees `pairs` of frames at a time. Frames
    whose shorter side is above `size` are measured at `size`; OpenCV sees small ones
    enlarged. Raises ValueError for an unknown method, ImportError where a package that it
    needs is missing.

    The flow is held fixed under differentiation, whatever the method: a reward's gradient
    goes through the colours of the warped frames alone. OpenCV's flow jumps, so that
    difference quotients of a reward with that flow grow as the inverse of their step; with
    "torch" they converge, to the derivative through the flow. That derivative takes 3 to 12
    times as long, and a step along it raises the rewards no more reliably
    (benchmarks/studies/flow_gradient.py).
    """
    frames = shrink(video, size)
    still = (
        frames.detach()
        if method == "torch" and frames.dtype == torch.float64
        else frames.detach().float()
    )
    if callable(method) or method == "torch" or method.partition(":")[0] == "raft":
        there, back = batched(still, method, pairs)
    else:
        still, calc = still.cpu(), opencv(method)
        there, back = (
            torch.stack(flows) for flows in zip(*(clip_flow(clip, calc) for clip in still))
        )
    there, later = zero_where_still(there, still[:, :-1], still[:, 1:])
    back, earlier = zero_where_still(back, still[:, 1:], still[:, :-1])
    known = (later.to(frames), earlier.to(frames)) if not frames.requires_grad else None
    return Motion(frames, there.to(frames), back.to(frames), known)


def zero_where_still(
    flow: Tensor, first: Tensor, second: Tensor, favour: float = 1.5, window: float = 1 / 5
) -> tuple[Tensor, Tensor]:
    """The flow from `first` to `second`, zero where standing still explains the
    neighbourhood about as well; and `second` warped by it.

    Zero where the mean of (second - first)^2 over a square of `window` times the shorter
    side is less than `favour` times that of the warped difference. Estimators carry the
    motion of things over ground that offers little hold.
    """
    plain = (second - first).square().mean(2, keepdim=True)
    warped = warp(second, flow)
    moved = (warped - first).square().mean(2, keepdim=True)
    moves = around(plain, window) >= favour * around(moved, window)
    return flow * moves, torch.where(moves, warped, second)
