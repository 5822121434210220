"""Optical flow, computed once a clip and shared by all rewards, and the geometry that rewards build on it.

Shapes: B clips, F frames, C channels, H W pixels; flow (..., 2, H, W) in pixels, channel 0 is x (right), 1 is y (down).
A flow lives on the grid of the frame that it starts from: `warp(later, forward)` lines the later frame up with the
earlier one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, grid_sample, interpolate

SIZE = 192  # the shorter side, in pixels, above which frames are measured at this size
LAI = (0.01, 0.5)  # occluded where |w + f|^2 > 0.01 (|w|^2 + |f|^2) + 0.5, Lai et al. 2018, arXiv:1808.00449
LAI_EDGE = (0.01, 0.002)  # moving edge where |grad f|^2 > 0.01 |f|^2 + 0.002


@dataclass(frozen=True)
class Motion:
    """The frames at the size they are measured at, and the flow between neighbours both ways, without gradient.

    frames (B, F, C, H, W); forward (B, F-1, 2, H, W) from frame t to t+1; backward (B, F-1, 2, H, W) from t+1 to t.
    """

    frames: Tensor
    forward: Tensor
    backward: Tensor

    @cached_property
    def diagonal(self) -> float:
        """Of a frame, pixels."""
        return float(np.hypot(*self.frames.shape[-2:]))

    @cached_property
    def later(self) -> Tensor:
        """Frame t+1 on the grid of frame t, (B, F-1, C, H, W)."""
        return warp(self.frames[:, 1:], self.forward)

    @cached_property
    def earlier(self) -> Tensor:
        """Frame t on the grid of frame t+1, (B, F-1, C, H, W)."""
        return warp(self.frames[:, :-1], self.backward)

    @cached_property
    def seen_later(self) -> Tensor:
        """Whether a pixel of frame t is in sight in frame t+1, bool (B, F-1, H, W)."""
        return ~occluded(self.forward, self.backward)

    @cached_property
    def seen_earlier(self) -> Tensor:
        """Whether a pixel of frame t+1 is in sight in frame t, bool (B, F-1, H, W)."""
        return ~occluded(self.backward, self.forward)

    @cached_property
    def structure(self) -> Tensor:
        """How much there is to see motion by: the length of the brightness gradient, (B, F, H, W), no gradient."""
        return gradient(self.frames.detach()).square().sum(2).mean(2).sqrt()

    @cached_property
    def energy(self) -> Tensor:
        """Mean squared gradient of each frame, and 1e-4, (B, F)."""
        return gradient(self.frames).square().mean((3, 4, 5)).sum(2) + 1e-4

    @cached_property
    def camera_forward(self) -> Tensor:
        """The part of `forward` that is the picture's as a whole, (B, F-1, 2, 1, 1)."""
        return camera_flow(self.forward, self.structure[:, :-1, None] ** 2)

    @cached_property
    def camera_backward(self) -> Tensor:
        """The part of `backward` that is the picture's as a whole, (B, F-1, 2, 1, 1)."""
        return camera_flow(self.backward, self.structure[:, 1:, None] ** 2)


def estimate(video: Tensor, method: str = "dis", size: int = SIZE) -> Motion:
    """Flow both ways between all neighbouring frames of clips (B, F, C, H, W) in [0, 1].

    `method` is "dis" (OpenCV's DIS, medium preset), "dis_fast" or "farneback". Frames whose shorter side is above
    `size` are measured at `size`; the estimator sees small ones enlarged. Raises ValueError for an unknown method.
    """
    frames = _shrink(video, size)
    still = frames.detach().float().cpu()
    forward, backward = [], []
    for clip in still:
        there, back = _clip(clip, _estimator(method))
        forward.append(there)
        backward.append(back)
    there, back = torch.stack(forward).to(still), torch.stack(backward).to(still)
    there, back = rested(there, still[:, :-1], still[:, 1:]), rested(back, still[:, 1:], still[:, :-1])
    return Motion(frames, there.to(frames), back.to(frames))


def rested(flow: Tensor, first: Tensor, second: Tensor, favour: float = 1.5, window: float = 1 / 5) -> Tensor:
    """The flow from `first` to `second`, zero where standing still explains the neighbourhood about as well.

    Zero where the mean of (second - first)^2 over a square of `window` times the shorter side is less than `favour`
    times that of the warped difference. Estimators carry the motion of things over ground that offers little hold.
    """
    plain = (second - first).square().mean(2, keepdim=True)
    moved = (warp(second, flow) - first).square().mean(2, keepdim=True)
    return flow * (around(plain, window) >= favour * around(moved, window))


def warp(image: Tensor, flow: Tensor, mode: str = "bicubic") -> Tensor:
    """`image` (..., C, H, W) sampled at x + flow(x), edges repeated; differentiable in `image`.

    >>> image = torch.arange(6.0).expand(1, 1, 6, 6)
    >>> warp(image, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 6, 6))[0, 0, 0, :4]
    tensor([1., 2., 3., 4.])
    """
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height).to(flow), torch.arange(width).to(flow), indexing="ij")
    at = torch.stack([x, y]) + flow
    scale = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)]).to(flow)
    grid = at.movedim(-3, -1) * scale - 1
    flat = grid_sample(
        image.flatten(0, -4), grid.flatten(0, -4).to(image), mode=mode, padding_mode="border", align_corners=True
    )
    return flat.view(image.shape)


def occluded(flow: Tensor, back: Tensor, thresholds: tuple[float, float] = LAI) -> Tensor:
    """Where a pixel is out of sight in the other frame: the flow back does not return, or it left the picture.

    |w + f|^2 > a (|w|^2 + |f|^2) + b with w the flow back at x + f(x); Lai et al. 2018, arXiv:1808.00449.
    Flows (..., 2, H, W), pixels; bool (..., H, W).
    """
    returned = warp(back, flow, "bilinear")
    slack = thresholds[0] * (norm2(returned) + norm2(flow)) + thresholds[1]
    return (norm2(returned + flow) > slack) | outside(flow)


def outside(flow: Tensor) -> Tensor:
    """Where x + flow(x) is more than half a pixel out of the picture, bool (..., H, W)."""
    height, width = flow.shape[-2:]
    x = torch.arange(width).to(flow) + flow[..., 0, :, :]
    y = torch.arange(height).to(flow)[:, None] + flow[..., 1, :, :]
    return (x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)


def moving_edge(flow: Tensor, thresholds: tuple[float, float] = LAI_EDGE) -> Tensor:
    """Where the flow tears: |grad f|^2 > a |f|^2 + b (Lai et al. 2018), bool (..., H, W)."""
    return gradient(flow).square().sum((-4, -3)) > thresholds[0] * norm2(flow) + thresholds[1]


def camera_flow(flow: Tensor, ink: Tensor, cells: int = 4) -> Tensor:
    """The motion of the picture as a whole, (B, T, 2, 1, 1), zero where it cannot be told from that of a thing.

    The median over `cells` x `cells` cells of the frame of the flow at their edges, if nearly two thirds of the cells
    have edges: a thing on a plain ground moves alone.
    """
    pooled = (adaptive_avg_pool2d(x.flatten(0, 1), cells) for x in (ink, flow * ink))
    amount, moved = (x.unflatten(0, flow.shape[:2]).flatten(3) for x in pooled)
    mean = moved / amount.clamp(min=1e-12)
    told = amount > 0.02 * amount.amax(3, keepdim=True)
    median = mean.masked_fill(~told, torch.nan).nanmedian(3).values.nan_to_num()
    enough = told.float().mean(3) > 0.6
    return (median * enough)[..., None, None]


def norm2(flow: Tensor) -> Tensor:
    """Squared length of a flow (..., 2, H, W)."""
    return flow.square().sum(-3)


def length(flow: Tensor) -> Tensor:
    """Length of a flow (..., 2, H, W)."""
    return norm2(flow).sqrt()


def gradient(image: Tensor) -> Tensor:
    """Forward differences along x and y, zero in the last column and row: (..., C, H, W) to (..., 2, C, H, W)."""
    pad = torch.nn.functional.pad
    return torch.stack([pad(image.diff(dim=-1), (0, 1)), pad(image.diff(dim=-2), (0, 0, 0, 1))], -4)


def around(image: Tensor, window: float) -> Tensor:
    """Means over a square of `window` times the shorter side about each pixel of (B, T, C, H, W)."""
    reach = max(1, round(min(image.shape[-2:]) * window / 2))
    flat = avg_pool2d(image.flatten(0, 1), (2 * reach + 1, 1), 1, (reach, 0), count_include_pad=False)
    flat = avg_pool2d(flat, (1, 2 * reach + 1), 1, (0, reach), count_include_pad=False)
    return flat.unflatten(0, image.shape[:2])


def blocks(image: Tensor, side: int) -> Tensor:
    """Means of square blocks of (B, T, C, H, W); those cut by the border too."""
    pooled = avg_pool2d(image.flatten(0, 1), side, ceil_mode=True, count_include_pad=False)
    return pooled.unflatten(0, image.shape[:2])


def _shrink(video: Tensor, size: int) -> Tensor:
    """Frames with their shorter side at most `size`, antialiased; small ones as they are."""
    height, width = video.shape[-2:]
    factor = size / min(height, width)
    if factor >= 1:
        return video
    goal = (round(height * factor), round(width * factor))
    flat = interpolate(video.flatten(0, 1), size=goal, mode="bilinear", antialias=True, align_corners=False)
    return flat.unflatten(0, video.shape[:2])


def enlargement(side: int) -> float:
    """By how much frames of a shorter side of `side` pixels are enlarged before DIS sees them.

    The finest level of DIS is half its input, so small frames are doubled, up to 96 pixels. Measured on vidrl.world,
    more is no better: at 32 pixels, colour axis, moving straight, end-point error 0.13 at 64 and 0.10 at 96 and 256;
    at 64 pixels 0.16 at 64, 0.05 at 96, 0.10 at 128.

    >>> [enlargement(side) for side in (16, 32, 64, 120)]
    [4.0, 2.0, 1.5, 1.0]
    """
    return max(1.0, max(64, min(2 * side, 96)) / side)


def _clip(frames: Tensor, calc: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    """Flow there (F-1, 2, H, W) and back of one clip (F, C, H, W)."""
    cv2 = _cv2()
    height, width = frames.shape[-2:]
    goal = tuple(round(side * enlargement(min(height, width))) for side in (width, height))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # DIS cuts its work by threads, and its result depends on the cuts
    try:
        pairs = [_pair(first, second, goal, calc) for first, second in _views(frames)]
    finally:
        cv2.setNumThreads(threads)
    if not pairs:
        return frames.new_zeros(0, 2, height, width), frames.new_zeros(0, 2, height, width)
    flows = torch.from_numpy(np.stack(pairs)).permute(0, 1, 4, 2, 3)
    small = interpolate(flows.flatten(0, 1), size=(height, width), mode="area").unflatten(0, flows.shape[:2])
    return small[:, 0] * (width / goal[0]), small[:, 1] * (width / goal[0])


def _pair(first: np.ndarray, second: np.ndarray, goal: tuple[int, ...], calc: Callable[..., Any]) -> np.ndarray:
    """Flow there and back between two planes, at the size `goal`: (2, H, W, 2)."""
    cv2 = _cv2()
    if first.shape[::-1] != goal:
        first, second = (cv2.resize(plane, goal, interpolation=cv2.INTER_CUBIC) for plane in (first, second))
    first, second = (np.clip(plane, 0, 255).astype(np.uint8) for plane in (first, second))
    return np.stack([calc(first, second, None), calc(second, first, None)])


def _views(frames: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each pair of neighbours as two planes (H, W) in 0..255, for an estimator that sees one channel.

    Range goes out, so that a dimmed or flattened clip has the flow of the clip it was made from.
    """
    pairs = torch.stack([frames[:-1], frames[1:]], 1)  # (F-1, 2, C, H, W)
    planes = torch.einsum("pc,ptchw->pthw", changing_colour(pairs), pairs)
    low, high = planes.amin((1, 2, 3), keepdim=True), planes.amax((1, 2, 3), keepdim=True)
    planes = (planes - low) / (high - low).clamp(min=0.05) * 255
    return [(first, second) for first, second in planes.numpy()]


def changing_colour(pairs: Tensor, still: float = 0.2) -> Tensor:
    """The colour axis (P, C) along which edges change most between the frames of pairs (P, 2, C, H, W).

    A red shape on a grey of its own brightness has no edge in luma, and a shape over stripes a weaker one than the
    stripes; here it has. Of edges that stay, `still` counts. The principal axis of both, its sum positive.
    """
    change, stay = gradient(pairs[:, 1] - pairs[:, 0]), still * gradient(pairs)
    edges = torch.cat([change.movedim(2, 1).flatten(2), stay.movedim(3, 1).flatten(2)], 2).double()
    axis = torch.linalg.eigh(edges @ edges.mT + 1e-9).eigenvectors[..., -1]  # ties go to the mean of the colours
    return (axis * torch.where(axis.sum(1, keepdim=True) < 0, -1.0, 1.0)).to(pairs)


def _estimator(method: str) -> Callable[..., Any]:
    cv2 = _cv2()
    if method == "farneback":
        return lambda a, b, _: cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 5, 15, 3, 5, 1.2, 0)
    presets = {"dis": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, "dis_fast": cv2.DISOPTICAL_FLOW_PRESET_FAST}
    if method not in presets:
        raise ValueError(f"expected flow to be one of dis, dis_fast, farneback, got {method!r}")
    return cv2.DISOpticalFlow_create(presets[method]).calc


def _cv2() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise ImportError("flow needs OpenCV: pip install opencv-python-headless") from error
