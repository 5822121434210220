"""Optical flow, computed once per clip and shared by all rewards.

Shapes: B clips, F frames, C channels, H W pixels; flow (..., 2, H, W) in pixels, channel 0
is x (right), channel 1 is y (down). A flow lies on the pixels of the frame that it starts
from: `warp(later, forward)` brings the later frame onto the earlier one.

The functions of images and flows that are listed in `__all__` are defined in `_flow`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ._flow import kernels, planes
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
    squares,
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
    "method_on",
    "moving_edge",
    "norm2",
    "occluded",
    "outside",
    "quantile",
    "zero_where_still",
    "shrink",
    "shrunk",
    "squares",
    "warp",
]

Method = TypeVar("Method", bound=str | Estimator)

PAIRS = 32  # pairs of frames in one batch of an estimator


@dataclass(frozen=True)
class Motion:
    """The frames of clips at the size of measurement, and the flow between neighbours.

    - `frames` (B, F, C, H, W).
    - `forward` (B, F - 1, 2, H, W): the flow from frame t to t + 1, without gradient.
    - `backward` (B, F - 1, 2, H, W): the flow from frame t + 1 to t, without gradient.
    - `warped`: `later` and `earlier`, where they were computed before and need no gradient.
    """

    frames: Tensor
    forward: Tensor
    backward: Tensor
    warped: tuple[Tensor, Tensor] | None = None

    @cached_property
    def diagonal(self) -> float:
        """Return the diagonal of a frame, pixels."""
        return float(np.hypot(*self.frames.shape[-2:]))

    @cached_property
    def later(self) -> Tensor:
        """Return frame t + 1 warped onto frame t, (B, F - 1, C, H, W)."""
        return warp(self.frames[:, 1:], self.forward) if self.warped is None else self.warped[0]

    @cached_property
    def earlier(self) -> Tensor:
        """Return frame t warped onto frame t + 1, (B, F - 1, C, H, W)."""
        return warp(self.frames[:, :-1], self.backward) if self.warped is None else self.warped[1]

    @cached_property
    def returned(self) -> Tensor:
        """Return the backward flow at the place where the forward flow leads.

        (B, F - 1, 2, H, W), on the pixels of frame t. Where both flows are right, it is
        minus the forward flow.
        """
        return warp(self.backward, self.forward, "bilinear")

    @cached_property
    def seen_later(self) -> Tensor:
        """Return whether a pixel of frame t is in sight in frame t + 1.

        bool (B, F - 1, H, W); see `occluded`.
        """
        return ~occluded(self.forward, self.backward, returned=self.returned)

    @cached_property
    def seen_earlier(self) -> Tensor:
        """Return whether a pixel of frame t + 1 is in sight in frame t.

        bool (B, F - 1, H, W); see `occluded`.
        """
        return ~occluded(self.backward, self.forward)

    @cached_property
    def edges(self) -> Tensor:
        """Return the squared gradient of brightness, mean over channels, (B, F, H, W)."""
        if planes.fits(self.frames):
            return kernels.edges(self.frames)
        pad = torch.nn.functional.pad
        across, down = (self.frames.diff(dim=d).square().mean(2) for d in (-1, -2))
        return pad(across, (0, 1)) + pad(down, (0, 0, 0, 1))

    @cached_property
    def structure(self) -> Tensor:
        """Return the length of the gradient of brightness, (B, F, H, W), without gradient.

        Motion can be measured where this length is large.
        """
        return self.edges.detach().sqrt()

    @cached_property
    def ink(self) -> Tensor:
        """Return the squared strength of edges, (B, F, H, W): `edges` without gradient."""
        return self.edges.detach()

    @cached_property
    def hold(self) -> Tensor:
        """Return where edges hold the flow, from 0 where nothing shows to 1, (B, F, H, W).

        The strength is relative to the strong edges of the frame. The plainest quarter of
        the frame is taken to be grain, and its level is subtracted.
        """
        if planes.fits(self.ink):
            return kernels.hold(self.ink, *squares(self.ink, 0.1))
        near = around(self.ink[:, :, None], 0.1)[:, :, 0]
        plain, strong = (quantile(near.flatten(2), q)[..., None, None] for q in (0.25, 0.95))
        near = (near - plain).clamp(min=0)
        return near / (near + (strong - plain) / 16 + 1e-8)

    @cached_property
    def weight(self) -> Tensor:
        """Return the weight of the motion at each pixel, `ink` times `hold`, (B, F, H, W).

        It has no gradient.
        """
        return self.ink * self.hold

    @cached_property
    def contrast(self) -> Tensor:
        """Return local contrast from 0 on plain ground to 1, (B, F, H, W).

        It has no gradient; see `_flow.camera.contrast`.
        """
        return contrast(self.frames)

    @cached_property
    def camera_forward(self) -> Tensor:
        """Return the camera's part of `forward`, (B, F - 1, 2, H, W)."""
        return self._camera(self.forward, slice(None, -1))

    @cached_property
    def camera_backward(self) -> Tensor:
        """Return the camera's part of `backward`, (B, F - 1, 2, H, W)."""
        return self._camera(self.backward, slice(1, None))

    def _camera(self, flow: Tensor, part: slice) -> Tensor:
        """Return the camera's part of `flow`, which starts from the frames `part`."""
        found = camera(flow, self.frames[:, part], self.structure[:, part], self.contrast[:, part])
        return found.flow(*self.frames.shape[-2:])


def method_on(method: Method, device: torch.device) -> Method | str:
    """Return a method of `estimate`; "auto" becomes "dis" on a CPU and "torch" elsewhere.

    OpenCV's "dis" is the most accurate on the CPU, and needs the frames there. "torch" stays
    on the clips' device.

    >>> method_on("auto", torch.device("cpu")), method_on("auto", torch.device("cuda"))
    ('dis', 'torch')
    """
    if method != "auto":
        return method
    return "dis" if device.type == "cpu" else "torch"


def check_method(method: str | Estimator) -> None:
    """Raise ValueError for a name that is no method of `estimate`.

    >>> check_method("farnback")
    Traceback (most recent call last):
    ValueError: expected flow to be one of auto, dis, dis_fast, farneback, torch, raft:PATH, ...
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
    video: Tensor, method: str | Estimator = "auto", size: int = SIZE, pairs: int = PAIRS
) -> Motion:
    """Return the flow both ways between neighbouring frames of clips (B, F, C, H, W).

    Clips are float in [0, 1] or uint8. `method` is one of

    - "auto": "dis" for clips on the CPU, and "torch" for clips on a GPU.
    - OpenCV's on the CPU: "dis" (medium preset), "dis_fast", "farneback".
    - On the clips' device: "torch" (vidrl's own), "raft:PATH" (torchvision's raft_large
      with the weights in PATH).
    - Any function of two batches of frames (N, 3, H, W) in [0, 1] to their flow (N, 2, H,
      W) in pixels; a batch holds `pairs` pairs of frames.

    Frames whose shorter side is longer than `size` are shrunk to `size`; OpenCV's methods
    read small frames enlarged. Raises ValueError for an unknown method, ImportError where a
    package is missing.

    The flow is held fixed under differentiation, whatever the method: the gradient of a
    reward passes through the colours of the warped frames only. OpenCV's flow jumps, so
    that difference quotients of a reward with such flow grow without bound as their step
    gets smaller; with "torch" they converge, to the derivative through the flow. That
    derivative takes 3 to 12 times as long, and a step along it raises the rewards no more
    reliably (benchmarks/studies/flow_gradient.py).
    """
    # in rows: the kernels of a CPU take no permuted pictures
    frames, method = shrink(video, size).contiguous(), method_on(method, video.device)
    # "torch" keeps float64, so that its gradient can be checked; the others need float32
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
    # With a gradient, Motion has to warp `frames` itself, not the detached copy.
    warped = None if frames.requires_grad else (later.to(frames), earlier.to(frames))
    return Motion(frames, there.to(frames), back.to(frames), warped)


def zero_where_still(
    flow: Tensor, first: Tensor, second: Tensor, favour: float = 1.5, window: float = 1 / 5
) -> tuple[Tensor, Tensor]:
    """Return the flow, set to 0 where no motion explains the frames about as well.

    Also returns `second` warped by that flow. The flow is 0 where the mean of (second -
    first)^2 over a square of `window` times the shorter side is less than `favour` times
    that of the warped difference. The reason: estimators extend the motion of things over
    neighbouring ground without edges, where no motion is the better guess.
    """
    if planes.fits(flow, first, second) and planes.interleaves(second):
        return kernels.rest(flow, first, second, squares(second, window)[0], favour)
    plain = (second - first).square().mean(2, keepdim=True)
    warped = warp(second, flow)
    moved = (warped - first).square().mean(2, keepdim=True)
    moves = around(plain, window) >= favour * around(moved, window)
    return flow * moves, torch.where(moves, warped, second)
