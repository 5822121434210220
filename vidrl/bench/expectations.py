"""Score what a prompt asks of motion, with one dim for each kind of demand.

The demands are heading, path, rest, camera, pace, count, length and caption. Each dim is a
reward in [0, 1], NaN where the prompt does not ask for it, so that a mean is over the clips
that were asked. Prompts are read as `vidrl.rewards.motion_target` reads them; that reward
is the geometric mean of the demands, these dims report them separately. Shapes: B clips, F
frames, H W pixels.
"""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from torch import Tensor

from vidrl.rewards._flow.coarse import coarse_motion
from vidrl.rewards._flow.things import object_speed, shared_split
from vidrl.rewards._prompts.motion_words import WantedMotion, wanted_motion
from vidrl.rewards.base import About, Card, Reward, Samples
from vidrl.rewards.motion_target import MotionTarget, _Measured, band
from vidrl.synthetic import verifier, world

NUMBERS = {
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
}
LEAST = 0.002  # of the picture's area: a smaller moving spot is noise, no thing


def _card(sees: str, blind_to: str) -> Card:
    return Card(
        sees=sees,
        blind_to=blind_to,
        hacks="Whatever moves as the words say, thing or not.",
        input="A prompt that asks for it; at least 3 frames of 8 pixels.",
        cost="3 ms a frame of 192 x 341 on one thread, beside the flow's 25 ms.",
    )


class _Asked(MotionTarget):
    """A reward that judges one kind of demand alone.

    The pace has its own dim: in the others, slow and quick motion are both fast enough.
    """

    def features(self, samples: Samples) -> Tensor:
        key = ("asked", self.flow, self.flow_size)
        return samples.memo(key, lambda: super(_Asked, self).features(samples))

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        asks = [self.part(wanted_motion(prompt)) for prompt in about.prompts]
        return torch.stack(
            [self._judge(_Measured(row), ask) for row, ask in zip(features, asks, strict=True)]
        )

    def part(self, ask: WantedMotion) -> WantedMotion:
        """Return the demands of a prompt that this dim judges."""
        raise NotImplementedError

    def _band(self, speed: Tensor, pace: float, scale: float = 1) -> Tensor:
        return band(speed.clamp(min=0) / scale, self.low / 2, 2 * self.high)


class Heading(_Asked):
    """Reward a thing that goes left, right, up or down as the prompt says, 0 to 1.

    >>> frozen = torch.rand(1, 1, 3, 32, 32).expand(2, 9, 3, 32, 32)
    >>> Heading()(Samples(frozen, ["a dog runs left", "a dog spins"], 8.0)).value
    tensor([0., nan])
    """

    lost = "inapplicable: the prompt asks for no heading"
    card = _card(
        "The direction of what moves most, beside the camera or in the picture.",
        "Which thing it is; its pace.",
    )

    def part(self, ask: WantedMotion) -> WantedMotion:
        return WantedMotion(heading=ask.heading)


class Path(_Asked):
    """Reward a thing that bounces, circles, spins, grows or shrinks as the prompt says, 0 to 1."""

    lost = "inapplicable: the prompt asks for no path"
    card = _card(
        "Going up and down, turning one way, own rotation and growth of what moves most.",
        "Which thing it is; approach without growth; its pace.",
    )

    def part(self, ask: WantedMotion) -> WantedMotion:
        return WantedMotion(path=ask.path)


class Rest(_Asked):
    """Reward a thing that stays where it is, if the prompt says so, 0 to 1."""

    lost = "inapplicable: the prompt does not ask for rest"
    card = _card("Motion beside the camera and turning.", "Things that are not there.")

    def part(self, ask: WantedMotion) -> WantedMotion:
        return WantedMotion(rest=ask.rest)


class CameraMove(_Asked):
    """Reward a camera that pans, tilts, zooms or rolls as the prompt says, 0 to 1."""

    lost = "inapplicable: the prompt asks for no motion of the camera"
    card = _card(
        "Pan, tilt, zoom and roll of the ground.",
        "A camera over plain ground, which counts as one at rest.",
    )

    def part(self, ask: WantedMotion) -> WantedMotion:
        return WantedMotion(camera=ask.camera)


class StillCamera(_Asked):
    """Reward a camera at rest, if the prompt says so, 0 to 1."""

    lost = "inapplicable: the prompt does not ask for a camera at rest"
    card = _card(
        "Pan, tilt, zoom and roll of the ground.",
        "A camera over plain ground, which counts as one at rest.",
    )

    def part(self, ask: WantedMotion) -> WantedMotion:
        return WantedMotion(still_camera=ask.still_camera)


class Pace(_Asked):
    """Reward motion that is slow or quick as the prompt says, in any direction, 0 to 1.

    The speed is the thing's along its path, or the camera's if no thing is asked to move.
    The reward is 1 in [low / 2, typical] for slow and in [typical, 2 high] for quick, as in
    motion_target.
    """

    lost = "inapplicable: the prompt asks for no pace"
    card = _card(
        "The speed of what moves most, diagonals a second.",
        "What is slow for a snail and quick for a car.",
    )

    def part(self, ask: WantedMotion) -> WantedMotion:
        return ask if ask.pace != 1 else WantedMotion()

    def _judge(self, seen: _Measured, ask: WantedMotion) -> Tensor:
        if ask.pace == 1:
            return torch.full_like(seen.speed, math.nan)
        value = MotionTarget._band(self, _speed(seen, ask), ask.pace)
        return value.expand_as(seen.speed)


def _speed(seen: _Measured, ask: WantedMotion) -> Tensor:
    """Return the speed of what is asked for, on the scale of straight motion."""
    # The divisors bring paths to the scale of straight motion, as in motion_target.
    if ask.path in ("bounce", "circle"):
        return seen.pictured.norm(dim=-1).mean() / 3
    if ask.path:
        growth, spin = seen.turn.mean(0).abs()
        return spin / 10 if ask.path == "spin" else growth / 3
    moves = any(ask.camera) and not any(ask.heading)
    return seen.camera_speed.mean() if moves else seen.speed.mean()


class Count(Reward):
    """Reward as many moving things as the prompt says, if two or more: min / max of both.

    Things are the connected parts of the picture that move, relative to the camera, at half
    of the fastest speed or more. The clip's number is the median over its frames.
    """

    range = (0.0, 1.0)
    time_support = "clip"
    lookahead = 2
    rate = 8.0
    shrinks = True
    lost = "inapplicable: the prompt gives no number of things, or nothing moves"
    card = _card(
        "How many separate parts of the picture move.",
        "Things at rest; things that touch, which count as one; limbs, which may count as several.",
    )

    def __init__(self, flow: str = "auto", flow_size: int = 192) -> None:
        super().__init__()
        self.flow, self.flow_size = flow, flow_size

    def features(self, samples: Samples) -> Tensor:
        """Return how many parts move in each three consecutive frames, (B, F − 2)."""
        found = shared_split(
            samples, coarse_motion(self, samples), (self.flow_method(samples), self.flow_size)
        )
        lasting, fastest = found.lasting, object_speed(found)[..., None, None]
        moving = (lasting > 0.5 * fastest) & (fastest > 0.05)
        return torch.tensor(
            [[_parts(frame) for frame in clip] for clip in moving.numpy(force=True)]
        ).float()

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        asks = [things(prompt) for prompt in about.prompts]
        return torch.stack([_matched(row, ask) for row, ask in zip(features, asks, strict=True)])


def _matched(seen: Tensor, ask: int) -> Tensor:
    """Return min / max of the counted and the asked number, NaN if none is asked."""
    moving = seen[seen > 0]
    if ask < 2 or not len(moving):
        return torch.full_like(seen, math.nan)
    number = float(moving.median())
    return torch.full_like(seen, min(number, ask) / max(number, ask))


def _parts(moving: np.ndarray) -> int:
    """Count the connected parts of a picture that are larger than a spot."""
    import cv2

    _, _, facts, _ = cv2.connectedComponentsWithStats(moving.astype(np.uint8), connectivity=8)
    return int((facts[1:, cv2.CC_STAT_AREA] > LEAST * moving.size).sum())


def things(prompt: str) -> int:
    """Return the number that the prompt begins with, 0 if there is none.

    >>> [things(prompt) for prompt in ("Three ducklings swim", "A flock of sheep", "2 dogs run")]
    [3, 0, 2]
    """
    first = prompt.split()[0].lower() if prompt.split() else ""
    return int(first) if first.isdecimal() else NUMBERS.get(first, 0)


def seconds(prompt: str) -> float:
    """Return how long the prompt says that the clip is, in seconds, 0 if it does not say so.

    >>> [seconds(prompt) for prompt in ("A clip of four seconds.", "a 1.5-second clip", "a cat")]
    [4.0, 1.5, 0.0]
    """
    found = re.search(rf"\b(\d+(?:\.\d+)?|{'|'.join(NUMBERS)})[- ]seconds?\b", prompt.lower())
    return 0.0 if not found else float(NUMBERS.get(found[1], 0) or found[1])


class Length(Reward):
    """Reward a clip as long as its prompt asks: min(1, seconds of the clip / seconds asked)."""

    range = (0.0, 1.0)
    time_support = "clip"
    lost = "inapplicable: the prompt does not say how long the clip is"
    card = Card(
        sees="Frames over frames a second.",
        blind_to="What is in them.",
        hacks="Frames without end.",
        input="A prompt that says how many seconds.",
    )

    def terms(self, samples: Samples) -> Tensor:
        return samples.video.new_zeros(samples.video.shape[:2], dtype=torch.float32)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        lasts, asks = features.shape[1] / about.fps, [seconds(prompt) for prompt in about.prompts]
        values = [min(1.0, lasts / ask) if ask else math.nan for ask in asks]
        return features.new_tensor(values)[:, None].expand_as(features)


class Caption(Reward):
    """Reward shape, colour and motion that match a caption of `vidrl.synthetic.world`.

    The value is the share of them that `vidrl.synthetic.verifier` reads back from the clip.

    >>> clip = world.render(world.Scene("cross", "blue", "left"))
    >>> Caption()(Samples(clip.video[None], [clip.caption], clip.fps)).value
    tensor([1.])
    """

    range = (0.0, 1.0)
    time_support = "clip"
    lost = (
        "inapplicable: the prompt is no caption of vidrl.synthetic.world, or the clip is not square"
    )
    side = 64
    card = Card(
        sees="Shape, colour and motion of the one saturated thing, against the caption.",
        blind_to="All outside the synthetic world; faults that leave the thing recognisable.",
        hacks="None is known.",
        input="Square clips of the synthetic world.",
    )

    def features(self, samples: Samples) -> Tensor:
        """Return the small clips themselves, (B, F, 3, S, S), if one of them has a caption."""
        video = samples.small(self.side)
        if video.shape[-1] != video.shape[-2] or not any(map(_caption, samples.prompts)):
            return torch.zeros(*video.shape[:2], 1)
        video = video if video.is_floating_point() else video.float() / 255
        return video.expand(-1, -1, 3, -1, -1).contiguous()

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        values = [
            self._read(clip, prompt, about.fps)
            for clip, prompt in zip(features, about.prompts, strict=True)
        ]
        return features.new_tensor(values)[:, None].expand(features.shape[:2])

    def _read(self, clip: Tensor, prompt: str, fps: float) -> float:
        """Return the share of the caption that the verifier reads back, NaN without a caption."""
        if clip.dim() < 4 or not _caption(prompt):
            return math.nan
        seen = verifier.verify(clip[None], [prompt], fps)
        # an image shows no motion
        words = [seen.shape, seen.colour, *([] if seen.motion is None else [seen.motion])]
        return float(torch.cat(words).float().mean())


def _caption(prompt: str) -> bool:
    """Return whether a prompt is a caption of the synthetic world."""
    try:
        world.parse(prompt)
    except ValueError:
        return False
    return True
