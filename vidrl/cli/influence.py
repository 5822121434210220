"""vidrl influence: how far the noise of each latent frame moves the reward of each
frame."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._declare import command

# What a plan of all steps that may ever draw noise leaves out: a window's places are all
# measured at once.
UNUSED = ("credit", "influence", "window", "window_stride", "window_schedule", "train_steps")
ABOUT = """\
Measure what credit by influence reads: how far the noise of each latent frame, at each denoising step, moves the reward
of each frame (vidrl.credit.influence), for the model, the reward and the sampler of a recipe.

  vidrl influence scripts/recipes/demo.toml --out influence.safetensors
  vidrl train scripts/recipes/demo.toml algorithm.options.influence=influence.safetensors algorithm.options.credit=gls

A file named influence.safetensors in the model's folder is found by itself. One measurement serves all runs of a model,
a reward and a sampler, whatever their window; it is of the model before training. With K stochastic steps, L latent
frames, N prompts and M members it takes N M K (L + 1) clips, finished from each step on, decoded and scored: thousands.
"""


def declare(commands: Any) -> None:
    made = command(
        commands, "influence", ABOUT, "measure what credit by influence reads", _influence
    )
    made.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a TOML file; its model, reward, algorithm and training prompts",
    )
    made.add_argument(
        "overrides", metavar="key=value", nargs="*", help="dotted overrides, as seed=1"
    )
    made.add_argument("--prompts", type=int, default=64, metavar="N", help="how many prompts (64)")
    made.add_argument("--members", type=int, default=2, metavar="N", help="clips of each (2)")
    made.add_argument(
        "--out", default="influence.safetensors", metavar="FILE", help="where to write it"
    )


def _influence(args: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from vidrl import config, plugin
    from vidrl.algorithms._trajectory import Trajectory
    from vidrl.credit import influence
    from vidrl.training import evaluate
    from vidrl.training.rollout import draws

    folder = Path(args.out).parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected a folder to write {args.out} to, found none at {folder}: make it first"
        )
    recipe = config.load(args.recipe, args.overrides)
    config.check_plugins(recipe)
    kind = plugin.find("algorithms", recipe.algorithm.name)
    if not issubclass(kind, Trajectory):
        raise ValueError(
            "expected an algorithm whose sampling draws noise, because an influence is of that noise, got "
            f"{recipe.algorithm.name!r}, which samples without: take one of {_noisy()}, as "
            "algorithm.name=grpo algorithm.options={}"
        )
    backbone = plugin.load("backbones", recipe.backbone.name, **recipe.backbone.options)
    backbone.to("cuda" if torch.cuda.is_available() else "cpu")
    options = {k: v for k, v in recipe.algorithm.options.items() if k not in UNUSED}
    draw = draws(recipe.seed, [("influence", "plan")])[0]
    plan = plugin.load("algorithms", recipe.algorithm.name, **options).plan(backbone, 0, draw)
    prompts = config.read_prompts(recipe.data.prompts)
    chosen = torch.randperm(len(prompts), generator=draw)[: args.prompts].tolist()
    reward = evaluate.build_reward(recipe.reward).to(backbone.device)
    made = influence.measure(
        backbone,
        reward,
        plan,
        [prompts[i] for i in chosen],
        args.members,
        recipe.seed,
        lambda names: tqdm(names, desc="prompt", unit="prompt"),
        recipe.train.micro_batch or 32,
    )
    print(made.save(args.out))
    return 0


def _noisy() -> str:
    """The names of the algorithms whose sampling draws noise."""
    from vidrl import plugin
    from vidrl.algorithms._trajectory import Trajectory

    known = {one: plugin.find("algorithms", one) for one in plugin.names("algorithms")}
    return ", ".join(name for name, kind in known.items() if issubclass(kind, Trajectory))
