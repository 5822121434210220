"""Squares of what differs between pictures, for float32 on the CPU; see `warp_error.changes`.

The arrays in which one pair of pictures is computed are used again for the next pair.
Shapes: (B, T, C, H, W) and (B, T, H, W); flow (B, T, 2, H, W) in pixels.
"""

from __future__ import annotations

import importlib

import numpy as np
import torch
from torch import Tensor

from . import planes


def changes(
    frames: Tensor,
    warped: tuple[Tensor, Tensor],
    seen: tuple[Tensor, Tensor],
    cameras: tuple[Tensor, Tensor],
) -> Tensor:
    """Return the four measures of `warp_error.changes` of each pair, (B, F - 1, 4)."""
    clips, count, *shape = frames.shape
    found, residual = np.zeros((clips, count - 1, 4), np.float32), Residual(*shape)
    arrays = [tensor.detach().numpy() for tensor in (*warped, *seen, *cameras)]
    pictures = frames.detach().numpy()
    for b in range(clips):
        spread = [planes.deviation(picture.reshape(-1, shape[-1])) ** 2 for picture in pictures[b]]
        for t in range(count - 1):
            both = (pictures[b, t], pictures[b, t + 1])
            later, earlier, *rest = (array[b, t] for array in arrays)
            found[b, t, :3] = residual.measures(both, (later, earlier), rest[:2], rest[2:])
            found[b, t, 3] = (spread[t] + spread[t + 1]) / 2
    return torch.from_numpy(found)


class Residual:
    """Computes the squares of `warp_error.squared` in arrays for pictures of one shape.

    Inside, pictures are interleaved, (H, W, C), or (H, W) for one channel; see
    `planes.interleave`.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.cv2, shape = importlib.import_module("cv2"), (channels, height, width)
        self.pictures = [planes.empty(*shape) for _ in range(3)]
        self.step, self.sums = (planes.empty(*shape) for _ in range(2))
        self.squares = [np.empty((height, width), np.float32) for _ in range(2)]
        self.warper = planes.Warper("bicubic", *shape)
        rows, columns = (_within_one(side) for side in (height, width))
        # the square of the number of pixels in each square of 3 by 3, and the number of channels
        self.share = 1 / ((rows[:, None] * columns) ** 2 * channels)

    def of(self, one: np.ndarray, other: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write the squares of two pictures (H, W, C) to `out`, (H, W)."""
        three, border = np.ones(3, np.float32), self.cv2.BORDER_CONSTANT
        np.subtract(one, other, out=self.step)
        self.cv2.sepFilter2D(self.step, -1, three, three, dst=self.sums, borderType=border)
        np.multiply(self.sums, self.sums, out=self.sums)
        planes.sum_of_channels(self.sums, out)
        out *= self.share
        return out

    def measures(
        self,
        pair: tuple[np.ndarray, np.ndarray],
        warped: tuple[np.ndarray, np.ndarray],
        seen: list[np.ndarray],
        cameras: list[np.ndarray],
    ) -> tuple[float, float, float]:
        """Return the plain residual, that of the camera's motion and that after warping.

        Pictures are (C, H, W).
        """
        first, second, third = self.pictures
        both = planes.interleave(pair[0], first), planes.interleave(pair[1], second)
        plain, square = self.squares
        identity, error = self.cv2.mean(self.of(both[1], both[0], plain))[0], 0.0
        for onto, picture, visible in zip(both, warped, seen, strict=True):
            self.of(planes.interleave(picture, third), onto, square)
            # pixels out of sight count with the plain difference
            np.copyto(square, plain, where=~visible)
            error += self.cv2.mean(square)[0] / 2
        return identity, min(identity, self._moved(both, cameras, identity)), error

    def _moved(
        self, pair: tuple[np.ndarray, np.ndarray], cameras: list[np.ndarray], still: float
    ) -> float:
        """Return the residual after moving the picture as the camera moves, both ways.

        Pictures are (H, W, C).
        """
        # the camera's flow is affine: it is 0 everywhere if it is 0 in three corners
        corners = [flow[:, y, x].any() for flow in cameras for y, x in ((0, 0), (0, -1), (-1, 0))]
        if not any(corners):
            return still
        total = 0.0
        for (onto, picture), flow in zip((pair, pair[::-1]), cameras, strict=True):
            moved = self.of(self.warper.interleaved(picture, flow), onto, self.squares[1])
            total += self.cv2.mean(moved)[0] / 2
        return total


def _within_one(side: int) -> np.ndarray:
    """Return how many pixels of a row lie within 1 of each pixel, (side,): 3, but 2 at the ends."""
    counts = np.full(side, 3, np.float32)
    counts[[0, -1]] -= 1
    return counts
