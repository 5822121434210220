"""The ways a clip goes wrong, and the ways a policy cheats: each a small function of one
clip.

Legend: video (F, C, H, W) float in [0, 1], on any device; strength 1 is plain to the eye, 0
changes nothing. The names are those that `Reward.lowered_by` uses. `reencode` is the null
among them: what a clip suffers when it is saved.

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
    """Every corruption, in the order of this file."""
    return list(_table())


def corrupt(video: Tensor, name: str, strength: float = 1.0, seed: int = 0) -> Tensor:
    """Apply one corruption to a clip (F, C, H, W) in [0, 1]; same shape back, deterministic
    in `seed`.

    Raises ValueError for an unknown name, a strength below 0 or a video of another shape.
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
    """The first frame, for the last `s` of the clip's time."""
    stop = round((len(v) - 1) * (1 - min(s, 1.0)))
    return v[torch.arange(len(v)).clamp(max=stop)]


def _do_duplicate(v: Tensor, s: float, g: Draw) -> Tensor:
    """Each frame shown 1 + s times at the same frame rate and places: a lower rate in
    disguise.

    Where 1 + s is no whole number, some frames are shown once more than others, as in a
    conversion of rates.
    """
    shown = (torch.arange(len(v), dtype=torch.float64) / (1 + s) + 1e-9).floor()
    return v[(shown * (1 + s) + 1e-9).long()]


def _do_stutter(v: Tensor, s: float, g: Draw) -> Tensor:
    """Frames dropped and repeated at random: each later frame is late with probability 0.35
    s."""
    late = torch.rand(len(v), generator=g) < 0.35 * s
    late[0] = False
    index = torch.where(late, -1, torch.arange(len(v)))
    return v[index.cummax(0).values]


def _do_slow(v: Tensor, s: float, g: Draw) -> Tensor:
    """Slow motion by blending neighbours, 1 + s times slower."""
    at = torch.arange(len(v)) / (1 + s)
    low, mix = at.floor().long(), (at % 1)[:, None, None, None].to(v)
    return v[low] * (1 - mix) + v[(low + 1).clamp(max=len(v) - 1)] * mix


def _do_average(v: Tensor, s: float, g: Draw) -> Tensor:
    """Running average over time with memory 0.7 s."""
    out, memory = [v[0]], min(0.7 * s, 0.95)
    for frame in v[1:]:
        out.append(memory * out[-1] + (1 - memory) * frame)
    return torch.stack(out)


def _do_cut(v: Tensor, s: float, g: Draw) -> Tensor:
    """The second half is another picture: mirrored, upside down and inverted."""
    half = len(v) // 2
    return torch.cat([v[:half], torch.lerp(v[half:], _other(v[half:]), s)])


def _do_dissolve(v: Tensor, s: float, g: Draw) -> Tensor:
    """Over the middle half of its time the clip turns into another picture, that of
    `cut`."""
    turn = (
        torch.linspace(-0.5, 1.5, len(v))[:, None, None, None]
        if len(v) > 1
        else torch.zeros(1, 1, 1, 1)
    ).to(v)
    return torch.lerp(v, _other(v), min(s, 1.0) * turn.clamp(0, 1))


def _other(v: Tensor) -> Tensor:
    return 1 - v.flip(-1, -2)


def _do_blend(v: Tensor, s: float, g: Draw) -> Tensor:
    """A ghost follows: each frame is mixed with the one an eighth of the clip earlier."""
    earlier = (torch.arange(len(v)) - max(1, len(v) // 8)).clamp(min=0)
    return torch.lerp(v, v[earlier], min(0.5 * s, 1.0))


def _do_shuffle(v: Tensor, s: float, g: Draw) -> Tensor:
    """A share `s` of the frames change places."""
    chosen = (
        torch.randperm(len(v), generator=g)[: max(2, round(min(s, 1.0) * len(v)))]
        if s > 0
        else torch.arange(0)
    )
    index = torch.arange(len(v))
    index[chosen.sort().values] = chosen
    return v[index]


def _do_reverse(v: Tensor, s: float, g: Draw) -> Tensor:
    """Backwards; no reward can tell, but through the caption."""
    return v.flip(0) if s > 0 else v


def _do_loop(v: Tensor, s: float, g: Draw) -> Tensor:
    """There and back: a short piece played forwards and backwards, over and over."""
    period = max(2, round(len(v) / (1 + 2 * s)))
    phase = torch.arange(len(v)) % (2 * period - 2)
    return v[torch.where(phase < period, phase, 2 * period - 2 - phase)]


def _do_mirror(v: Tensor, s: float, g: Draw) -> Tensor:
    """Left and right change places; no reward can tell, but through the caption."""
    return v.flip(-1) if s > 0 else v


# Camera


def _do_pan(v: Tensor, s: float, g: Draw) -> Tensor:
    """A synthetic slow pan over a still of the first frame: motion without a subject's
    motion.

    Below strength 1 the subject moves on, slower.
    """
    still = v[(torch.arange(len(v)) * (1 - min(s, 1.0))).round().long()]
    steps = torch.arange(len(v)) / max(len(v) - 1, 1) * 0.5 * s
    return _moved(still, torch.stack([steps, 0 * steps], -1))


def _do_zoom(v: Tensor, s: float, g: Draw) -> Tensor:
    """A synthetic slow zoom into a still of the first frame; below strength 1 the subject
    moves on, slower."""
    still = v[(torch.arange(len(v)) * (1 - min(s, 1.0))).round().long()]
    return _moved(still, torch.zeros(len(v), 2), 1 / (1 + 0.35 * s * torch.linspace(0, 1, len(v))))


def _do_shake(v: Tensor, s: float, g: Draw) -> Tensor:
    """The whole frame jumps by about 5 % of its width."""
    return _moved(v, 0.1 * s * torch.randn(len(v), 2, generator=g))


def _moved(v: Tensor, offset: Tensor, scale: Tensor | None = None) -> Tensor:
    """Shift each frame by (x, y) in half-widths and show `scale` of its width, edges
    mirrored."""
    shown = torch.eye(2).expand(len(v), 2, 2) * (1 if scale is None else scale[:, None, None])
    theta = torch.cat([shown, offset[:, :, None]], 2).to(v)
    grid = torch.nn.functional.affine_grid(theta, list(v.shape), align_corners=False)
    return grid_sample(v, grid, padding_mode="reflection", align_corners=False)


# Light and detail


def _do_flicker(v: Tensor, s: float, g: Draw) -> Tensor:
    """The brightness of each frame jumps by about 20 %."""
    return v * (1 + 0.2 * s * torch.randn(len(v), 1, 1, 1, generator=g).clamp(-2, 2).to(v))


def _do_noise(v: Tensor, s: float, g: Draw) -> Tensor:
    """Fresh grain in every frame."""
    return v + 0.06 * s * torch.randn(v.shape, generator=g).to(v)


def _do_blur(v: Tensor, s: float, g: Draw) -> Tensor:
    """Gaussian blur, sigma 5 % of the width."""
    return _blurred(v, 0.05 * s * v.shape[-1])


def _do_sharpen(v: Tensor, s: float, g: Draw) -> Tensor:
    """Edges overdrawn by an unsharp mask: detail that no lens made, with halos."""
    return v + 1.5 * s * (v - _blurred(v, 0.02 * v.shape[-1]))


def _do_denoise(v: Tensor, s: float, g: Draw) -> Tensor:
    """The faintest detail is smoothed away, edges stay: what a denoiser does."""
    detail = v - _blurred(v, 0.02 * v.shape[-1])
    return v - detail.clamp(-0.04 * s, 0.04 * s)


def _blurred(v: Tensor, sigma: float) -> Tensor:
    """Each picture under a Gaussian of `sigma` pixels, edges repeated."""
    if sigma <= 0:
        return v
    reach = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2).to(v)
    kernel = (kernel / kernel.sum())[None, None, None]
    flat = conv2d(pad(v.flatten(0, 1)[:, None], [reach] * 4, mode="replicate"), kernel)
    return conv2d(flat, kernel.mT).view_as(v)


def _do_dim(v: Tensor, s: float, g: Draw) -> Tensor:
    """Darker: light times 0.3 at strength 1."""
    return v * 0.3**s


def _do_fade(v: Tensor, s: float, g: Draw) -> Tensor:
    """Darker and darker towards the end."""
    return v * (0.3**s) ** torch.linspace(0, 1, len(v))[:, None, None, None].to(v)


def _do_contrast(v: Tensor, s: float, g: Draw) -> Tensor:
    """Half the contrast, about each clip's own mean."""
    return torch.lerp(v, v.mean().expand_as(v), min(0.5 * s, 1.0))


def _do_grey(v: Tensor, s: float, g: Draw) -> Tensor:
    """One grey field: nothing to see, nothing to fault."""
    return torch.lerp(v, torch.full_like(v, 0.5), min(s, 1.0))


def _do_desaturate(v: Tensor, s: float, g: Draw) -> Tensor:
    """Colour drained."""
    return torch.lerp(v, v.mean(1, keepdim=True).expand_as(v), min(s, 1.0))


def _do_saturate(v: Tensor, s: float, g: Draw) -> Tensor:
    """Colours pushed to the rails."""
    luma = v.mean(1, keepdim=True)
    return luma + (v - luma) * (1 + 1.5 * s)


def _do_expose(v: Tensor, s: float, g: Draw) -> Tensor:
    """Over-exposed."""
    return v * 2.2**s


def _do_codec(v: Tensor, s: float, g: Draw) -> Tensor:
    """Blocks of a starved codec: means over 1/16 of the width, fainter or stronger by
    `s`."""
    size = max(2, v.shape[-1] // 16)
    blocks = interpolate(avg_pool2d(v, size, ceil_mode=True), scale_factor=size)[
        ..., : v.shape[-2], : v.shape[-1]
    ]
    return torch.lerp(v, blocks, min(0.8 * s, 1.0))


def _do_grid(v: Tensor, s: float, g: Draw) -> Tensor:
    """A fixed checkerboard of single pixels: false detail."""
    y, x = torch.meshgrid(torch.arange(v.shape[-2]), torch.arange(v.shape[-1]), indexing="ij")
    return v + 0.06 * s * (1 - 2.0 * ((x + y) % 2)).to(v)


def _do_drift(v: Tensor, s: float, g: Draw) -> Tensor:
    """Colours turn slowly: red becomes green becomes blue."""
    turn = torch.linspace(0, min(s, 1.0), len(v))[:, None, None, None].to(v)
    return torch.lerp(v, v.roll(1, dims=1), turn) if v.shape[1] == 3 else v * (1 - 0.5 * turn)


# Nothing that anybody would see


def _do_reencode(v: Tensor, s: float, g: Draw) -> Tensor:
    """Saved once more with loss: cosines over blocks of 8 pixels rounded, as JPEG of good
    quality does.

    The blocks lie anew for each seed, so that several of one clip differ.
    """
    if s <= 0:
        return v
    (height, width), (x, y) = v.shape[-2:], torch.randint(8, (2,), generator=g).tolist()
    room = [x, -(width + x) % 8, y, -(height + y) % 8]
    basis, rise = _cosines().to(v), torch.arange(8)
    step = (0.012 * s * (1 + (rise[:, None] + rise) / 2)).to(v)
    luma = v.mean(1, keepdim=True)
    saved = [
        _rounded(pad(part, room, mode="replicate"), basis, step * k)
        for part, k in ((luma, 1), (v - luma, 2))
    ]
    return sum(saved)[..., y : y + height, x : x + width]  # type: ignore[index]


def _rounded(v: Tensor, basis: Tensor, step: Tensor) -> Tensor:
    """Each block of 8 x 8 pixels with its cosines rounded to whole steps."""
    blocks = v.unfold(2, 8, 8).unfold(3, 8, 8)  # (F, C, rows, columns, 8, 8)
    cosines = torch.round(basis @ blocks @ basis.T / step) * step
    return (basis.T @ cosines @ basis).transpose(3, 4).reshape(v.shape)


def _cosines() -> Tensor:
    """The orthonormal cosines of 8 points, one a row."""
    k, x = torch.arange(8.0)[:, None], torch.arange(8.0)
    rows = torch.cos(torch.pi * (2 * x + 1) * k / 16) / 2
    return torch.cat([rows[:1] / 2**0.5, rows[1:]])
