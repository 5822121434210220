"""Measure orbits before and after training with measures that no reward of the run has seen.

    python benchmarks/studies/scene_views.py RUN [RUN ...]
    python benchmarks/studies/scene_views.py --moving RUN [RUN ...]

Each held-out caption gives one orbit of the base model and one of the trained weights, of the
same noise, with the run's own settings. Printed are the claims of `scene_verifier`, and the
temporal rewards `segment_seam` and `motion_consistency`, which here compare views. `--moving`
adds the part `moved` of `scene_fit`, which the run's reward has seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidrl import plugin
from vidrl.backbones.base import PromptCache
from vidrl.rewards import Samples, load
from vidrl.synthetic import scene_fit, scene_verifier, scenes
from vidrl.training import evaluate
from vidrl.training.clips import generate
from vidrl.training.model_source import resolve
from vidrl.training.policy import load_adapter
from vidrl.training.rollout import draws


def orbits(model: Any, policy: Any, prompts: list[str], steps: int) -> Samples:
    """Return one orbit for each prompt."""
    noise = draws(0, [("views", i) for i in range(len(prompts))])
    return generate(policy, prompts, noise, steps, encode=PromptCache(model))


def measured(samples: Samples, arcs: int) -> evaluate.Measures:
    """Return the numbers of each orbit."""
    verdict = scene_verifier.verify(samples.frames, list(samples.prompts))
    words = {name: value.double().numpy() for name, value in vars(verdict).items()}
    every = samples.video.shape[1] // arcs
    seam, motion = load("segment_seam", every=every), load("motion_consistency")
    curves = {"segment_seam": seam(samples).value, "motion_consistency": motion(samples).value}
    if any(any(scenes.parse(prompt).motions) for prompt in samples.prompts):
        curves["moved"] = moved(samples)
    return words | {name: np.asarray(value.double()) for name, value in curves.items()}


def moved(samples: Samples) -> torch.Tensor:
    """Return the part `moved` of each orbit, (B,)."""
    pairs = zip(samples.frames, samples.prompts, strict=True)
    parts = [scene_fit.parts(clip, scenes.parse(prompt)) for clip, prompt in pairs]
    return torch.stack([part["moved"].mean() for part in parts])


def table(run: str, n: int, moving: bool) -> str:
    """Return the lines of a run."""
    source = resolve(run=run)
    model = plugin.load("backbones", source.backbone, **source.options)
    prompts = [scene.caption for scene in scenes.scenes("held_out", n, moving)]
    steps = source.steps or 8
    before = measured(orbits(model, model, prompts, steps), model.shape[1])
    policy = load_adapter(model, str(source.lora), False)
    after = measured(orbits(model, policy, prompts, steps), model.shape[1])
    lines = []
    for name, row in evaluate.compare(before, after).items():
        ends = "none" if row["low"] is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]"
        cells = (name, f"{row['before']:.3f}", f"{row['after']:.3f}")
        lines.append(
            f"| {Path(run).name} | {' | '.join(cells)} | {row['difference']:+.3f} {ends} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print a table of all runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("-n", type=int, default=128)
    parser.add_argument("--moving", action="store_true", help="captions in which a thing moves")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | measure | before | after | paired difference, 95 % interval |")
    print("|---|---|---|---|---|")
    for run in args.runs:
        print(table(run, args.n, args.moving), flush=True)


if __name__ == "__main__":
    main()
