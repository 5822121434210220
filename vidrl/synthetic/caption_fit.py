"""Define a reward that measures whether a frame shows the object that its caption names.

Nothing is learned: the scenes and captions of `vidrl.synthetic.world` are known exactly.

Legend: B clips, F frames, H W pixels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vidrl.rewards import Card, Reward, Samples

from . import world

UNIT = 0.2  # radius, in frame widths, at which each shape's area and centre are measured
LEAST_AREA = 0.005  # fraction of the frame: anything smaller does not count as an object


class CaptionFit(Reward):
    """Score how well each frame's object fits the caption's shape and colour, in [0, 1].

    The score is overlap × hue. With m the soft mask of the saturated pixels, and M the named
    shape drawn at the centre and with the area of m, overlap = Σ min(m, M) / Σ max(m, M).
    hue is the cosine between two deviations from grey, of the mean colour under m and of the
    named colour, and at least 0. A frame without an object scores 0. The backgrounds of
    `vidrl.synthetic.world` are grey, so that only the object is saturated.

    The reward scores images and clips. A run that was trained with this reward is verified
    by `vidrl.synthetic.verifier`, which uses another method (correlation with templates of
    all shapes), so that an exploit of this reward does not fool the verifier.

    >>> clip = world.render(world.Scene("cross", "blue", "rest"), size=64, frames=1)
    >>> captions = [f"a {words} stays still on a dark background"
    ...     for words in ("blue cross", "blue circle", "red cross")]
    >>> fits = CaptionFit()(Samples(clip.video[None].expand(3, -1, -1, -1, -1), captions, 8.0))
    >>> [round(x, 1) for x in fits.value.tolist()]
    [1.0, 0.7, 0.0]
    """

    range = (0.0, 1.0)
    lowered_by = ("noise", "grey", "desaturate")
    lost = (
        "inapplicable: needs square frames in colour and a caption of vidrl.synthetic.world, "
        "such as 'a red circle stays still on a dark background'"
    )
    card = Card(
        sees="Whether each frame shows one saturated object of the named shape and colour, "
        "at any place and size.",
        blind_to="Motion, background, place and size; how an object changes over time.",
        hacks="A larger object, whose soft edge is a smaller part of it; the same picture for "
        "every noise.",
        input="Square frames and captions of vidrl.synthetic.world.",
        cost="0.4 ms a frame of 64 x 64 on one CPU thread.",
    )

    def terms(self, samples: Samples) -> Tensor:
        """Return the fit of each frame, (B, F); NaN if the reward does not apply."""
        video = samples.frames
        if video.shape[-1] != video.shape[-2] or video.shape[2] != 3:
            return video.new_full(video.shape[:2], torch.nan)
        return torch.stack(
            [_clip(clip, prompt) for clip, prompt in zip(video, samples.prompts, strict=True)]
        )


def _clip(clip: Tensor, prompt: str) -> Tensor:
    """Return the fit of each frame of a clip (F, 3, H, W), (F,); NaN if no caption of `world`."""
    try:
        scene = world.parse(prompt)
    except ValueError:
        return clip.new_full(clip.shape[:1], torch.nan)
    mask = saturated(clip)
    overlap = ideal_overlap(mask, scene.shape)
    mean = torch.einsum("fchw,fhw->fc", clip, mask) / mask.sum((1, 2)).clamp(min=1e-6)[:, None]
    hue = (_tint(mean) * _tint(clip.new_tensor(world.COLOURS[scene.colour]))).sum(-1).clamp(min=0)
    return (overlap * hue).masked_fill(mask.mean((1, 2)) < LEAST_AREA, 0.0)


def saturated(clip: Tensor) -> Tensor:
    """Return the soft mask (F, H, W) of saturated pixels.

    The mask is 0 up to 1/5 of full saturation, 1 from 3/5, and linear between.
    """
    return ((clip.amax(1) - clip.amin(1) - 0.2) / 0.4).clamp(0, 1)


def ideal_overlap(mask: Tensor, shape: str) -> Tensor:
    """Return the overlap Σ min(m, M) / Σ max(m, M) of masks m (F, H, W) with a shape, (F,).

    M is the shape drawn with each mask's centre of mass and area.
    """
    area, offset = _measured(shape)
    mask_area = mask.mean((1, 2)).clamp(min=1e-6)
    radius = UNIT * (mask_area / area).sqrt()  # area grows with the square of the radius
    grid = world.pixel_grid(mask.shape[-1]).to(mask)
    centre = torch.einsum("fhw,hwc->fc", mask, grid) / mask.sum((1, 2)).clamp(min=1e-6)[:, None]
    drawn = world.coverage(
        shape, centre - offset.to(mask) * radius[:, None] / UNIT, radius, mask.shape[-1]
    ).to(mask)
    return torch.minimum(mask, drawn).sum((1, 2)) / torch.maximum(mask, drawn).sum((1, 2))


@lru_cache
def _measured(shape: str) -> tuple[float, Tensor]:
    """Return the area of a shape of radius UNIT and the offset of its centre of mass, (2,).

    The area is a fraction of the frame. The offset is 0 for all shapes but the triangle.
    """
    drawn = world.coverage(shape, torch.tensor([[0.5, 0.5]]), torch.tensor([UNIT]), 256)[0]
    return float(drawn.mean()), torch.einsum(
        "hw,hwc->c", drawn, world.pixel_grid(256)
    ) / drawn.sum() - 0.5


def _tint(rgb: Tensor) -> Tensor:
    """Return the unit vector of a colour's deviation from grey."""
    return normalize(rgb - rgb.mean(-1, keepdim=True), dim=-1)
