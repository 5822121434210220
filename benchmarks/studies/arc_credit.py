"""Compare credit by arc of an orbit with the measured effect of each arc's noise.

    python benchmarks/studies/arc_credit.py

The effect of arc s on an orbit is its reward less the mean reward of orbits whose noise differs
in arc s alone. Printed are how far the noise of each arc moves the parts of `SceneFit` in each
arc, and the cosine of credit with the effects, for credit of whole orbits and for parts that
are credited to their own arc, with a 95 % interval of the difference over prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidrl import plugin
from vidrl.backbones.base import Denoiser
from vidrl.credit.advantages import advantages
from vidrl.rewards import Score
from vidrl.synthetic import scene_fit, scenes

PROMPTS, GROUP = 24, 4
DRAWS, STEPS = 3, 8
RESAMPLED = 1000  # of the prompts, for the interval
WEIGHTS = {"steady": scene_fit.STEADY, **scene_fit.WEIGHTS}
LOCAL = {
    "whole orbits": (),
    "clean and present by arc": ("clean", "present"),
    "clean, present and steady by arc": ("clean", "present", "steady"),
}
Parts = dict[str, Tensor]


@torch.no_grad()
def parts(model: Denoiser, noise: Tensor, captions: list[str]) -> Parts:
    """Return the parts of SceneFit for each view, each (N, F)."""
    views = model.decode(model.generate(noise, model.encode(captions), STEPS))
    pairs = zip(views, map(scenes.parse, captions), strict=True)
    rows = [scene_fit.parts(clip, scene) for clip, scene in pairs]
    return {name: torch.stack([row[name] for row in rows]) for name in WEIGHTS}


def value(found: Parts) -> Tensor:
    """Return the reward of each orbit, (N,)."""
    return torch.stack([weight * found[name].mean(1) for name, weight in WEIGHTS.items()]).sum(0)


def score(found: Parts, local: tuple[str, ...]) -> Score:
    """Return the reward as a composite, of which the parts in `local` belong to their view."""
    made = {
        name: Score(found[name].mean(1), found[name], "frame" if name in local else "clip")
        for name in WEIGHTS
    }
    slopes = {name: torch.full_like(value(found), weight) for name, weight in WEIGHTS.items()}
    return Score(value(found), None, "clip", parts=made, weights=WEIGHTS, slopes=slopes)


def effects(model: Denoiser, noise: Tensor, captions: list[str], base: Parts) -> Tensor:
    """Return the effect of each arc's noise on each orbit, (N, S); print the influence."""
    draw, found = torch.Generator().manual_seed(1), []
    for arc in range(noise.shape[2]):
        moved = {name: torch.zeros(noise.shape[2]) for name in WEIGHTS}
        total = torch.zeros(len(noise))
        for _ in range(DRAWS):
            other = noise.clone()
            other[:, :, arc] = torch.randn(other[:, :, arc].shape, generator=draw)
            new = parts(model, other, captions)
            total += value(new) / DRAWS
            for name in WEIGHTS:
                change = (new[name] - base[name]).unflatten(1, (noise.shape[2], -1)).mean(2)
                moved[name] += change.abs().mean(0) / DRAWS
        found.append(value(base) - total)
        print(arc, {name: [round(y, 3) for y in x.tolist()] for name, x in moved.items()})
    return torch.stack(found, 1)


def cosine(first: Tensor, other: Tensor) -> float:
    """Return the cosine between two tensors."""
    return float((first * other).sum() / (first.norm() * other.norm()))


def main() -> None:
    """Print the influence and the cosines."""
    torch.set_num_threads(1)
    model = plugin.load("backbones", "scene", model="assets/tiny-scene", views=24, size=32)
    captions = [s.caption for s in scenes.scenes("train", PROMPTS) for _ in range(GROUP)]
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(len(captions), *model.shape, generator=draw)
    base = parts(model, noise, captions)
    effect = effects(model, noise, captions, base)
    group, spans = torch.arange(PROMPTS).repeat_interleave(GROUP), model.frame_map
    credit = {
        name: advantages(score(base, local), group, spans, "segment", 1.0, "batch")
        for name, local in LOCAL.items()
    }
    whole = credit["whole orbits"]
    for name, found in credit.items():
        differences = []
        for _ in range(RESAMPLED):
            chosen = torch.randint(PROMPTS, (PROMPTS,), generator=draw)
            rows = (chosen[:, None] * GROUP + torch.arange(GROUP)).flatten()
            pair = [cosine(x[rows], effect[rows]) for x in (found, whole)]
            differences.append(pair[0] - pair[1])
        low, high = torch.tensor(differences).quantile(torch.tensor([0.025, 0.975])).tolist()
        print(f"{name}: cosine {cosine(found, effect):.3f}, less whole [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
