"""Small clips and rewards that the tests of the bench measure."""

import os
import time

import torch

from vidrl.rewards import Reward, video


def moving(frames=9, side=32, noise=0.02, seed=0, step=2):
    """A texture that slides, with grain, (F, 3, H, W) in [0, 1]."""
    draw = torch.Generator().manual_seed(seed)
    ground = torch.rand(3, side, side + 16, generator=draw)
    grain = noise * torch.randn(frames, 3, side, side + 16, generator=draw)
    return (torch.stack([ground.roll(step * t, 2) for t in range(frames)]) + grain).clamp(0, 1)


def write(path, fps=8.0, lossless=True, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    return video.write(path, moving(**options), fps, lossless=lossless)


def folder(path, count=3, **options):
    for i in range(count):
        write(path / f"{i}.mp4", seed=i, **options)
    return path


class Counted(Reward):
    """Mean light; a line is written to the file TOLD.calls for every clip that it looks
    at."""

    def __init__(self, told: str = "", weight: float = 1.0) -> None:
        super().__init__()
        self.told, self.weight = told, weight

    def terms(self, samples):
        return samples.frames.mean((2, 3, 4)) * self.weight

    def terms_of_clip(self, features, about):
        if self.told:
            with open(f"{self.told}.calls", "a") as file:
                file.write("x\n")
        return features


class Slow(Counted):
    """Takes a while for a clip."""

    def terms_of_clip(self, features, about):
        time.sleep(0.4)
        return super().terms_of_clip(features, about)


class Spoiled(Reward):
    """Fails, crashes or hangs on dark clips."""

    def __init__(self, how: str = "error") -> None:
        super().__init__()
        self.how = how

    def terms(self, samples):
        light = samples.frames.mean((2, 3, 4))
        if float(light.mean()) < 0.1:
            if self.how == "crash":
                os._exit(3)
            if self.how == "hang":
                time.sleep(60)
            raise RuntimeError("this network failed <midway>")
        return light


class Needy(Reward):
    """Its weights are nowhere."""

    learned = True

    def terms(self, samples):
        raise ImportError("needs weights: pip install 'nothing'")


class Unbuilt(Reward):
    """Cannot be built."""

    def __init__(self) -> None:
        super().__init__()
        raise RuntimeError("expected a GPU, found none")

    def terms(self, samples):
        return samples.frames.mean((2, 3, 4))


class Like(Reward):
    """How like the reference the frames are, and how long the prompt is: what a dim may
    read beside the pixels."""

    def features(self, samples):
        return samples.frames.mean((2, 3, 4))

    def terms_of_clip(self, features, about):
        if about.reference is None:
            return features * torch.nan
        return -(features - about.reference[:, 0].float().div(255).mean()).abs()
