"""Define a reward that measures whether the camera moves as its caption says.

Nothing is learned: the cameras of `vidrl.synthetic.world` are known exactly.

Legend: B clips, F frames, H W pixels, K = 5 cameras; places in frame widths.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from vidrl.rewards import Card, Reward, Samples

from . import world
from .caption_fit import saturated

LAG = 4  # frames between the two pictures that are compared
_FLAT = 0.01  # grey levels: ground of a smaller standard deviation counts as flat


class CameraFit(Reward):
    """Score how well the caption's camera explains the ground, and how much better than others.

    The value is the mean over frames of c(wanted) + (c(wanted) - max c(other)), in [-3, 3]. A
    camera of `world.CAMERAS` says where each point of the ground is 4 frames later. c is the
    correlation between the ground of the later frame and the ground of the earlier one, moved
    so. The ground is all that is not saturated.

    A ground without texture has 0, and stripes along which the camera moves have 1, because a
    camera at rest explains them as well. A ground that the wanted camera explains better than
    all others has more than 1. A caption without a camera asks for a camera at rest.

    `vidrl.rewards.camera_object` measures the camera by optical flow, another method. So it can
    judge a policy that was trained with this reward.

    >>> pans = [world.Scene("cross", "blue", "rest", "slow", "speckled", c) for c in ("left", "up")]
    >>> clips = torch.stack([world.render(scene, 64).video for scene in pans])
    >>> fits = CameraFit()(Samples(clips, [pans[0].caption] * 2, 8.0)).value
    >>> bool(fits[0] > 1), bool(fits[1] < 0.9)
    (True, True)
    """

    differentiable = True
    range = (-3.0, 3.0)
    time_support = "pair"
    lookahead = LAG
    lowered_by = ("shuffle",)
    lost = "inapplicable: needs square frames in colour and a caption of vidrl.synthetic.world"
    card = Card(
        sees="Direction and speed of the camera over ground with texture.",
        blind_to="The object; a camera over plain ground or along stripes; zoom and roll.",
        hacks="Ground of more contrast or finer texture, which tells cameras apart better.",
        input="Square frames and captions of vidrl.synthetic.world.",
        cost="0.5 ms a frame of 64 x 64 on one CPU thread.",
    )

    def terms(self, samples: Samples) -> Tensor:
        """Return the score of each pair of frames, (B, F - 4); NaN if it does not apply."""
        video = samples.frames
        if video.shape[-1] != video.shape[-2] or video.shape[2] != 3:
            return video.new_full((len(video), video.shape[1] - LAG), torch.nan)
        pairs = zip(video, samples.prompts, strict=True)
        return torch.stack([_fit(clip, prompt, samples.fps) for clip, prompt in pairs])


def _fit(clip: Tensor, prompt: str, fps: float) -> Tensor:
    """Return the score of each pair of frames of a clip, (F - 4,); NaN for another prompt."""
    try:
        wanted = list(world.CAMERAS).index(world.parse(prompt).camera)
    except ValueError:
        return clip.new_full((len(clip) - LAG,), torch.nan)
    found = explained(clip, fps)
    others = torch.cat([found[:wanted], found[wanted + 1 :]])
    # without the first term, ground without texture would score more than ground at rest
    return 2 * found[wanted] - others.amax(0)


def explained(clip: Tensor, fps: float) -> Tensor:
    """Return how well each camera explains the ground of a clip (F, 3, H, W), (K, F - 4)."""
    grey, ground = clip.mean(1), _ground(clip)
    layers = torch.stack([grey, ground], 1)[:-LAG]
    shown = []
    for way in world.CAMERAS.values():
        shift = clip.new_tensor(way) * world.CAMERA_SPEED * LAG / fps
        grid = 2 * (world.pixel_grid(clip.shape[-1]).to(clip) + shift) - 1
        grid = grid.expand(len(layers), -1, -1, -1)
        moved = grid_sample(layers, grid, padding_mode="border", align_corners=False)
        inside = (grid.abs() < 1).all(-1)
        shown.append(_correlation(moved[:, 0], grey[LAG:], moved[:, 1] * ground[LAG:] * inside))
    return torch.stack(shown)


def _ground(clip: Tensor) -> Tensor:
    """Return 1 where the ground shows and 0 on and near the object, (F, H, W)."""
    near = 2 * (clip.shape[-1] // 32) + 1
    return 1 - max_pool2d(saturated(clip.detach()), near, 1, near // 2)


def _correlation(first: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted correlation of pictures (F, H, W), (F,); 0 where one of them is flat."""
    weight = weight / weight.sum((1, 2), keepdim=True).clamp(min=1)
    first, other = (x - (weight * x).sum((1, 2), keepdim=True) for x in (first, other))
    both = (weight * first * other).sum((1, 2))
    size = [(weight * x.square()).sum((1, 2)) + _FLAT**2 for x in (first, other)]
    return both / (size[0] * size[1]).sqrt()
