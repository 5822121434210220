"""Does a reward's curve over time fall where a fault is?

    python benchmarks/studies/localisation.py --out benchmarks/results/credit/localisation.md

Segment credit needs curves that fall on the faulty frames and nowhere else. Design: six
kinds of faults are planted in 1, 3 or 5 known frames of clips of vidrl.synthetic.world and
of assets/tiny-wan-32, and in one latent frame before tiny-wan-32 decodes it. The study
measures how much of each reward's drop lies on those frames. Two harder cases are a fault
of frame 0, and a change that lasts to the end of the clip.

Output: the page --out, and a picture (.svg) of the same name. Finished clips are kept in
--work, so that a run that was stopped continues; page and picture are written from all of
them. The study takes about eight minutes on one core, half a minute with `--quick`.

Legend: B clips, F frames, L latent frames, M the faulty frames, c and f the curves of the
clean and of the faulty clip, (F,); drop d = c − f. Higher curves are better.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vidrl import plugin
from vidrl.diffusion.segments import Span
from vidrl.rewards import Reward, Samples, Score, default
from vidrl.rewards._files import atomic_file
from vidrl.synthetic import world
from vidrl.synthetic.corruptions import corrupt
from vidrl.training import rollout

LOCAL = ("frame", "pair")  # time supports whose entries depend on their own frame or pair alone
FAULTS = ("flicker", "jump", "blur", "freeze", "identity", "noise")
LASTING = ("light", "jump", "identity")  # changes that last from one frame to the end of the clip
HARD = ("world 32", "tiny-wan-32")  # sources whose clips get a fault in frame 0, and a lasting one
# (strength, seed) of mild re-encodings; how much they change a value is the threshold for faults
NULLS = ((0.25, 0), (0.5, 1))
# mean difference on the faulty frames below which nothing was planted, as when a frame is frozen
# in which nothing moves
UNTOUCHED = 2e-4
# a reward sees a fault if the value of at least this fraction of the faulty clips falls by more
# than under a re-encoding
SEES = 0.5
# the verdict on a reward that is local, except where the first frame is faulty
ANCHORED = "but from frame 0"
# a local reward has at least this fraction of its drop within one frame of the fault, and at
# least this ROC area of the drop, where the frames next to the fault are left out
NEAR, AREA = 0.6, 0.75
LOCAL_ONLY = "default, local parts"


# Rewards and their curves


def chosen() -> dict[str, Reward]:
    """Return the default composite and every other temporal reward that needs no weights.

    `view_consistency` is left out because it judges orbits; `segment_seam` needs an option.
    """
    parts, skip = default().parts, ("view_consistency", "segment_seam")
    found: dict[str, Any] = {name: plugin.find("rewards", name) for name in plugin.names("rewards")}
    others = {
        name: cls()
        for name, cls in found.items()
        if not (cls.learned or name in parts or name in skip)
    }
    return {"default": default(), **others, "segment_seam": found["segment_seam"](latents=1)}


def curves(reward_scores: Mapping[str, Score], row: int) -> dict[str, list[float]]:
    """Return each reward's curve of one clip, with the composite's and its parts'.

    A reward without a curve has a constant one.
    """
    made: dict[str, Tensor] = {}
    for name, score in reward_scores.items():
        if name == "default":
            made |= {"default": entries(score), LOCAL_ONLY: entries(score, local=True)}
            made |= {part: flat(s) for part, s in score.parts.items()}
        else:
            made[name] = flat(score)
    return {name: [float(f"{x:.7g}") for x in curve[row].tolist()] for name, curve in made.items()}


def supports() -> dict[str, str]:
    """Return the time support that each curve declares."""
    own = {name: part.time_support for name, part in {**default().parts, **chosen()}.items()}
    return {name: str(support) for name, support in own.items()} | {LOCAL_ONLY: "pair"}


def flat(score: Score) -> Tensor:
    """Return the curve (B, F), or the value as (B, 1), which broadcasts to all frames."""
    return score.value[:, None] if score.frames is None else score.frames


def entries(score: Score, local: bool = False) -> Tensor:
    """Return a composite's linearised entries r_i = R + Σ_p ∂R/∂m_p (m_{p,i} − m_p), (B, F).

    With `local`, parts whose support is "prefix" or "clip" are the same in all frames, as
    in segment credit.
    """
    made = torch.zeros_like(flat(score)) + score.value[:, None]
    for name, part in score.parts.items():
        if part.support in LOCAL or not local:
            made = made + score.slopes[name][:, None] * (
                flat(part) - part.value[:, None]
            ).nan_to_num(0.0)
    return made


# Faults


def plant(video: Tensor, fault: str, span: Span, draw: random.Random, other: Tensor) -> Tensor:
    """Return a copy of a clip (F, 3, H, W) with one fault in the frames of `span`.

    `span` is [start, end). The faults are:

    - flicker: frames are by turns 30 % brighter and darker
    - light: all frames are 30 % brighter, or all are darker
    - jump: the picture is shifted by 12 % of its width in one of eight directions
    - blur: sigma is 5 % of the width
    - freeze: the frame before `span` is repeated
    - identity: the same frames of `other`, the clip with another object on the same path
    - noise: grain of 6 %

    Raises ValueError for another name, and for freeze at frame 0.
    """
    a, b = span
    piece, seed = video[a:b], draw.randrange(2**31)
    if fault in ("flicker", "light"):
        sign = draw.choice((1, -1)) * (1 - 2 * (torch.arange(b - a) % 2 * (fault == "flicker")))
        new = (piece * (1 + 0.3 * sign[:, None, None, None])).clamp(0, 1)
    elif fault == "jump":
        new = shifted(
            piece, draw.choice([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y])
        )
    elif fault in ("blur", "noise"):
        new = corrupt(piece, fault, 1.0, seed)
    elif fault == "freeze" and a > 0:
        new = video[a - 1 : a].expand_as(piece)
    elif fault == "identity":
        new = other[a:b]
    else:
        named = ", ".join(FAULTS)
        raise ValueError(
            f"expected a fault out of {named}, freeze from frame 1 on, got {fault!r} at {a}"
        )
    return torch.cat([video[:a], new, video[b:]])


def shifted(piece: Tensor, direction: tuple[int, int]) -> Tensor:
    """Shift each picture by 12 % of its width in whole pixels, with mirrored edges."""
    far = max(1, round(0.12 * piece.shape[-1]))
    x, y = far - far * direction[0], far - far * direction[1]
    wide = torch.nn.functional.pad(piece, (far, far, far, far), mode="reflect")
    return wide[..., y : y + piece.shape[-2], x : x + piece.shape[-1]]


def recoloured(video: Tensor) -> Tensor:
    """Return the clip with its object in another colour.

    Red becomes green, green becomes blue, blue becomes red; all else in these clips is
    grey.
    """
    return video.roll(1, dims=1)


def scenes(count: int, seed: int) -> list[world.Scene]:
    """Return scenes in which something moves, every second one under a moving camera."""
    draw, found = random.Random(seed), []
    moving = [scene for scene in world.scenes("train") if scene.motion != "rest"]
    draw.shuffle(moving)
    for i, scene in enumerate(moving[:count]):
        camera = (
            draw.choice([move for move in world.CAMERAS if move != "static"]) if i % 2 else "static"
        )
        found.append(replace(scene, camera=camera))
    return found


def impostor(scene: world.Scene, draw: random.Random) -> world.Scene:
    """Return the scene with an object of another shape and colour, on the same path."""
    shape = draw.choice([s for s in world.SHAPES if s != scene.shape])
    return replace(
        scene, shape=shape, colour=draw.choice([c for c in world.COLOURS if c != scene.colour])
    )


@dataclass(frozen=True)
class Clip:
    """A clean clip, the same clip with another object, and the frame map.

    `frame_map` has the pixel frames of each latent frame.
    """

    video: Tensor
    other: Tensor
    prompt: str
    fps: float
    frame_map: tuple[Span, ...]


@dataclass(frozen=True)
class Planted:
    """A faulty clip with its source, its fault, and the faulty frames [start, end)."""

    source: str
    fault: str
    span: Span
    video: Tensor


def world_clip(scene: world.Scene, size: int, seed: int) -> Clip:
    """Render a scene at `size` pixels: 17 frames at 8 a second.

    The frame map is the one that Wan's autoencoder would have.
    """
    one, two = (
        world.render(s, size, seed=seed) for s in (scene, impostor(scene, random.Random(seed)))
    )
    frame_map = ((0, 1), *((4 * k - 3, 4 * k + 1) for k in range(1, (len(one.video) - 1) // 4 + 1)))
    return Clip(one.video, two.video, scene.caption, one.fps, frame_map)


def in_pixels(
    clip: Clip, source: str, index: int, lengths: Sequence[int], seed: int
) -> list[Planted]:
    """Plant each fault at each length, at a random place that differs between faults."""
    made = []
    for fault in FAULTS:
        for n in lengths:
            draw = random.Random(f"{seed} {source.split()[0]} {index} {fault} {n}")
            start = draw.randint(1, len(clip.video) - n)
            span = (start, start + n)
            made.append(
                Planted(source, fault, span, plant(clip.video, fault, span, draw, clip.other))
            )
    return made


def hard(clip: Clip, source: str, index: int, seed: int) -> list[Planted]:
    """Plant each fault in frame 0, and changes that last from a frame of the middle half on.

    The truth of a lasting change is the frame where the change begins.
    """
    made = []
    for fault in (fault for fault in FAULTS if fault != "freeze"):
        video = plant(
            clip.video, fault, (0, 1), random.Random(f"{seed} first {index} {fault}"), clip.other
        )
        made.append(Planted("frame 0", fault, (0, 1), video))
    for fault in LASTING:
        draw, frames = random.Random(f"{seed} lasting {index} {fault}"), len(clip.video)
        start = draw.randint(frames // 4, 3 * frames // 4)
        made.append(
            Planted(
                "lasting",
                fault,
                (start, start + 1),
                plant(clip.video, fault, (start, frames), draw, clip.other),
            )
        )
    return made


class Drawn:
    """Clips that a Wan model generates, and faults in one of their latent frames."""

    def __init__(self, model: str, count: int, steps: int, seed: int) -> None:
        from vidrl.backbones.wan import Wan

        self.wan, self.seed = Wan(model), seed
        self.prompts = [
            scene.caption for scene in world.scenes("held_out") if scene.motion != "rest"
        ][:count]
        draws = rollout.draws(seed, [(prompt, 0) for prompt in self.prompts])
        cond, plan = self.wan.encode(self.prompts), rollout.Plan(self.wan.times(steps))
        self.latents = rollout.sample(self.wan, cond, draws, plan).latents

    def clip(self, index: int) -> Clip:
        """Decode the clip of the prompt with this index."""
        video = self._decoded(self.latents[index : index + 1], index)
        return Clip(
            video, recoloured(video), self.prompts[index], self.wan.fps, tuple(self.wan.frame_map)
        )

    def in_latent(self, clip: Clip, index: int) -> list[Planted]:
        """Plant each fault in one latent frame j and decode the result.

        The faulty latent is z_j + E(faulty)_j − E(clean)_j, with E the encoder. The
        difference keeps the encoder's own error out of the faulty clip.
        """
        made = []
        for fault in FAULTS:
            draw = random.Random(f"{self.seed} latent {index} {fault}")
            j = draw.randint(1, len(clip.frame_map) - 1)
            span = clip.frame_map[j]
            video = plant(clip.video, fault, span, draw, clip.other)
            latents = self.latents[index : index + 1].clone()
            latents[:, :, j] += (self._encoded(video) - self._encoded(clip.video))[:, :, j]
            made.append(Planted("tiny-wan-32, latent", fault, span, self._decoded(latents, index)))
        return made

    def _decoded(self, latents: Tensor, index: int) -> Tensor:
        return rollout.decoded(self.wan, latents, self.prompts[index : index + 1]).video[0]

    @torch.no_grad()
    def _encoded(self, video: Tensor) -> Tensor:
        vae = self.wan.pipe.vae
        mean, std = (
            torch.tensor(getattr(vae.config, k)).view(1, -1, 1, 1, 1)
            for k in ("latents_mean", "latents_std")
        )
        return (vae.encode((2 * video - 1).transpose(0, 1)[None]).latent_dist.mode() - mean) / std


# Scoring, one clip after the other


@torch.no_grad()
def measured(
    rewards: Mapping[str, Reward], clip: Clip, planted: Sequence[Planted], source: str, unit: str
) -> dict[str, Any]:
    """Return the curves of a clean clip, its re-encodings and its faulty versions."""
    nulls = [corrupt(clip.video, "reencode", *how) for how in NULLS]
    video = torch.stack([clip.video, *nulls, *(one.video for one in planted)])
    samples = Samples(video, [clip.prompt] * len(video), clip.fps)
    scores = {name: reward(samples) for name, reward in rewards.items()}
    rows = [curves(scores, i) for i in range(len(video))]
    cases = []
    for one, found in zip(planted, rows[1 + len(nulls) :], strict=True):
        a, b = one.span
        changed = float((one.video - clip.video)[a:b].abs().mean())
        cases.append(
            {
                "source": one.source,
                "fault": one.fault,
                "span": [a, b],
                "changed": changed,
                "curves": found,
            }
        )
    return {
        "source": source,
        "unit": unit,
        "frames": len(clip.video),
        "frame_map": clip.frame_map,
        "clean": rows[0],
        "nulls": rows[1 : 1 + len(nulls)],
        "cases": cases,
    }


def run(
    sources: Sequence[str],
    count: int,
    lengths: Sequence[int],
    model: str,
    steps: int,
    seed: int,
    work: Path,
) -> list[dict[str, Any]]:
    """Return the cells of all clips; a cell is the result of `measured` for one clip.

    Cells that the folder `work` has, computed with the same settings, are read instead of
    being computed again.
    """
    rewards, cast = chosen(), scenes(count, seed)
    settings = {"lengths": list(lengths), "seed": seed, "rewards": sorted(rewards), "steps": steps}
    settings |= {"model": fingerprint(Path(model))} if "tiny-wan-32" in sources else {}
    drawn = cache(lambda: Drawn(model, count, steps, seed))

    def make(source: str, i: int) -> dict[str, Any]:
        ours = source != "tiny-wan-32"
        clip = (
            world_clip(cast[i], int(source.removeprefix("world ")), seed + i)
            if ours
            else drawn().clip(i)
        )
        planted = in_pixels(clip, source, i, lengths, seed)
        planted += hard(clip, source, i, seed) if source in HARD else []
        planted += [] if ours else drawn().in_latent(clip, i)
        return measured(rewards, clip, planted, source, f"{source.split()[0]} {i}")

    plan = [(source, i) for i in range(count) for source in sources]
    return [
        cached(
            work / f"{source.replace(' ', '')}-{i:03d}.json",
            settings | {"source": source},
            make,
            source,
            i,
        )
        for source, i in tqdm(plan, unit="clip", file=sys.stderr)
    ]


def fingerprint(folder: Path) -> str:
    """Return a hash of the files of a model's folder."""
    digest = sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def cached(
    file: Path, settings: Mapping[str, Any], make: Callable[..., dict[str, Any]], *args: Any
) -> dict[str, Any]:
    """Return the cell in a file if it has the same settings; else compute and write the cell.

    The file is written atomically.
    """
    if file.exists():
        stored = json.loads(file.read_text())
        if stored.pop("settings") == settings:
            return dict(stored)
    cell = make(*args)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_bytes(file, json.dumps({"settings": settings, **cell}).encode())
    return dict(json.loads(json.dumps(cell)))  # as it would be read: tuples become lists


# Statistics of one curve


def drop(clean: Sequence[float] | np.ndarray, faulty: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return c − f, (F,), with differences below a millionth of the curves rounded to 0.

    >>> drop([1.0, 1.0, 1.0], [1.0, 0.25, 1.0 + 1e-9]).round(5).tolist()
    [0.0, 0.75, 0.0]
    """
    c, f = np.asarray(clean, float), np.asarray(faulty, float)
    unit = 1e-6 * max(1.0, float(np.nanmax(np.abs([c, f]), initial=0.0)))
    return np.round((c - f) / unit) * unit + 0.0


def roc_area(score: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve, or NaN without both positives and negatives.

    The area is P(score of a positive > score of a negative) + ½ P(both are equal).

    >>> roc_area(np.array([3.0, 2.0, 2.0, 0.0]), np.array([True, True, False, False]))
    0.875
    >>> roc_area(np.zeros(4), np.array([True, False, False, False]))
    0.5
    """
    if not np.isfinite(score).all() or positive.all() or not positive.any():
        return math.nan
    difference = score[positive][:, None] - score[~positive]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def mass_fractions(fall: np.ndarray, span: Span) -> dict[str, float]:
    """Return where Σ d⁺ lies: earlier, just before M, on M, just after, later.

    The fractions are NaN where nothing falls.

    >>> mass_fractions(np.array([1.0, 0, 2.0, 0, 1.0, -9.0]), (2, 4))
    {'earlier': 0.25, 'before': 0.0, 'on': 0.5, 'after': 0.25, 'later': 0.0}
    """
    lost, (a, b) = np.clip(fall, 0, None), span
    total = lost.sum() if np.isfinite(fall).all() else 0.0
    first = max(a - 1, 0)
    pieces = {
        "earlier": lost[:first],
        "before": lost[first:a],
        "on": lost[a:b],
        "after": lost[b : b + 1],
        "later": lost[b + 1 :],
    }
    return {
        name: float(piece.sum() / total) if total > 0 else math.nan
        for name, piece in pieces.items()
    }


def lag(fall: np.ndarray, span: Span) -> float:
    """Return how many frames the deepest drop lies after M (above 0) or before M (below 0).

    The lag is 0 on M, and NaN where nothing falls.

    >>> lag(np.array([0.0, 0.1, 0.0, 0.0, 0.9]), (1, 3)), lag(np.array([0.0, 1.0, 0.0]), (2, 3))
    (2, -1)
    """
    if not np.isfinite(fall).all() or fall.max() <= 0:
        return math.nan
    peak = int(fall.argmax())
    return (
        0
        if span[0] <= peak < span[1]
        else peak - span[1] + 1
        if peak >= span[1]
        else peak - span[0]
    )


def by_latent(curve: np.ndarray, frame_map: Sequence[Span]) -> np.ndarray:
    """Return the means over each latent frame's pixel frames, (L,).

    >>> by_latent(np.array([1.0, 2.0, 4.0]), [(0, 1), (1, 3)]).tolist()
    [1.0, 3.0]
    """
    return np.array([curve[a:b].mean() for a, b in frame_map])


@dataclass(frozen=True)
class Row:
    """The statistics of one reward on one faulty clip.

    `falls` and `rises` say whether the value changes by more than it does under a
    re-encoding.
    """

    reward: str
    source: str
    fault: str
    length: int
    unit: str
    chance: float  # the fraction of the frames that belong to M
    chance_near: float  # the fraction of the frames that belong to M or are next to M
    area: float  # ROC area of −f for "the frame is faulty"
    area_drop: float  # ROC area of d
    area_latent: float  # of −f in means over latent frames, for "it contains a faulty frame"
    area_drop_latent: float  # the same of d
    area_near: float  # of d, the frames next to M left out
    area_null: float  # of −c: the same frames of the clip without a fault
    mass: float  # the fraction of Σ d⁺ on M
    near: float  # the fraction on M and one frame either side
    earlier: float  # the fraction more than one frame before M
    later: float  # the fraction more than one frame after M
    lag: float  # frames from M to the deepest drop
    hit: float  # 1 if the deepest drop lies within one frame of M, else 0
    falls: float  # 1 if the value falls by more than the threshold, else 0
    rises: float  # 1 if the value rises by more than the threshold, else 0


def statistics(
    cell: Mapping[str, Any], case: Mapping[str, Any], reward: str, threshold: float
) -> Row:
    """Compute the statistics of one reward on one faulty clip."""
    frames, (a, b) = cell["frames"], case["span"]
    clean, faulty = (
        np.broadcast_to(np.array(x[reward], float), frames) for x in (cell["clean"], case["curves"])
    )
    faulted = np.zeros(frames, bool)
    faulted[a:b] = True
    fall, latent = drop(clean, faulty), cell["frame_map"]
    wide = slice(max(a - 1, 0), b + 1)
    counted = np.ones(frames, bool)  # all frames but those next to M
    counted[wide] = faulted[wide]
    # `drop` from 0 gives −f, rounded like d
    latent_faulted, level = by_latent(faulted, latent) > 0, drop(np.zeros(frames), faulty)
    where, frames_late = mass_fractions(fall, (a, b)), lag(fall, (a, b))
    change = float(faulty.mean() - clean.mean())
    finite = math.isfinite(change)
    return Row(
        reward,
        case["source"],
        case["fault"],
        b - a,
        cell["unit"],
        (b - a) / frames,
        len(range(frames)[wide]) / frames,
        area=roc_area(level, faulted),
        area_drop=roc_area(fall, faulted),
        area_latent=roc_area(by_latent(level, latent), latent_faulted),
        area_drop_latent=roc_area(by_latent(fall, latent), latent_faulted),
        area_near=roc_area(fall[counted], faulted[counted]),
        area_null=roc_area(drop(np.zeros(frames), clean), faulted),
        mass=where["on"],
        near=where["before"] + where["on"] + where["after"],
        earlier=where["earlier"],
        later=where["later"],
        lag=frames_late,
        hit=float(abs(frames_late) <= 1) if math.isfinite(frames_late) else math.nan,
        falls=float(change < -threshold) if finite else math.nan,
        rises=float(change > threshold) if finite else math.nan,
    )


def thresholds(cells: Sequence[Mapping[str, Any]], rewards: Iterable[str]) -> dict[str, float]:
    """Return, by reward, how much its value changes under mild re-encodings.

    The threshold is the 95th percentile of |change|.
    """
    found = {}
    for name in rewards:
        changes = [
            abs(np.mean(null[name]) - np.mean(cell["clean"][name]))
            for cell in cells
            for null in cell["nulls"]
        ]
        finite = [x for x in changes if math.isfinite(x)]
        found[name] = float(np.percentile(finite, 95)) if finite else math.nan
    return found


# Statistics of many curves


@dataclass(frozen=True)
class Estimate:
    """A mean over clips, with the 95 % interval of a bootstrap over clips."""

    mean: float
    low: float
    high: float
    units: int


def estimate(
    values: Sequence[float], units: Sequence[str], draws: int = 2000, seed: int = 0
) -> Estimate:
    """Return the mean over units of each unit's own mean, with a bootstrap interval.

    The interval consists of the percentiles 2.5 and 97.5 under resampling of units. One
    scene rendered at several sizes is one unit. NaN values are left out.

    >>> estimate([0.0, 1.0, 0.5, float("nan")], ["a", "a", "b", "c"])
    Estimate(mean=0.5, low=0.5, high=0.5, units=2)
    """
    own: dict[str, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        if math.isfinite(value):
            own.setdefault(unit, []).append(value)
    means = np.array([np.mean(mine) for mine in own.values()])
    if not len(means):
        return Estimate(math.nan, math.nan, math.nan, 0)
    again = np.random.default_rng(seed).integers(len(means), size=(draws, len(means)))
    low, high = np.percentile(means[again].mean(1), [2.5, 97.5])
    return Estimate(float(means.mean()), float(low), float(high), len(means))


def kind_of(source: str) -> str:
    """Return how a source's faults are planted: "pixels", "latent", "frame 0" or "lasting".

    >>> kind_of("world 32"), kind_of("tiny-wan-32, latent"), kind_of("lasting")
    ('pixels', 'latent', 'lasting')
    """
    return (
        "latent"
        if source.endswith("latent")
        else source
        if source in ("frame 0", "lasting")
        else "pixels"
    )


@dataclass
class Findings:
    """All rows of the study, with means over them.

    `untouched` counts the faults that changed nothing; `size` is the mean |change| of the
    faulty frames of the others, by kind and fault.
    """

    rows: list[Row]
    untouched: int
    rewards: list[str]
    size: dict[tuple[str, str], float]

    @classmethod
    def of(cls, cells: Sequence[Mapping[str, Any]]) -> Findings:
        """Compute the rows of all cells, with thresholds for each source."""
        rewards, untouched = list(cells[0]["clean"]), 0
        rows: list[Row] = []
        sizes: dict[tuple[str, str], list[float]] = {}
        homes = dict.fromkeys(cell["source"] for cell in cells)
        for home in homes:
            mine = [cell for cell in cells if cell["source"] == home]
            null = thresholds(mine, rewards)
            for cell in mine:
                seen = [case for case in cell["cases"] if case["changed"] > UNTOUCHED]
                untouched += len(cell["cases"]) - len(seen)
                rows += [
                    statistics(cell, case, reward, null[reward])
                    for case in seen
                    for reward in rewards
                ]
                for case in seen:
                    sizes.setdefault((kind_of(case["source"]), case["fault"]), []).append(
                        case["changed"]
                    )
        return cls(
            rows, untouched, rewards, {key: float(np.mean(found)) for key, found in sizes.items()}
        )

    @cached_property
    def _index(self) -> dict[str, list[Row]]:
        return {name: [row for row in self.rows if row.reward == name] for name in self.rewards}

    def get(
        self, reward: str, field: str, fault: str = "", kind: str = "pixels", **only: Any
    ) -> Estimate:
        """Return the mean of a field over the rows of a reward.

        The rows are those of one fault or of all, of one kind (see `kind_of`), and with the
        given values of other fields.
        """
        rows = [
            row
            for row in self._index[reward]
            if kind_of(row.source) == kind
            and fault in ("", row.fault)
            and all(getattr(row, key) == value for key, value in only.items())
        ]
        return estimate([getattr(row, field) for row in rows], [row.unit for row in rows])

    def sees(self, reward: str) -> list[str]:
        """Return the faults in pixels that a reward sees.

        A reward sees a fault that lowers the value of at least half of the clips by more
        than a re-encoding does.
        """
        return [fault for fault in FAULTS if self.get(reward, "falls", fault).mean >= SEES]

    def paid(self, reward: str) -> list[str]:
        """Return the faults that raise the value of at least half of the clips."""
        return [fault for fault in FAULTS if self.get(reward, "rises", fault).mean >= SEES]

    def over(self, reward: str, field: str, faults: Sequence[str]) -> float:
        """Return the mean of a field over faults."""
        return (
            float(np.mean([self.get(reward, field, fault).mean for fault in faults]))
            if faults
            else math.nan
        )

    def hit(self, reward: str, field: str, kind: str) -> Estimate:
        """Return the mean of a field over the clips of one kind whose value falls."""
        return self.get(reward, field, kind=kind, falls=1.0)

    def verdict(self, reward: str) -> str:
        """Return "local", "but from frame 0", "spread" or "blind".

        "but from frame 0" is a local reward that charges faults of the first frame to later
        frames.
        """
        seen = self.sees(reward)
        if not seen:
            return "blind"
        if self.over(reward, "near", seen) < NEAR or self.over(reward, "area_near", seen) < AREA:
            return "spread"
        return ANCHORED if self.hit(reward, "near", "frame 0").mean < 0.5 * NEAR else "local"


# The page


def share(value: float) -> str:
    """Format a number with two decimals, or as a dash.

    >>> share(0.126), share(float("nan"))
    ('0.13', '–')
    """
    return f"{value:.2f}" if math.isfinite(value) else "–"


def span(found: Estimate) -> str:
    """Format a mean with its interval."""
    return f"{share(found.mean)} [{share(found.low)}, {share(found.high)}]" if found.units else "–"


def lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, marks, *rows])


def summary(found: Findings) -> str:
    """Return the table with one line for each reward, over the faults it sees."""
    head = [
        "reward",
        "support",
        "verdict",
        "sees",
        "paid by",
        "area of −curve",
        "area of the drop",
        "but for ±1",
        "on the frames",
        "within ±1",
        "earlier",
        "later",
        "−clean curve",
    ]
    declared = supports()
    fields = ("area", "area_drop", "area_near", "mass", "near", "earlier", "later")
    rows = []
    for name in ranked(found):
        seen = found.sees(name)
        rows.append(
            [
                name,
                declared.get(name, ""),
                found.verdict(name),
                ", ".join(seen) or "none",
                ", ".join(found.paid(name)),
                *(share(found.over(name, field, seen)) for field in fields),
                share(found.get(name, "area_null").mean),
            ]
        )
    chance = [share(found.get(found.rewards[0], key).mean) for key in ("chance", "chance_near")]
    null = ["a constant curve", *[""] * 4, "0.50", "0.50", "0.50", *chance, "–", "–", "0.50"]
    return lines(head, [*rows, null])


def ranked(found: Findings) -> list[str]:
    """Return the rewards: local ones first, and by the ROC area of the drop within a verdict.

    The frames next to the fault are left out of the area.
    """
    kinds = ("local", ANCHORED, "spread", "blind")
    return sorted(
        found.rewards,
        key=lambda name: (
            kinds.index(found.verdict(name)),
            -np.nan_to_num(found.over(name, "area_near", found.sees(name))),
        ),
    )


def of_fault(found: Findings, fault: str) -> str:
    """Return the table of all rewards for one fault, sorted by the area of −curve."""
    head = [
        "reward",
        "falls",
        "rises",
        "area of −curve",
        "area of the drop",
        "−curve, latent",
        "drop, latent",
        "mass",
        "within ±1",
        "earlier",
        "later",
        "deepest within ±1",
        "lag",
        "planted in a latent: falls",
        "area of −curve",
        "area of the drop",
        "within ±1",
    ]
    rows = []
    for name in sorted(
        found.rewards, key=lambda name: -np.nan_to_num(found.get(name, "area", fault).mean)
    ):
        pixels = {
            field: found.get(name, field, fault)
            for field in Row.__annotations__
            if field not in ("reward", "source", "fault", "unit")
        }
        latent = {
            field: found.get(name, field, fault, "latent")
            for field in ("falls", "area", "area_drop", "near")
        }
        rows.append(
            [
                name,
                *(share(pixels[key].mean) for key in ("falls", "rises")),
                *(
                    span(pixels[key])
                    for key in ("area", "area_drop", "area_latent", "area_drop_latent", "mass")
                ),
                *(share(pixels[key].mean) for key in ("near", "earlier", "later", "hit")),
                f"{pixels['lag'].mean:+.1f}" if pixels["lag"].units else "–",
                share(latent["falls"].mean),
                *(span(latent[key]) for key in ("area", "area_drop")),
                share(latent["near"].mean),
            ]
        )
    on, near, low = (
        share(found.get(found.rewards[0], key, fault, kind).mean)
        for key, kind in (
            ("chance", "pixels"),
            ("chance_near", "pixels"),
            ("chance_near", "latent"),
        )
    )
    null = ["chance", "", "", *["0.50"] * 4, on, near, "", "", near, "", "", "0.50", "0.50", low]
    return lines(head, [*rows, null])


def sizes(found: Findings) -> str:
    """Return the table of how much each fault changes its frames, of the range of a pixel."""
    rows = [
        [kind, *(f"{found.size.get((kind, fault), math.nan):.1%}" for fault in FAULTS)]
        for kind in dict.fromkeys(key[0] for key in found.size)
        if kind in ("pixels", "latent")
    ]
    return lines(["planted in", *FAULTS], rows)


def splits(found: Findings) -> str:
    """Return the table of the ROC area of the drop by source and by length."""
    sources = [
        source
        for source in dict.fromkeys(row.source for row in found.rows)
        if kind_of(source) in ("pixels", "latent")
    ]
    lengths = sorted({row.length for row in found.rows if kind_of(row.source) == "pixels"})
    head = ["reward", *sources, *(f"{n} frame{'s' * (n > 1)}" for n in lengths)]
    rows = [
        [
            name,
            *(share(found.get(name, "area_drop", kind=kind_of(s), source=s).mean) for s in sources),
            *(share(found.get(name, "area_drop", length=n).mean) for n in lengths),
        ]
        for name in ranked(found)
    ]
    return lines(head, rows)


def harder(found: Findings) -> str:
    """Return the table of where the drop lies for faults of frame 0 and lasting changes."""
    head = [
        "reward",
        *(
            f"{kind}: {what}"
            for kind in ("frame 0", "lasting")
            for what in ("falls", "within ±1", "earlier", "later")
        ),
    ]
    rows = []
    for name in ranked(found):
        row = [name]
        for kind in ("frame 0", "lasting"):
            row.append(share(found.get(name, "falls", kind=kind).mean))
            row += [
                share(found.hit(name, field, kind).mean) for field in ("near", "earlier", "later")
            ]
        rows.append(row)
    return lines(head, rows)


def conclusion(found: Findings) -> str:
    """Return what the verdicts mean for segment credit, one sentence for each verdict."""

    def listed(kind: str) -> str:
        names = [name for name in ranked(found) if found.verdict(name) == kind]
        return (
            ", ".join(
                f"{name} ({', '.join(map(number, near(name)))})" if near(name) else name
                for name in names
            )
            or "none"
        )

    def near(name: str) -> list[float]:
        return (
            [found.over(name, "near", found.sees(name)), found.hit(name, "near", "frame 0").mean]
            if found.sees(name)
            else []
        )

    def number(value: float) -> str:
        return f"{value:.0%}".replace("%", " %") if math.isfinite(value) else "–"

    return (
        "In brackets the share of the drop within one frame of the fault: over the faults seen, "
        "and where frame 0 is faulty.\n\n"
        f"- **May be credited where they are**, for the faults they see: {listed('local')}.\n"
        f"- **Not locally**: {listed(ANCHORED)}, where a fault of the first frame, with which all "
        f"are compared, is charged to the later ones; {listed('spread')}, whose drop lies too far "
        "from the fault or off it.\n"
        "- **Cannot localise**, because no planted fault lowers the value of half of the clips: "
        f"{listed('blind')}.\n"
    )


def page(found: Findings, command: str, picture: str, clips: Mapping[str, int]) -> str:
    """Return the page as Markdown."""
    versions = f"torch {torch.__version__}, OpenCV {cv2.__version__}, numpy {np.__version__}"
    about = ", ".join(f"{count} of {source}" for source, count in clips.items())
    tables = "\n\n".join(f"### {fault}\n\n{of_fault(found, fault)}" for fault in FAULTS)
    return f"""# Does the curve fall where the fault is?

`{command}`

{platform.machine()} CPU, one thread. Python {platform.python_version()}, {versions}.

A fault is planted in known frames M of a clean clip, and each reward's curve over time \
is asked where it is. Clips of
17 frames at 8 a second: {about}; each fault and length draws its own place, frame 0 \
excepted. Flicker ±30 %, jump of
the picture by 12 % of its width, blur of 5 % of the width, the frame before frozen, \
another object on the same path (of
tiny-wan-32: in another colour), grain of 6 %. "Latent" plants the fault in one latent \
frame of tiny-wan-32,
z_j + E(faulty)_j − E(clean)_j with E the encoder, and decodes: M is that latent frame's \
pixel frames.
{found.untouched} faults changed nothing and are left out.

d = clean curve − faulty curve. *Area*: under the ROC curve of −curve, or of d, for "the \
frame is faulty", within a
clip; "but for ±1": of d with the frames next to M left out, which pairs of frames cannot \
spare; "latent": of means over
latent frames, for "it holds a faulty frame". *Mass*: the share of Σ d⁺ on M, beside it \
within one frame of M, and more
than one frame earlier or later. *Lag*: frames from M to the deepest drop. *Falls, \
rises*: share of faulty clips whose
value changes by more than the 95th percentile of what a mild re-encoding does; a reward \
*sees* a fault from
{SEES:.0%} on, and is *paid by* what raises it as often. Brackets: 95 % of 2000 \
bootstraps over clips, one scene at
three sizes being one clip. A constant curve, credit of the whole clip, has area 0.5; \
"−clean curve" is the area of the
clean clip's own curve for the same frames, the null of "area of −curve". *Local*: over \
the faults seen, {NEAR:.0%} of
the drop within ±1, and an area but for ±1 of {AREA}; *{ANCHORED}*: local, but less than \
{NEAR / 2:.0%} within ±1 where
frame 0 is faulty. The shares were set before any clip was scored, "but for ±1" and frame \
0 came into the rule after a
trial of four clips; jerk was "spread" with fewer clips.

![the picture]({picture})

{conclusion(found)}

## By reward, over the faults that it sees

`{LOCAL_ONLY}`: the composite's linearised entries with drift the same in all frames, as \
segment credit takes them;
`default`: all parts in their own places. segment_seam is told that each latent frame is a segment.

{summary(found)}

## Faults of frame 0, and changes that last

Frame 0 has any of the faults but freeze; or light (±30 %), place or object change at a \
frame of the middle half and
stay so, and M is the frame where they change. Clips of {" and ".join(HARD)}; where the \
drop lies is told of those whose
value falls. What compares with the first frame charges all that come later.

{harder(found)}

## How large the faults are

Mean absolute change of the faulty frames, of the range of a pixel. An autoencoder that \
knows no grain, and little of
blur, plants little of them.

{sizes(found)}

## By fault

{tables}

## Area of the drop by source and by length, over all faults

{splits(found)}
"""


# The picture


def shade(area: float) -> str:
    """Return the colour of an area: pale at 0.5, teal towards 1, orange towards 0.

    >>> shade(0.5), shade(1.0), shade(0.0)
    ('#f5f5f2', '#0b7a75', '#c2571a')
    """
    pale, ends = (245, 245, 242), ((11, 122, 117) if area >= 0.5 else (194, 87, 26))
    part = min(1.0, 2 * abs(area - 0.5))
    return "#" + "".join(
        f"{round(a + (b - a) * part):02x}" for a, b in zip(pale, ends, strict=True)
    )


def picture(found: Findings) -> str:
    """Draw rewards by faults as SVG, with a panel for each kind of area.

    The panels show the ROC areas of the curve, of the drop, and of the drop for latent
    faults.
    """
    panels = [
        ("−curve, planted in pixels", "area", "pixels"),
        ("drop against the clean clip", "area_drop", "pixels"),
        ("drop, planted in a latent", "area_drop", "latent"),
    ]
    panels = [
        panel for panel in panels if any(kind_of(row.source) == panel[2] for row in found.rows)
    ]
    names = ranked(found)
    cell, high = 38, 22
    left, top = 208, 92
    gap = 26
    wide = cell * len(FAULTS) + gap
    width, height = left + wide * len(panels), top + high * len(names) + 58
    parts = [_word(left - 8, top + high * r + 15, name, 12, "end") for r, name in enumerate(names)]
    for p, (title, field, kind) in enumerate(panels):
        x = left + wide * p
        parts.append(_word(x, 20, title, 12, weight="600"))
        for k, fault in enumerate(FAULTS):
            at = x + cell * (k + 0.5)
            parts.append(
                f'<text x="{at:g}" y="{top - 8}" font-size="11" fill="#62656b" '
                f'transform="rotate(-50 {at:g} {top - 8})">{escape(fault)}</text>'
            )
            for r, name in enumerate(names):
                area, falls = (found.get(name, key, fault, kind).mean for key in (field, "falls"))
                parts.append(_cell(area, falls, x + cell * k, top + high * r, cell, high))
    words = (
        "area under the ROC curve for “this frame is faulty”: 1 the fault alone, 0.5 chance, "
        "below it elsewhere",
        "faint: the value of fewer than half of the clips falls by more than under a mild "
        "re-encoding",
    )
    parts += [
        _word(12, height - 34 + 18 * i, line, 11, colour="#62656b") for i, line in enumerate(words)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" '
        f'font-family="ui-sans-serif,system-ui,Helvetica,Arial,sans-serif">'
        f'<rect width="{width}" height="{height}" '
        f'rx="10" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _word(
    x: float,
    y: float,
    text: str,
    size: int,
    anchor: str = "start",
    colour: str = "#1b1c1e",
    weight: str = "400",
) -> str:
    """Return one text element of the picture."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
        f'font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
    )


def _cell(area: float, falls: float, x: float, y: float, width: int, high: int) -> str:
    """Return one cell of the picture; it is faint where the reward does not see the fault."""
    if not math.isfinite(area):
        return ""
    seen = falls >= SEES
    ink = "#ffffff" if seen and abs(area - 0.5) > 0.3 else "#1b1c1e" if seen else "#62656b"
    fade = "" if seen else ' opacity=".35"'
    return (
        f'<rect x="{x + 1.5:g}" y="{y + 1.5}" width="{width - 3}" height="{high - 3}" rx="3" '
        f'fill="{shade(area)}"{fade}/><text x="{x + width / 2:g}" y="{y + 14.5}" font-size="10" '
        f'text-anchor="middle" fill="{ink}">{area:.2f}</text>'
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Plant the faults, score the clips and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=8, help="clips of each source")
    parser.add_argument("--sources", default="world 32,world 64,world 128,tiny-wan-32")
    parser.add_argument("--lengths", default="1,3,5", help="lengths of a fault in frames")
    parser.add_argument(
        "--model", default="assets/tiny-wan-32", help="model that generates clips of tiny-wan-32"
    )
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/localisation"), help="where finished clips are kept"
    )
    parser.add_argument("--out", type=Path, help="page to write; standard output without")
    parser.add_argument(
        "--quick", action="store_true", help="two clips of 32 pixels, one length: seconds"
    )
    args = parser.parse_args(arguments)
    sources, lengths = args.sources.split(","), [int(n) for n in args.lengths.split(",")]
    if args.quick:
        args.clips, lengths = 2, [3]
        sources = [s for s in sources if s in ("world 32", "tiny-wan-32")]
    torch.set_num_threads(1)
    cells = run(sources, args.clips, lengths, args.model, args.steps, args.seed, args.work)
    found = Findings.of(cells)
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = "python " + " ".join([Path(sys.argv[0]).as_posix(), *words])
    name = args.out.with_suffix(".svg").name if args.out else "localisation.svg"
    text = page(found, command, name, dict.fromkeys(sources, args.clips))
    if not args.out:
        print(text)
        return
    args.out.write_text(text, encoding="utf-8")
    args.out.with_suffix(".svg").write_text(picture(found), encoding="utf-8")
    print(conclusion(found))


if __name__ == "__main__":
    main()
