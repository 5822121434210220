"""Estimators of optical flow behind `flow.estimate`: OpenCV's, and networks in batches.

OpenCV's run on the CPU, one pair of frames at a time. Shapes: B clips, F frames, C
channels, H W pixels; flow (..., 2, H, W) in pixels, channel 0 is x (right), channel 1 is y
(down).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .torch_flow import torch_flow

# A function of two batches of frames (N, 3, H, W) in [0, 1] to flow (N, 2, H, W), pixels.
Estimator = Callable[[Tensor, Tensor], Tensor]

# The least range of a pair that is stretched to [0, 1]: the noise of a nearly plain picture is
# not stretched to the full range.
FAINT = 0.05

METHODS = ("auto", "dis", "dis_fast", "farneback", "torch", "raft:PATH")


def enlargement(side: int) -> float:
    """Return the factor by which frames are enlarged before DIS reads them.

    `side` is their shorter side, in pixels. The finest level of DIS is half its input, so
    small frames are doubled, up to 96 pixels. On vidrl.synthetic.world more was no better:
    the end-point error was, for frames of 32 pixels (colour axis, straight motion), 0.13
    pixels at 64 and 0.10 at 96 and 256; for frames of 64 pixels, 0.16 at 64, 0.05 at 96 and
    0.10 at 128.

    >>> [enlargement(side) for side in (16, 32, 64, 120)]
    [4.0, 2.0, 1.5, 1.0]
    """
    return max(1.0, max(64, min(2 * side, 96)) / side)


def clip_flow(frames: Tensor, calc: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    """Return the flow forward and backward of one clip (F, C, H, W).

    (F - 1, 2, H, W) each.
    """
    cv2 = _cv2()
    height, width = frames.shape[-2:]
    if len(frames) < 2:
        return frames.new_zeros(0, 2, height, width), frames.new_zeros(0, 2, height, width)
    goal = tuple(round(side * enlargement(min(height, width))) for side in (width, height))
    flows = np.empty((2, len(frames) - 1, 2, goal[1], goal[0]), np.float32)
    threads = cv2.getNumThreads()
    # DIS divides the picture among threads, and its result depends on the division.
    cv2.setNumThreads(1)
    try:
        # All planes are made before the first flow: taking turns with DIS, which evicts data and
        # code from the cache, made the planes several times slower.
        pairs = [[_in_bytes(plane, goal) for plane in planes] for planes in _views(frames)]
        for t, (first, second) in enumerate(pairs):
            for way, flow in zip(flows[:, t], _pair(first, second, calc)):
                way[:] = flow.transpose(2, 0, 1)
    finally:
        cv2.setNumThreads(threads)
    there, back = torch.from_numpy(flows)
    if goal == (width, height):
        return there, back
    # a flow is a length in pixels, so it shrinks with the picture
    there, back = (_reduced(flow, (height, width)) * (width / goal[0]) for flow in (there, back))
    return there, back


def _reduced(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Return flows (N, 2, H, W) at a smaller size, each pixel a mean of those that it touches."""
    if [2 * side for side in flow.shape[-2:]] != [3 * side for side in size]:
        return interpolate(flow, size=size, mode="area")
    # Two pixels for three, added in the order of `interpolate`, in less than half of its time.
    cells = flow.unflatten(-2, (-1, 3)).unflatten(-1, (-1, 3))
    upper, lower = cells[..., :2, :, :], cells[..., 1:, :, :]
    sums = upper[..., :2] + upper[..., 1:]
    sums += lower[..., :2]
    sums += lower[..., 1:]
    return sums.flatten(-4, -3).flatten(-2) / 4


def _pair(
    first: np.ndarray, second: np.ndarray, calc: Callable[..., Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the flow of two planes of bytes both ways, (H, W, 2) each."""
    return calc(first, second, None), calc(second, first, None)


def _in_bytes(plane: np.ndarray, goal: tuple[int, ...]) -> np.ndarray:
    """Return a plane of 0..255 as bytes, at the size `goal`, (width, height)."""
    if plane.shape[::-1] != goal:
        cv2 = _cv2()
        plane = cv2.resize(plane, goal, interpolation=cv2.INTER_CUBIC)
        # cubic interpolation overshoots at edges
        plane = np.minimum(np.maximum(plane, 0, out=plane), 255, out=plane)
    return plane.astype(np.uint8)


def _views(frames: Tensor) -> Iterator[np.ndarray]:
    """Yield each pair of neighbouring frames as two grey planes, (2, H, W), in 0..255.

    OpenCV's estimators read one channel. The numbers are those of `seen_along`, computed in
    place.
    """
    pictures = frames.flatten(2)
    for t, axis in enumerate(changing_colour(frames)):
        planes = torch.stack([axis @ picture for picture in pictures[t : t + 2]]).numpy()
        low, high = planes.min(), planes.max()
        planes -= low
        planes /= max(high - low, np.float32(FAINT))
        planes *= 255
        yield planes.reshape(2, *frames.shape[-2:])


def seen_along(axis: Tensor, pairs: Tensor) -> Tensor:
    """Return pairs of frames as grey planes along a colour axis, (..., 2, H, W), in [0, 1].

    `pairs` are (..., 2, C, H, W) and `axis` (..., C). The range of each pair is stretched
    to [0, 1], so that a clip with less brightness or contrast has the flow of the original
    clip.
    """
    planes = (axis[..., None, None, :] @ pairs.flatten(-2))[..., 0, :].unflatten(
        -1, pairs.shape[-2:]
    )
    low, high = (end[..., None, None, None] for end in planes.flatten(-3).aminmax(dim=-1))
    return (planes - low) / (high - low).clamp(min=FAINT)


def changing_colour(frames: Tensor, still: float = 0.2) -> Tensor:
    """Return the colour axis along which edges change most between neighbouring frames.

    (..., F - 1, C) for clips (..., F, C, H, W). A red shape on a grey of the same
    brightness has no edge in luma, and a shape over stripes a weaker edge than the stripes;
    along this axis the shape has the strongest edge. The axis is the principal axis of the
    covariance of changed edges plus `still`^2 times that of edges that stay, with a
    positive sum.
    """
    edges = torch.cat([frames.diff(dim=-1).flatten(-2), frames.diff(dim=-2).flatten(-2)], -1)
    # products of the channels of each frame, and with those of the frame before
    own = (edges @ edges.mT).double()
    other = (edges[..., 1:, :, :] @ edges[..., :-1, :, :].mT).double()
    # changes, and what stays
    both = (1 + still**2) * (own[..., :-1, :, :] + own[..., 1:, :, :]) - other - other.mT
    # 1e-9 in all entries: ties go to the mean of the colours
    axis = torch.linalg.eigh(both + 1e-9).eigenvectors[..., -1]
    return (axis * torch.where(axis.sum(-1, keepdim=True) < 0, -1.0, 1.0)).to(frames)


def opencv(method: str) -> Callable[..., Any]:
    """Return OpenCV's estimator `method`, a function of two planes (H, W) of bytes."""
    if method not in METHODS:
        raise ValueError(
            f"expected flow to be one of {', '.join(METHODS)}, or a function, got {method!r}"
        )
    cv2 = _cv2()
    if method == "farneback":
        # a pyramid of 5 levels, each half as large; windows of 15 pixels, 3 iterations;
        # polynomials over 5 pixels, smoothed by 1.2; no flags
        return lambda a, b, _: cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 5, 15, 3, 5, 1.2, 0)
    presets = {
        "dis": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
        "dis_fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    }
    return cv2.DISOpticalFlow_create(presets[method]).calc


@torch.no_grad()
def batched(frames: Tensor, method: str | Estimator, pairs: int) -> tuple[Tensor, Tensor]:
    """Return the flow forward and backward of clips (B, F, C, H, W).

    (B, F - 1, 2, H, W) each. `method` is an estimator that takes batches; a batch holds
    `pairs` pairs of frames.
    """
    both = torch.stack([frames[:, :-1], frames[:, 1:]], 2)
    if method == "torch":
        both = seen_along(changing_colour(frames), both)[:, :, :, None]
    else:
        both = both.expand(-1, -1, -1, 3, -1, -1)
    both = both.flatten(0, 1)  # (N, 2, C, H, W)
    find = _network(method)
    flows = [_both_ways(find, part) for part in both.split(max(1, pairs))]
    there, back = (
        torch.cat(flows, 1) if len(both) else frames.new_zeros(2, 0, 2, *frames.shape[-2:])
    )
    return there.view(len(frames), -1, *there.shape[1:]), back.view(
        len(frames), -1, *back.shape[1:]
    )


def _both_ways(find: Estimator, pairs: Tensor) -> Tensor:
    """Return the flow forward and backward of pairs (N, 2, C, H, W), (2, N, 2, H, W).

    One call of `find` estimates both.
    """
    first, second = pairs.unbind(1)
    flow = find(torch.cat([first, second]), torch.cat([second, first]))
    expected = (2 * len(pairs), 2, *pairs.shape[-2:])
    if tuple(flow.shape) != expected:
        raise ValueError(
            f"expected the flow function to return {expected}, got {tuple(flow.shape)}"
        )
    return flow.to(pairs.dtype).unflatten(0, (2, len(pairs)))


def _network(method: str | Estimator) -> Estimator:
    """Return the estimator that `method` names."""
    if callable(method):
        return method
    if method == "torch":
        return torch_flow
    from . import raft

    return raft.load(method.partition(":")[2])


def _cv2() -> Any:
    """Import OpenCV, or raise ImportError with the cure."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise ImportError("flow needs OpenCV: pip install opencv-python-headless") from error
