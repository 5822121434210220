"""The ways a clip goes wrong, and the ways a policy cheats: each a small function of one clip.

Legend: video (F, C, H, W) float in [0, 1]; strength 1 is plain to the eye, 0 changes nothing. The names are those that
`Reward.lowered_by` uses.

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

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

Draw = torch.Generator


def names() -> list[str]:
    """Every corruption, in the order of this file."""
    return list(_table())


def corrupt(video: Tensor, name: str, strength: float = 1.0, seed: int = 0) -> Tensor:
    """Apply one corruption to a clip (F, C, H, W) in [0, 1]; same shape back, deterministic in `seed`.

    Raises ValueError for an unknown name, a strength below 0 or a video of another shape.
    """
    if name not in _table():
        raise ValueError(f"expected a corruption out of {', '.join(names())}, got {name!r}")
    if not strength >= 0:
        raise ValueError(f"expected a strength of 0 (nothing changes) or more, got {strength}")
    if video.dim() != 4 or not video.is_floating_point():
        raise ValueError(f"expected a float clip (F, C, H, W) in [0, 1], got {video.dtype} {tuple(video.shape)}")
    return _table()[name](video, strength, torch.Generator().manual_seed(seed)).clamp(0, 1)


def _table() -> dict[str, Callable[[Tensor, float, Draw], Tensor]]:
    module = sys.modules[__name__]
    found = inspect.getmembers(module, lambda f: inspect.isfunction(f) and f.__name__.startswith("_do_"))
    return {f.__name__[4:]: f for _, f in sorted(found, key=lambda pair: inspect.getsourcelines(pair[1])[1])}


# Stillness and time


def _do_freeze(v: Tensor, s: float, g: Draw) -> Tensor:
    """The first frame, for the last `s` of the clip's time."""
    stop = round((len(v) - 1) * (1 - min(s, 1.0)))
    return v[torch.arange(len(v)).clamp(max=stop)]


def _do_duplicate(v: Tensor, s: float, g: Draw) -> Tensor:
    """Each frame shown 1 + s times at the same frame rate and places: a lower rate in disguise."""
    hold = 1 + max(round(s), 1 if s > 0 else 0)
    return v[torch.arange(len(v)) // hold * hold]


def _do_stutter(v: Tensor, s: float, g: Draw) -> Tensor:
    """Frames dropped and repeated at random: each later frame is late with probability 0.35 s."""
    late = torch.rand(len(v), generator=g) < 0.35 * s
    late[0] = False
    index = torch.where(late, -1, torch.arange(len(v)))
    return v[index.cummax(0).values]


def _do_slow(v: Tensor, s: float, g: Draw) -> Tensor:
    """Slow motion by blending neighbours, 1 + s times slower."""
    at = torch.arange(len(v)) / (1 + s)
    low, mix = at.floor().long(), (at % 1)[:, None, None, None]
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
    return torch.cat([v[:half], torch.lerp(v[half:], 1 - v[half:].flip(-1, -2), s)])


def _do_shuffle(v: Tensor, s: float, g: Draw) -> Tensor:
    """A share `s` of the frames change places."""
    chosen = torch.randperm(len(v), generator=g)[: max(2, round(min(s, 1.0) * len(v)))] if s > 0 else torch.arange(0)
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


# Camera


def _do_pan(v: Tensor, s: float, g: Draw) -> Tensor:
    """A synthetic slow pan over a still of the first frame: motion without a subject's motion.

    Below strength 1 the subject moves on, slower.
    """
    still = v[(torch.arange(len(v)) * (1 - min(s, 1.0))).round().long()]
    steps = torch.arange(len(v)) / max(len(v) - 1, 1) * 0.5 * s
    return _moved(still, torch.stack([steps, 0 * steps], -1))


def _do_shake(v: Tensor, s: float, g: Draw) -> Tensor:
    """The whole frame jumps by about 5 % of its width."""
    return _moved(v, 0.1 * s * torch.randn(len(v), 2, generator=g))


def _moved(v: Tensor, offset: Tensor) -> Tensor:
    """Shift each frame by (x, y) in half-widths, edges mirrored."""
    eye = torch.eye(2).expand(len(v), 2, 2)
    theta = torch.cat([eye, offset[:, :, None]], 2).to(v)
    grid = torch.nn.functional.affine_grid(theta, list(v.shape), align_corners=False)
    return grid_sample(v, grid, padding_mode="reflection", align_corners=False)


# Light and detail


def _do_flicker(v: Tensor, s: float, g: Draw) -> Tensor:
    """The brightness of each frame jumps by about 20 %."""
    return v * (1 + 0.2 * s * torch.randn(len(v), 1, 1, 1, generator=g).clamp(-2, 2))


def _do_noise(v: Tensor, s: float, g: Draw) -> Tensor:
    """Fresh grain in every frame."""
    return v + 0.06 * s * torch.randn(v.shape, generator=g)


def _do_blur(v: Tensor, s: float, g: Draw) -> Tensor:
    """Gaussian-like blur, sigma about 5 % of the width."""
    radius = max(1, round(0.04 * s * v.shape[-1]))
    for _ in range(3 if s > 0 else 0):
        v = avg_pool2d(pad(v, [radius] * 4, mode="replicate"), 2 * radius + 1, 1)
    return v


def _do_dim(v: Tensor, s: float, g: Draw) -> Tensor:
    """Darker: light times 0.3 at strength 1."""
    return v * 0.3**s


def _do_fade(v: Tensor, s: float, g: Draw) -> Tensor:
    """Darker and darker towards the end."""
    return v * (0.3**s) ** torch.linspace(0, 1, len(v))[:, None, None, None]


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
    """Blocks of a starved codec: means over 1/16 of the width, fainter or stronger by `s`."""
    size = max(2, v.shape[-1] // 16)
    blocks = interpolate(avg_pool2d(v, size, ceil_mode=True), scale_factor=size)[..., : v.shape[-2], : v.shape[-1]]
    return torch.lerp(v, blocks, min(0.8 * s, 1.0))


def _do_grid(v: Tensor, s: float, g: Draw) -> Tensor:
    """A fixed checkerboard of single pixels: false detail."""
    y, x = torch.meshgrid(torch.arange(v.shape[-2]), torch.arange(v.shape[-1]), indexing="ij")
    return v + 0.06 * s * (1 - 2.0 * ((x + y) % 2))


def _do_drift(v: Tensor, s: float, g: Draw) -> Tensor:
    """Colours turn slowly: red becomes green becomes blue."""
    turn = torch.linspace(0, min(s, 1.0), len(v))[:, None, None, None].to(v)
    return torch.lerp(v, v.roll(1, dims=1), turn) if v.shape[1] == 3 else v * (1 - 0.5 * turn)
