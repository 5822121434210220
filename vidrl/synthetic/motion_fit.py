"""Define a reward that measures whether the object moves as its caption says.

Nothing is learned: the motions of `vidrl.synthetic.world` are known exactly.

Legend: B clips, F frames, H W pixels; places in frame widths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidrl.rewards import Card, Reward, Samples

from . import world
from .caption_fit import saturated

WIDTH = 0.03  # an error of a step, in frame widths, at which the score is 1/e
SIZE = 0.35  # how much of a width a change of the log-size by 1 counts
PHASES = 8  # of motions that repeat; the phase that fits best counts


class MotionFit(Reward):
    """Score how well each step of the object, from frame to frame, fits the caption, in [0, 1].

    The score of a step is exp(−e/0.03), with e the distance, in frame widths, between the step of
    the object and the step that the caption's motion and speed ask for, in x, y and 0.35 times the
    log of the size. The object is the saturated part of a frame. A motion that repeats is compared
    in the phase that fits the clip best. Where the object starts does not count.

    Two neighbouring frames decide a score, so that credit by segments is right. A run that was
    trained with this reward is verified by `vidrl.synthetic.verifier`, which compares whole paths
    with those of all motions.

    >>> scenes = [world.Scene("cross", "blue", way, "fast") for way in ("up", "down")]
    >>> clips = [world.render(scene).video for scene in scenes]
    >>> prompts = [scenes[0].caption] * 2
    >>> fits = MotionFit()(Samples(torch.stack(clips), prompts, 8.0)).value
    >>> bool(fits[0] > 0.7), bool(fits[1] < 0.2)
    (True, True)
    """

    differentiable = True
    range = (0.0, 1.0)
    time_support = "pair"
    lookahead = 1
    lowered_by = ("reverse",)
    lost = "inapplicable: needs square frames in colour and a caption of vidrl.synthetic.world"
    card = Card(
        sees="Direction, path, growth and speed of the saturated object, step by step.",
        blind_to="Shape, colour, background, and where the object is.",
        hacks="Several coloured patches whose common centre moves as asked.",
        input="Square frames and captions of vidrl.synthetic.world.",
        cost="0.02 ms a frame of 32 x 32 on one CPU thread.",
    )

    def terms(self, samples: Samples) -> Tensor:
        """Return the fit of each step, (B, F - 1); NaN if the reward does not apply."""
        video = samples.frames
        if video.shape[-1] != video.shape[-2] or video.shape[2] != 3:
            return video.new_full((len(video), video.shape[1] - 1), torch.nan)
        pairs = zip(_paths(video), samples.prompts, strict=True)
        return torch.stack([_fit(path, prompt, samples.fps) for path, prompt in pairs])


def _paths(video: Tensor) -> Tensor:
    """Return the object's place and weighted log-size in each frame, (B, F, 3)."""
    mask = saturated(video.flatten(0, 1)).unflatten(0, video.shape[:2])
    grid = world.pixel_grid(video.shape[-1]).to(video)
    total = mask.sum((2, 3)).clamp(min=1e-3)
    centre = torch.einsum("bfhw,hwc->bfc", mask, grid) / total[..., None]
    size = SIZE * (total / mask[0, 0].numel()).log() / 2
    return torch.cat([centre, size[..., None]], 2)


def _fit(path: Tensor, prompt: str, fps: float) -> Tensor:
    """Return the fit of each step of a path (F, 3), (F - 1,); NaN if no caption of `world`."""
    try:
        scene = world.parse(prompt)
    except ValueError:
        return path.new_full((len(path) - 1,), torch.nan)
    seconds = torch.arange(len(path)) / fps
    wanted = torch.stack(
        [
            world.trajectory(scene.motion, scene.speed, seconds, phase / PHASES)
            for phase in range(PHASES if scene.motion in ("circle", "bounce") else 1)
        ]
    ).to(path)
    wanted = wanted * wanted.new_tensor([1.0, 1.0, SIZE])
    # the small number keeps the slope of the root finite at 0
    error = ((path.diff(dim=0) - wanted.diff(dim=1)).square().sum(2) + 1e-8).sqrt()
    return (-error[error.mean(1).argmin()] / WIDTH).exp()
