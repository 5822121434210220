"""Corrupt clips as generators fail and as policies cheat: one small function a corruption.

Tests, audits and meta-evaluations measure whether a reward falls under these corruptions.
`Reward.lowered_by` uses the same names. `reencode` is the control: the loss of a clip that
is saved once more, which no reward should punish.

Legend: each function `_do_NAME(v, s, g)` takes a clip v (F, C, H, W), float in [0, 1], on
any device; a strength s, where 1 is clearly visible and 0 changes nothing; and a random
generator g.

Example:
    >>> import torch
    >>> clip = torch.rand(8, 3, 16, 16)
    >>> bool((corrupt(clip, "freeze") == clip[:1]).all())
    True
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, interpolate, pad

Draw = torch.Generator


def names() -> list[str]:
    """Return the name of every corruption, in the order of this file."""
    return list(_table())


def corrupt(video: Tensor, name: str, strength: float = 1.0, seed: int = 0) -> Tensor:
    """Apply a corruption to a clip (F, C, H, W) in [0, 1] and return a clip of equal shape.

    The result depends only on the arguments: random corruptions draw from `seed`. Raises
    ValueError for an unknown name, a strength below 0 or a video of another shape or type.
    """
    if name not in _table():
        raise ValueError(f"expected a corruption out of {', '.join(names())}, got {name!r}")
    if not strength >= 0:
        raise ValueError(f"expected a strength of 0 (nothing changes) or more, got {strength}")
    if video.dim() != 4 or not video.is_floating_point():
        raise ValueError(
            f"expected a float clip (F, C, H, W) in [0, 1], got {video.dtype} {tuple(video.shape)}"
        )
    return _table()[name](video, strength, torch.Generator().manual_seed(seed)).clamp(0, 1)


@lru_cache
def _table() -> dict[str, Callable[[Tensor, float, Draw], Tensor]]:
    """Return the functions `_do_NAME` of this module by NAME, in the order of the file."""
    module = sys.modules[__name__]
    found = inspect.getmembers(
        module, lambda f: inspect.isfunction(f) and f.__name__.startswith("_do_")
    )
    return {
        f.__name__[4:]: f
        for _, f in sorted(found, key=lambda pair: pair[1].__code__.co_firstlineno)
    }


# Stillness and time


def _do_freeze(v: Tensor, s: float, g: Draw) -> Tensor:
    """Freeze the last part s of the clip: repeat the frame at which the freeze begins."""
    stop = round((len(v) - 1) * (1 - min(s, 1.0)))
    return v[torch.arange(len(v)).clamp(max=stop)]


def _do_duplicate(v: Tensor, s: float, g: Draw) -> Tensor:
    """Show each frame 1 + s times at the same frame rate, which hides a lower frame rate.

    Where 1 + s is not an integer, some frames are shown once more than others, as in a
    conversion of frame rates.
    """
    # 1e-9 keeps exact quotients, such as 4 / 2, from rounding down to the integer below.
    shown = (torch.arange(len(v), dtype=torch.float64) / (1 + s) + 1e-9).floor()
    return v[(shown * (1 + s) + 1e-9).long()]


def _do_stutter(v: Tensor, s: float, g: Draw) -> Tensor:
    """Replace frames at random by the last frame on time; each is late with probability 0.35 s."""
    late = torch.rand(len(v), generator=g) < 0.35 * s
    late[0] = False
    index = torch.where(late, -1, torch.arange(len(v)))
    return v[index.cummax(0).values]  # the running maximum is the last frame on time


def _do_slow(v: Tensor, s: float, g: Draw) -> Tensor:
    """Make the motion slower by the factor 1 + s, by blending neighbouring frames."""
    at = torch.arange(len(v)) / (1 + s)
    low, mix = at.floor().long(), (at % 1)[:, None, None, None].to(v)
    return v[low] * (1 - mix) + v[(low + 1).clamp(max=len(v) - 1)] * mix


def _do_average(v: Tensor, s: float, g: Draw) -> Tensor:
    """Replace each frame by a running average over time with memory m = 0.7 s.

    average ← m · average + (1 − m) · frame; m is at most 0.95.
    """
    out, memory = [v[0]], min(0.7 * s, 0.95)
    for frame in v[1:]:
        out.append(memory * out[-1] + (1 - memory) * frame)
    return torch.stack(out)


def _do_cut(v: Tensor, s: float, g: Draw) -> Tensor:
    """Cut to another picture in the second half: mirrored, upside down and inverted."""
    half = len(v) // 2
    return torch.cat([v[:half], torch.lerp(v[half:], _other(v[half:]), s)])


def _do_dissolve(v: Tensor, s: float, g: Draw) -> Tensor:
    """Dissolve into another picture, that of `cut`, over the middle half of the clip."""
    # cut to [0, 1], the ramp rises in the middle half of the clip
    turn = (
        torch.linspace(-0.5, 1.5, len(v))[:, None, None, None]
        if len(v) > 1
        else torch.zeros(1, 1, 1, 1)
    ).to(v)
    return torch.lerp(v, _other(v), min(s, 1.0) * turn.clamp(0, 1))


def _other(v: Tensor) -> Tensor:
    """Return another picture with equal statistics: mirrored, upside down and inverted."""
    return 1 - v.flip(-1, -2)


def _do_blend(v: Tensor, s: float, g: Draw) -> Tensor:
    """Mix each frame with the frame 1/8 of the clip earlier, which leaves a ghost."""
    earlier = (torch.arange(len(v)) - max(1, len(v) // 8)).clamp(min=0)
    return torch.lerp(v, v[earlier], min(0.5 * s, 1.0))


def _do_shuffle(v: Tensor, s: float, g: Draw) -> Tensor:
    """Exchange the places of a random fraction s of the frames."""
    chosen = (
        torch.randperm(len(v), generator=g)[: max(2, round(min(s, 1.0) * len(v)))]
        if s > 0
        else torch.arange(0)
    )
    index = torch.arange(len(v))
    # the chosen frames, in random order, take the chosen places in ascending order
    index[chosen.sort().values] = chosen
    return v[index]


def _do_reverse(v: Tensor, s: float, g: Draw) -> Tensor:
    """Reverse the time; only rewards that read the caption can detect this."""
    return v.flip(0) if s > 0 else v


def _do_loop(v: Tensor, s: float, g: Draw) -> Tensor:
    """Repeat a short piece of the clip, forwards and backwards in turn."""
    period = max(2, round(len(v) / (1 + 2 * s)))
    phase = torch.arange(len(v)) % (2 * period - 2)
    return v[torch.where(phase < period, phase, 2 * period - 2 - phase)]


def _do_mirror(v: Tensor, s: float, g: Draw) -> Tensor:
    """Mirror left and right; only rewards that read the caption can detect this."""
    return v.flip(-1) if s > 0 else v


# Camera


def _do_pan(v: Tensor, s: float, g: Draw) -> Tensor:
    """Pan slowly over a still of the first frame: the picture moves, the subject does not.

    Below strength 1 the subject still moves, at 1 − s of the speed.
    """
    still = v[(torch.arange(len(v)) * (1 - min(s, 1.0))).round().long()]
    steps = torch.arange(len(v)) / max(len(v) - 1, 1) * 0.5 * s
    return _moved(still, torch.stack([steps, 0 * steps], -1))


def _do_zoom(v: Tensor, s: float, g: Draw) -> Tensor:
    """Zoom slowly into a still of the first frame: the picture moves, the subject does not.

    Below strength 1 the subject still moves, at 1 − s of the speed.
    """
    still = v[(torch.arange(len(v)) * (1 - min(s, 1.0))).round().long()]
    return _moved(still, torch.zeros(len(v), 2), 1 / (1 + 0.35 * s * torch.linspace(0, 1, len(v))))


def _do_shake(v: Tensor, s: float, g: Draw) -> Tensor:
    """Shift each frame at random, by about 5 % of its width."""
    return _moved(v, 0.1 * s * torch.randn(len(v), 2, generator=g))


def _moved(v: Tensor, offset: Tensor, scale: Tensor | None = None) -> Tensor:
    """Shift each frame by (x, y) half-widths and crop it to `scale` of its width.

    Pixels from beyond the frame are mirrored at its edge.
    """
    shown = torch.eye(2).expand(len(v), 2, 2) * (1 if scale is None else scale[:, None, None])
    theta = torch.cat([shown, offset[:, :, None]], 2).to(v)
    grid = torch.nn.functional.affine_grid(theta, list(v.shape), align_corners=False)
    return grid_sample(v, grid, padding_mode="reflection", align_corners=False)


# Light and detail


def _do_flicker(v: Tensor, s: float, g: Draw) -> Tensor:
    """Change the brightness of each frame at random, by about 20 %."""
    return v * (1 + 0.2 * s * torch.randn(len(v), 1, 1, 1, generator=g).clamp(-2, 2).to(v))


def _do_noise(v: Tensor, s: float, g: Draw) -> Tensor:
    """Add independent grain of standard deviation 0.06 s to every frame."""
    return v + 0.06 * s * torch.randn(v.shape, generator=g).to(v)


def _do_blur(v: Tensor, s: float, g: Draw) -> Tensor:
    """Blur with a Gaussian whose sigma is 5 % of the width, times s."""
    return _blurred(v, 0.05 * s * v.shape[-1])


def _do_sharpen(v: Tensor, s: float, g: Draw) -> Tensor:
    """Sharpen with an unsharp mask, which exaggerates edges and adds halos."""
    return v + 1.5 * s * (v - _blurred(v, 0.02 * v.shape[-1]))


def _do_denoise(v: Tensor, s: float, g: Draw) -> Tensor:
    """Remove faint detail and keep edges, as a denoiser does."""
    detail = v - _blurred(v, 0.02 * v.shape[-1])
    return v - detail.clamp(-0.04 * s, 0.04 * s)


def _blurred(v: Tensor, sigma: float) -> Tensor:
    """Return each picture blurred by a Gaussian of `sigma` pixels; edge pixels are repeated."""
    if sigma <= 0:
        return v
    radius = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2).to(v)
    kernel = (kernel / kernel.sum())[None, None, None]
    flat = conv2d(pad(v.flatten(0, 1)[:, None], [radius] * 4, mode="replicate"), kernel)
    return conv2d(flat, kernel.mT).view_as(v)


def _do_dim(v: Tensor, s: float, g: Draw) -> Tensor:
    """Make the clip darker: multiply all values by 0.3^s."""
    return v * 0.3**s


def _do_fade(v: Tensor, s: float, g: Draw) -> Tensor:
    """Make the clip darker over time, down to 0.3^s at the last frame."""
    return v * (0.3**s) ** torch.linspace(0, 1, len(v))[:, None, None, None].to(v)


def _do_contrast(v: Tensor, s: float, g: Draw) -> Tensor:
    """Reduce the contrast about the clip's mean, to half at s = 1."""
    return torch.lerp(v, v.mean().expand_as(v), min(0.5 * s, 1.0))


def _do_grey(v: Tensor, s: float, g: Draw) -> Tensor:
    """Blend into a uniform grey, which has no visible fault either."""
    return torch.lerp(v, torch.full_like(v, 0.5), min(s, 1.0))


def _do_desaturate(v: Tensor, s: float, g: Draw) -> Tensor:
    """Remove the colour: blend into the mean of the channels."""
    return torch.lerp(v, v.mean(1, keepdim=True).expand_as(v), min(s, 1.0))


def _do_saturate(v: Tensor, s: float, g: Draw) -> Tensor:
    """Increase the saturation by the factor 1 + 1.5 s."""
    luma = v.mean(1, keepdim=True)
    return luma + (v - luma) * (1 + 1.5 * s)


def _do_expose(v: Tensor, s: float, g: Draw) -> Tensor:
    """Over-expose: multiply all values by 2.2^s, which clips highlights."""
    return v * 2.2**s


def _do_codec(v: Tensor, s: float, g: Draw) -> Tensor:
    """Blend with means over blocks of 1/16 of the width, as a codec at a low bit rate."""
    size = max(2, v.shape[-1] // 16)
    blocks = interpolate(avg_pool2d(v, size, ceil_mode=True), scale_factor=size)[
        ..., : v.shape[-2], : v.shape[-1]
    ]
    return torch.lerp(v, blocks, min(0.8 * s, 1.0))


def _do_grid(v: Tensor, s: float, g: Draw) -> Tensor:
    """Add a fixed checkerboard of single pixels, which looks like detail to a sharpness measure."""
    y, x = torch.meshgrid(torch.arange(v.shape[-2]), torch.arange(v.shape[-1]), indexing="ij")
    return v + 0.06 * s * (1 - 2.0 * ((x + y) % 2)).to(v)


def _do_drift(v: Tensor, s: float, g: Draw) -> Tensor:
    """Shift the colours slowly: red turns to green, green to blue, blue to red."""
    turn = torch.linspace(0, min(s, 1.0), len(v))[:, None, None, None].to(v)
    return torch.lerp(v, v.roll(1, dims=1), turn) if v.shape[1] == 3 else v * (1 - 0.5 * turn)


# A loss that nobody sees


def _do_reencode(v: Tensor, s: float, g: Draw) -> Tensor:
    """Save once more with loss, as JPEG of good quality: round cosines of 8 x 8 blocks.

    Each seed places the blocks differently, so that several copies of one clip differ.
    """
    if s <= 0:
        return v
    (height, width), (x, y) = v.shape[-2:], torch.randint(8, (2,), generator=g).tolist()
    margins = [x, -(width + x) % 8, y, -(height + y) % 8]
    basis, frequency = _cosines().to(v), torch.arange(8)
    # Like JPEG: coarser steps for high frequencies, and steps twice as coarse for colour.
    step = (0.012 * s * (1 + (frequency[:, None] + frequency) / 2)).to(v)
    luma = v.mean(1, keepdim=True)
    saved = [
        _rounded(pad(part, margins, mode="replicate"), basis, step * k)
        for part, k in ((luma, 1), (v - luma, 2))
    ]
    return sum(saved)[..., y : y + height, x : x + width]  # type: ignore[index]


def _rounded(v: Tensor, basis: Tensor, step: Tensor) -> Tensor:
    """Return v with the cosine coefficients of each 8 x 8 block rounded to multiples of `step`."""
    blocks = v.unfold(2, 8, 8).unfold(3, 8, 8)  # (F, C, rows, columns, 8, 8)
    cosines = torch.round(basis @ blocks @ basis.T / step) * step
    return (basis.T @ cosines @ basis).transpose(3, 4).reshape(v.shape)


def _cosines() -> Tensor:
    """Return the orthonormal cosine basis of 8 points (DCT-II), one function a row."""
    k, x = torch.arange(8.0)[:, None], torch.arange(8.0)
    rows = torch.cos(torch.pi * (2 * x + 1) * k / 16) / 2
    return torch.cat([rows[:1] / 2**0.5, rows[1:]])
