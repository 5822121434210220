"""A reward that is verified, not learned: whether a frame shows the object that its caption
of `vidrl.synthetic.world` names.

Legend: B clips, F frames, H W pixels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vidrl.rewards import Card, Reward, Samples

from . import world

UNIT = 0.2  # radius, in widths, at which the area and the middle of each shape are measured
LEAST = 0.005  # of the frame: a smaller object is none


class CaptionFit(Reward):
    """How well the coloured object of each frame fits the shape and the colour of its
    caption, in [0, 1].

    overlap × hue. m is the mask of the saturated pixels, M the named shape drawn at the
    place and with the area of m: overlap = Σ min(m, M) / Σ max(m, M). hue is the cosine
    between the deviations from grey of the mean colour under m and of the named colour, at
    least 0. A frame without an object scores 0. Backgrounds of `vidrl.synthetic.world` are
    grey.

    It scores images and clips. `vidrl.synthetic.verifier`, which judges what a run has
    learned, reads shapes in another way: by the best correlation with templates of all
    shapes, so that it answers with a word and not with a number.

    >>> clip = world.render(world.Scene("cross", "blue", "rest"), size=64, frames=1)
    >>> fits = CaptionFit()(Samples(clip.video[None].expand(3, -1, -1, -1, -1), [
    ...     "a blue cross stays still on a dark background", "a blue circle stays still on a dark background",
    ...     "a red cross stays still on a dark background"], 8.0))
    >>> [round(x, 1) for x in fits.value.tolist()]
    [1.0, 0.7, 0.0]
    """

    range = (0.0, 1.0)
    lowered_by = ("noise", "grey", "desaturate")
    lost = (
        "inapplicable: needs square frames in colour and a caption of vidrl.synthetic.world, such as "
        "'a red circle stays still on a dark background'"
    )
    card = Card(
        sees="Whether each frame shows one saturated object of the named shape and colour, wherever and however large.",
        blind_to="Motion, background, place and size; how an object changes over time.",
        hacks="A larger object, whose soft edge is a smaller share of it; the same picture for every noise.",
        input="Square frames and captions of vidrl.synthetic.world.",
        cost="0.4 ms a frame of 64 x 64 on one CPU thread.",
    )

    def terms(self, samples: Samples) -> Tensor:
        """The fit of each frame, (B, F)."""
        video = samples.frames
        if video.shape[-1] != video.shape[-2] or video.shape[2] != 3:
            return video.new_full(video.shape[:2], torch.nan)
        return torch.stack(
            [_clip(clip, prompt) for clip, prompt in zip(video, samples.prompts, strict=True)]
        )


def _clip(clip: Tensor, prompt: str) -> Tensor:
    """The fit of the frames of one clip (F, 3, H, W), (F,); NaN where the prompt is no
    caption."""
    try:
        scene = world.parse(prompt)
    except ValueError:
        return clip.new_full(clip.shape[:1], torch.nan)
    mask = saturated(clip)
    overlap = ideal_overlap(mask, scene.shape)
    mean = torch.einsum("fchw,fhw->fc", clip, mask) / mask.sum((1, 2)).clamp(min=1e-6)[:, None]
    hue = (_tint(mean) * _tint(clip.new_tensor(world.COLOURS[scene.colour]))).sum(-1).clamp(min=0)
    return (overlap * hue).masked_fill(mask.mean((1, 2)) < LEAST, 0.0)


def saturated(clip: Tensor) -> Tensor:
    """Soft mask (F, H, W) of saturated pixels: 0 up to a fifth of full saturation, 1 from
    three fifths on."""
    return ((clip.amax(1) - clip.amin(1) - 0.2) / 0.4).clamp(0, 1)


def ideal_overlap(mask: Tensor, shape: str) -> Tensor:
    """Σ min(m, M) / Σ max(m, M) of masks (F, H, W) with the shape drawn at their places and
    of their areas, (F,)."""
    area, middle = _measured(shape)
    seen = mask.mean((1, 2)).clamp(min=1e-6)
    radius = UNIT * (seen / area).sqrt()
    grid = world.pixel_grid(mask.shape[-1]).to(mask)
    centre = torch.einsum("fhw,hwc->fc", mask, grid) / mask.sum((1, 2)).clamp(min=1e-6)[:, None]
    drawn = world.coverage(
        shape, centre - middle.to(mask) * radius[:, None] / UNIT, radius, mask.shape[-1]
    ).to(mask)
    return torch.minimum(mask, drawn).sum((1, 2)) / torch.maximum(mask, drawn).sum((1, 2))


@lru_cache
def _measured(shape: str) -> tuple[float, Tensor]:
    """The area of a shape of radius UNIT, as a share of the frame, and how far its centre
    of mass lies off, (2,)."""
    drawn = world.coverage(shape, torch.tensor([[0.5, 0.5]]), torch.tensor([UNIT]), 256)[0]
    return float(drawn.mean()), torch.einsum(
        "hw,hwc->c", drawn, world.pixel_grid(256)
    ) / drawn.sum() - 0.5


def _tint(rgb: Tensor) -> Tensor:
    """Unit vector of a colour's deviation from grey."""
    return normalize(rgb - rgb.mean(-1, keepdim=True), dim=-1)
