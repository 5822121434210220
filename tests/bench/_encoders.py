"""Encoders of somebody else, for tests."""

import os
from pathlib import Path

import torch


def mean_colour(frames, fps):
    """(3,): the clip's mean colour; each call is written down where CALLS says."""
    if told := os.environ.get("CALLS"):
        with Path(told).open("a") as file:
            file.write(f"{len(frames)} {fps:g}\n")
    return frames.float().mean((0, 2, 3)) / 255


def windows(frames, fps):
    """(W, 3): the mean colour of each pair of frames."""
    return torch.stack([pair.float().mean((0, 2, 3)) for pair in frames.split(2)]) / 255


def long(frames, fps):
    return frames.float().mean((1, 2, 3))


def picky(frames, fps):
    if len(frames) == 3:
        raise RuntimeError("three frames are too few")
    return mean_colour(frames, fps)


def broken(frames, fps):
    raise RuntimeError("no weights")


class Doubled:
    def __call__(self, frames, fps):
        return 2 * mean_colour(frames, fps)


NOTHING = 3
