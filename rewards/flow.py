"""Optical flow, computed once a clip and shared by all rewards, and the geometry that
rewards build on it.

Shapes: B clips, F frames, C channels, H W pixels; flow (..., 2, H, W) in pixels, channel 0
is x (right), 1 is y (down). A flow lives on the grid of the frame that it starts from:
`warp(later, forward)` lines the later frame up with the earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from ._flow import planes
from ._flow.estimators import METHODS, Estimator, batched, clip_flow, opencv

PAIRS = 32  # of frames that an estimator of batches sees at a time
SIZE = 192  # the shorter side, in pixels, above which frames are measured at this size
# occluded where |w + f|^2 > 0.01 (|w|^2 + |f|^2) + 0.5, Lai et al. 2018, arXiv:1808.00449
LAI = (0.01, 0.5)
LAI_EDGE = (0.01, 0.002)  # moving edge where |grad f|^2 > 0.01 |f|^2 + 0.002


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
        from ._flow.camera import contrast

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
        from ._flow.camera import camera

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
    there, later = rested(there, still[:, :-1], still[:, 1:])
    back, earlier = rested(back, still[:, 1:], still[:, :-1])
    known = (later.to(frames), earlier.to(frames)) if not frames.requires_grad else None
    return Motion(frames, there.to(frames), back.to(frames), known)


def rested(
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


def warp(image: Tensor, flow: Tensor, mode: str = "bicubic") -> Tensor:
    """`image` (..., C, H, W) sampled at x + flow(x), edges repeated; differentiable in
    `image`.

    >>> image = torch.arange(6.0).expand(1, 1, 6, 6)
    >>> warp(image, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 6, 6))[0, 0, 0, :4]
    tensor([1., 2., 3., 4.])
    """
    if planes.fits(image, flow) and max(image.shape[-2:]) < 1 << 15:  # OpenCV's limits
        return planes.warp(image, flow, mode)
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height).to(flow), torch.arange(width).to(flow), indexing="ij"
    )
    at = torch.stack([x, y]) + flow
    scale = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)]).to(flow)
    grid = at.movedim(-3, -1) * scale - 1
    flat = grid_sample(
        image.flatten(0, -4),
        grid.flatten(0, -4).to(image),
        mode=mode,
        padding_mode="border",
        align_corners=True,
    )
    return flat.view(image.shape)


def occluded(
    flow: Tensor,
    back: Tensor,
    thresholds: tuple[float, float] = LAI,
    returned: Tensor | None = None,
) -> Tensor:
    """Where a pixel is out of sight in the other frame: the flow back does not return, or
    it left the picture.

    |w + f|^2 > a (|w|^2 + |f|^2) + b with w the flow back at x + f(x); Lai et al. 2018, arXiv:1808.00449.
    Flows (..., 2, H, W), pixels; bool (..., H, W).
    """
    returned = warp(back, flow, "bilinear") if returned is None else returned
    slack = thresholds[0] * (norm2(returned) + norm2(flow)) + thresholds[1]
    return (norm2(returned + flow) > slack) | outside(flow)


def outside(flow: Tensor) -> Tensor:
    """Where x + flow(x) is more than half a pixel out of the picture, bool (..., H, W)."""
    height, width = flow.shape[-2:]
    x = torch.arange(width).to(flow) + flow[..., 0, :, :]
    y = torch.arange(height).to(flow)[:, None] + flow[..., 1, :, :]
    return (x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)


def moving_edge(flow: Tensor, thresholds: tuple[float, float] = LAI_EDGE) -> Tensor:
    """Where the flow tears: |grad f|^2 > a |f|^2 + b (Lai et al. 2018), bool (..., H,
    W)."""
    return gradient(flow).square().sum((-4, -3)) > thresholds[0] * norm2(flow) + thresholds[1]


def norm2(flow: Tensor) -> Tensor:
    """Squared length of a flow (..., 2, H, W)."""
    x, y = flow.unbind(-3)
    return x * x + y * y


def length(flow: Tensor) -> Tensor:
    """Length of a flow (..., 2, H, W)."""
    return norm2(flow).sqrt()


def gradient(image: Tensor) -> Tensor:
    """Forward differences along x and y, zero in the last column and row: (..., C, H, W) to
    (..., 2, C, H, W)."""
    pad = torch.nn.functional.pad
    return torch.stack([pad(image.diff(dim=-1), (0, 1)), pad(image.diff(dim=-2), (0, 0, 0, 1))], -4)


def energy(video: Tensor, floor: float = 1e-5) -> Tensor:
    """Mean squared slope over two pixels, along x plus along y, and `floor`, (B, F); of the
    picture by [1 2 1] / 4.

    Wide enough that an edge has about the same wherever between two pixels it falls, and
    that fine grain has little.
    """
    soft = _pairs(_pairs(video))
    across, down = soft[..., 2:] - soft[..., :-2], soft[..., 2:, :] - soft[..., :-2, :]
    return across.square().mean((2, 3, 4)) + down.square().mean((2, 3, 4)) + floor


def _pairs(image: Tensor) -> Tensor:
    """Means of two by two pixels, at every place: one row and one column less."""
    rows = image[..., 1:, :] + image[..., :-1, :]
    return (rows[..., 1:] + rows[..., :-1]) / 4


def around(image: Tensor, window: float) -> Tensor:
    """Means over a square of `window` times the shorter side about each pixel of (B, T, C,
    H, W)."""
    reach = max(1, round(min(image.shape[-2:]) * window / 2))
    counts = _counts(image.shape[-2], image.shape[-1], reach)
    if planes.fits(image):
        return planes.around(image, reach, counts)
    return _box(image, reach) / counts.to(image)


@lru_cache(maxsize=64)
def _counts(height: int, width: int, reach: int) -> Tensor:
    """How many pixels of the square about each are in the picture, (H, W)."""
    return _box(torch.ones(height, width), reach)


def _box(image: Tensor, reach: int) -> Tensor:
    """Sums over squares of 2 reach + 1 pixels, nothing beyond the border."""
    padded = torch.nn.functional.pad(image, (reach, reach, reach, reach))
    return _runs(_runs(padded, 2 * reach + 1, -1), 2 * reach + 1, -2)


def _runs(image: Tensor, length: int, dim: int) -> Tensor:
    """Sums of `length` neighbours along `dim`, from sums of 1, 2, 4, ...: as exact as
    adding them up, in less time."""
    left = image.shape[dim] - length + 1
    total, start, width = image.new_zeros(()), 0, 1
    while width <= length:
        if length & width:
            total, start = total + image.narrow(dim, start, left), start + width
        rest = image.shape[dim] - width
        image, width = image.narrow(dim, 0, rest) + image.narrow(dim, width, rest), 2 * width
    return total


def quantile(values: Tensor, q: float) -> Tensor:
    """The quantile of (B, T, N) along N, linear between its neighbours: `torch.quantile`
    sorts, this does not.

    >>> quantile(torch.tensor([[[4.0, 1.0, 2.0, 3.0]]]), 0.5)
    tensor([[2.5000]])
    """
    if planes.fits(values):
        return planes.quantile(values, q)
    at = q * (values.shape[2] - 1)
    top = values.topk(values.shape[2] - int(at), dim=2).values
    above = top[..., -2] if top.shape[2] > 1 else top[..., -1]
    return top[..., -1].lerp(above, at - int(at))


def blocks(image: Tensor, side: int) -> Tensor:
    """Means of square blocks of (B, T, C, H, W); those cut by the border too."""
    pooled = avg_pool2d(image.flatten(0, 1), side, ceil_mode=True, count_include_pad=False)
    return pooled.unflatten(0, image.shape[:2])


def shrink(video: Tensor, size: int = SIZE) -> Tensor:
    """Frames as float, their shorter side at most `size`, antialiased; small ones as they
    are.

    A uint8 clip is shrunk before it is made float, in two passes that round: within 1/255
    of the same as float.
    """
    small = shrunk(video, size)
    return small.float() / 255 if small.dtype == torch.uint8 else small


def shrunk(video: Tensor, size: int = SIZE) -> Tensor:
    """`shrink`, but bytes stay bytes where torch can shrink such: on the CPU."""
    goal = [round(side * min(1.0, size / min(video.shape[-2:]))) for side in video.shape[-2:]]
    if goal == list(video.shape[-2:]):
        return video
    if video.dtype == torch.uint8 and video.device.type != "cpu":
        video = video.float() / 255
    flat = interpolate(
        video.flatten(0, 1), size=goal, mode="bilinear", antialias=True, align_corners=False
    )
    return flat.unflatten(0, video.shape[:2]).contiguous()
