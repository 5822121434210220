"""A reward that finds clips that repeat themselves, or play forth and back."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ._flow.fast_pans import thumbnails
from ._prompts.motion_words import asks_for_rest
from .base import About, Card, Reward, Samples

# words by which a prompt asks for something that repeats
_CYCLE = (
    r"circl\w*|go(?:es|ing)? round|round and round|around and around|spin\w*|spun|rotat\w*|"
    r"revolv\w*|turntable|twirl\w*|whirl\w*|orbit\w*|bounc\w*|jump(?:s|ing) (?:up and down|rope)|"
    r"bob(?:s|bing)|hop(?:s|ping)|rock(?:s|ing)|wav(?:e|es|ing)|swing\w*|sway\w*|pendulum\w*|"
    r"oscillat\w*|vibrat\w*|pulsat\w*|puls(?:es|ing)|blink\w*|flap\w*|nod(?:s|ding)|"
    r"wag(?:s|ging)|shak(?:es|ing)|juggl\w*|danc\w*|clap\w*|back and forth|to and fro|"
    r"up and down|side to side|repeat\w*|loop\w*|boomerang|ping[- ]pong|breath(?:es|ing)|"
    r"flicker\w*|rhythmic\w*|drumm\w*|knit\w*"
)


class Loop(Reward):
    """Minus the share of the clip that repeats an earlier or later part of the clip.

    The range is [-1, 0]; 0 is a clip without repeats. A frame is described by 16 x 16 mean
    colours divided by its mean light, so that flicker and fades hide nothing. E(s, t) is
    the root mean square difference of two frames.

    Frame t repeats frame s if the two are at least `gap` seconds apart, the clip departed
    between them, and it came back. Let e be the usual change within `gap` seconds (the
    median over the clip), and A the departure, the largest E(u, t) for u between s and t.
    The least E(s, t) / min(e, A / 2) over all s decides: from `alike` down to half of it,
    the term falls from 0 to -1. A clip that stops, or never moves, does not depart and gets
    0. A term belongs to one frame.

    Where the prompt asks for something that repeats (circling, bouncing, spinning, waving,
    dancing, ...) or for rest, the clip gets 0. It is exempt rather than unscored, so that
    all clips of a group stay comparable.

    >>> there = torch.rand(1, 6, 3, 32, 32)
    >>> Loop()(Samples(torch.cat([there, there.flip(1)], 1), ["a boat goes by"], 8.0)).value < -0.8
    tensor([True])
    """

    lowered_by = ("loop",)
    range = (-1.0, 0.0)
    time_support = "clip"
    lookahead = 0
    least_frames = 2
    shrinks = True
    card = Card(
        sees="Parts that come again, and clips that are played forth and back, of any length.",
        blind_to="Loops that the words of the prompt allow; a thing that comes back while the rest "
        "of the picture has changed; a loop longer than the clip.",
        hacks="Freezing; a slow drift of colour or of the camera in addition to the loop.",
        input="At least 2 frames. Clips shorter than three times `gap` get 0.",
        cost="0.3 ms a frame of 192 x 341, and F^2 differences of 768 numbers.",
    )

    def __init__(self, gap: float = 0.25, alike: float = 0.5, floor: float = 0.006) -> None:
        super().__init__()
        if not gap > 0:
            raise ValueError(f"expected gap, in seconds, to be positive, got {gap}")
        self.gap, self.alike = gap, alike
        self.floor = floor

    def features(self, samples: Samples) -> Tensor:
        """Return mean colours over a grid, divided by the mean light, (B, F, C * 256)."""
        means = thumbnails(samples).flatten(2)
        return means / means.mean(2, keepdim=True).clamp(min=0.02)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return minus the degree to which each frame is a repeat, (B, F)."""
        gap = max(2, round(self.gap * about.fps))
        rows = [
            self._clip(clip, gap, prompt)
            for clip, prompt in zip(features, about.prompts, strict=True)
        ]
        return torch.stack(rows)

    def _clip(self, looks: Tensor, gap: int, prompt: str) -> Tensor:
        """Return the terms of one clip, (F,)."""
        if cycles(prompt) or asks_for_rest(prompt) or len(looks) < 3 * gap:
            return looks.new_zeros(len(looks))
        ratio = revisits(looks, gap, self.floor)
        return -((self.alike - ratio) / (self.alike / 2)).clamp(0, 1)


def cycles(prompt: str) -> bool:
    """Return whether the prompt asks for something that repeats.

    >>> [cycles(text) for text in ("a red circle goes round", "a dog waves", "a red circle falls")]
    [True, True, False]
    """
    # "a red circle" is a shape: such words are removed before the search
    text = re.sub(
        r"\b(?:a|an|the|\w+ed|red|yellow|green|cyan|blue|pink|white|black) circles?\b",
        "",
        prompt.lower(),
    )
    return bool(re.search(rf"\b(?:{_CYCLE})\b", text))


def revisits(looks: Tensor, gap: int, floor: float, chunk: int = 256) -> Tensor:
    """Return the least E(s, t) / min(e, A / 2) over s for each frame t, (F,).

    `looks` (F, N) describes the frames. `chunk` frames are compared at a time, which bounds
    the memory.

    >>> there = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
    >>> revisits(torch.cat([there, there.flip(0)[1:]]), gap=2, floor=0.0)[:3]  # 0, 1, 2 repeat
    tensor([0., 0., 0.])
    """
    step = rms(looks[gap:] - looks[:-gap]).median().clamp(min=floor)
    spans = [(start, min(start + chunk, len(looks))) for start in range(0, len(looks), chunk)]
    return torch.cat([_least(looks, start, end, gap, step, floor) for start, end in spans])


def _least(looks: Tensor, start: int, end: int, gap: int, step: Tensor, floor: float) -> Tensor:
    """Return the same ratios for the frames from `start` to `end`, (end - start,)."""
    distance = torch.cdist(looks[start:end], looks) / looks.shape[1] ** 0.5  # (end - start, F)
    s = torch.arange(len(looks), device=looks.device)
    t = s[start:end, None]
    # running maxima from t outwards: the largest distance from t at any frame between s and t
    after = distance.masked_fill(s < t, 0).cummax(1).values
    before = distance.masked_fill(s > t, 0).flip(1).cummax(1).values.flip(1)
    away = torch.where(s > t, after, before)
    ratio = (distance + floor / 2) / torch.minimum(away / 2, step).clamp(min=floor)
    return ratio.masked_fill((s - t).abs() < gap, torch.inf).amin(1)


def rms(x: Tensor) -> Tensor:
    """Return the root mean square along the last axis."""
    return x.square().mean(-1).sqrt()
