"""Clips that revisit themselves: a segment played again, or there and back."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ._flow.swift import thumbnails
from ._prompts.motion_words import rests
from .base import About, Card, Reward, Samples

_CYCLE = (
    r"circl\w*|go(?:es|ing)? round|round and round|around and around|spin\w*|spun|rotat\w*|revolv\w*|turntable|"
    r"twirl\w*|whirl\w*|orbit\w*|bounc\w*|jump(?:s|ing) (?:up and down|rope)|bob(?:s|bing)|hop(?:s|ping)|"
    r"rock(?:s|ing)|wav(?:e|es|ing)|swing\w*|sway\w*|pendulum\w*|oscillat\w*|vibrat\w*|pulsat\w*|puls(?:es|ing)|blink\w*|flap\w*|"
    r"nod(?:s|ding)|wag(?:s|ging)|shak(?:es|ing)|juggl\w*|danc\w*|clap\w*|back and forth|to and fro|up and down|"
    r"side to side|repeat\w*|loop\w*|boomerang|ping[- ]pong|breath(?:es|ing)|flicker\w*|rhythmic\w*|drumm\w*|knit\w*"
)


class Loop(Reward):
    """How much of the clip shows again what it has left before: 0 is nothing, -1 all of it.

    A frame is 16 x 16 mean colours over its mean light, so that flicker and fades hide
    nothing; E(s, t) is the root mean square difference of two. Frame t is a revisit of s if
    they are `gap` seconds or more apart, the clip was away between them, and it has come
    back: with e the change usual within `gap` seconds (the median over the clip) and A how
    far the clip was away from t in between, the largest E(u, t) for u from s to t, it
    counts by how far the least E(s, t) / min(e, A / 2) over all s is below `alike`, from 0
    there to 1 at half of it. What stops or never moves was not away and counts 0. A term is
    one frame.

    Where the prompt asks for what repeats (circling, bouncing, spinning, waving, dancing,
    ...) or for rest, the clip scores 0: it is exempt, rather than unscored, so that all
    clips of a group stay comparable.

    >>> there = torch.rand(1, 6, 3, 32, 32)
    >>> Loop()(Samples(torch.cat([there, there.flip(1)], 1), ["a boat goes by"], 8.0)).value < -0.8
    tensor([True])
    """

    lowered_by = ("loop",)
    range = (-1.0, 0.0)
    support = "clip"
    reach = 0
    least_frames = 2
    shrinks = True
    card = Card(
        sees="Segments that come again and clips played there and back, whatever their length.",
        blind_to="Loops that the prompt's words allow; a thing that comes back while the rest of the picture has "
        "changed; a loop longer than the clip.",
        hacks="Freezing; a slow drift of colour or of the camera under the loop.",
        input="2 frames or more; clips shorter than three times `gap` score 0.",
        cost="0.3 ms a frame of 192 x 341, and F^2 differences of 768 numbers.",
    )

    def __init__(self, gap: float = 0.25, alike: float = 0.5, floor: float = 0.006) -> None:
        super().__init__()
        if not gap > 0:
            raise ValueError(f"expected gap, in seconds, to be positive, got {gap}")
        self.gap, self.alike = gap, alike
        self.floor = floor

    def features(self, samples: Samples) -> Tensor:
        """Mean colours over a grid, over the mean light of the frame, (B, F, C * 256)."""
        means = thumbnails(samples).flatten(2)
        return means / means.mean(2, keepdim=True).clamp(min=0.02)

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """Minus the degree to which each frame is a revisit, (B, F)."""
        gap = max(2, round(self.gap * about.fps))
        rows = [
            self._clip(clip, gap, prompt)
            for clip, prompt in zip(features, about.prompts, strict=True)
        ]
        return torch.stack(rows)

    def _clip(self, looks: Tensor, gap: int, prompt: str) -> Tensor:
        if cycles(prompt) or rests(prompt) or len(looks) < 3 * gap:
            return looks.new_zeros(len(looks))
        ratio = revisits(looks, gap, self.floor)
        return -((self.alike - ratio) / (self.alike / 2)).clamp(0, 1)


def cycles(prompt: str) -> bool:
    """Whether the prompt asks for something that repeats.

    >>> cycles("a red circle goes round quickly"), cycles("a dog waves"), cycles("a red circle moves left")
    (True, True, False)
    """
    shapes = re.sub(
        r"\b(?:a|an|the|\w+ed|red|yellow|green|cyan|blue|pink|white|black) circles?\b",
        "",
        prompt.lower(),
    )
    return bool(re.search(rf"\b(?:{_CYCLE})\b", shapes))


def revisits(looks: Tensor, gap: int, floor: float, chunk: int = 256) -> Tensor:
    """min over s of E(s, t) / min(e, A / 2) for each frame t of looks (F, N), (F,).

    >>> there = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
    >>> revisits(torch.cat([there, there.flip(0)[1:]]), gap=2, floor=0.0)[:3]  # 0, 1 and 2 come again
    tensor([0., 0., 0.])
    """
    step = rms(looks[gap:] - looks[:-gap]).median().clamp(min=floor)
    spans = [(start, min(start + chunk, len(looks))) for start in range(0, len(looks), chunk)]
    return torch.cat([_least(looks, start, end, gap, step, floor) for start, end in spans])


def _least(looks: Tensor, start: int, end: int, gap: int, step: Tensor, floor: float) -> Tensor:
    """The same for frames `start` to `end`."""
    apart = torch.cdist(looks[start:end], looks) / looks.shape[1] ** 0.5  # (end - start, F)
    t, s = torch.arange(start, end)[:, None], torch.arange(len(looks))
    after = apart.masked_fill(s < t, 0).cummax(1).values
    before = apart.masked_fill(s > t, 0).flip(1).cummax(1).values.flip(1)
    away = torch.where(s > t, after, before)
    ratio = (apart + floor / 2) / torch.minimum(away / 2, step).clamp(min=floor)
    return ratio.masked_fill((s - t).abs() < gap, torch.inf).amin(1)


def rms(x: Tensor) -> Tensor:
    """Root mean square along the last axis."""
    return x.square().mean(-1).sqrt()
