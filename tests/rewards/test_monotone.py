"""What `lowered_by` claims holds at every strength, in the mean over six clips.

A stronger fault never has a higher score.
"""

from functools import lru_cache

import pytest
import torch

from vidrl import plugin
from vidrl.rewards import Reward, Samples
from vidrl.synthetic import corruptions, world

SIZE, FRAMES, FPS = 32, 17, 8.0
STRENGTHS = (0.25, 0.5, 1.0)
# of the whole fall, from one strength to the next: rounding, and curves that have reached
# their floor
RISE = 0.015
SCENES = [
    world.Scene("circle", "red", "left", "slow", "speckled"),
    world.Scene("square", "blue", "down", "fast", "light"),
    world.Scene("cross", "yellow", "right", "fast", "striped"),
    world.Scene("triangle", "green", "bounce", "slow", "dark"),
    world.Scene("circle", "pink", "circle", "fast", "speckled"),
    world.Scene("square", "cyan", "grow", "slow", "striped"),
]


def claims() -> list[tuple[str, str]]:
    """Return the rewards without weights and the faults that lower each of them."""
    classes = {name: plugin.find("rewards", name) for name in plugin.names("rewards")}
    return [
        (name, fault)
        for name, cls in classes.items()
        if not cls.learned
        for fault in cls.lowered_by
    ]


@lru_cache
def samples(fault: str, strength: float) -> Samples:
    """Return the six clips with a fault; they are cached, so that all rewards use the same flow."""
    clean = [world.render(scene, SIZE, FRAMES, FPS, seed=i).video for i, scene in enumerate(SCENES)]
    video = [corruptions.corrupt(clip, fault, strength, seed=i) for i, clip in enumerate(clean)]
    return Samples(torch.stack(video), [scene.caption for scene in SCENES], FPS)


@lru_cache
def build(name: str) -> Reward:
    return plugin.find("rewards", name).tiny()


@lru_cache
def clean(name: str) -> torch.Tensor:
    return build(name)(samples("freeze", 0.0)).value


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), claims())
def test_more_of_a_fault_never_pays_better(name: str, fault: str):
    values = torch.stack(
        [clean(name), *(build(name)(samples(fault, strength)).value for strength in STRENGTHS)]
    )
    scored = values.isfinite().all(0)
    assert scored.sum() >= 4, (
        f"{name} under {fault} scores {int(scored.sum())} of {len(SCENES)} clips throughout"
    )
    means = values[:, scored].mean(1)
    fall = means[0] - means[-1]
    assert fall > 0 and (means.diff() <= RISE * fall).all(), (
        f"{name} under {fault}: {means.tolist()}"
    )
