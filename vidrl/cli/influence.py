"""Defines `vidrl influence`, which measures how the noise of latent frames moves the reward."""

from __future__ import annotations

import argparse
from typing import Any

from ._declare import add_recipe, command, new_file, whole_number

ABOUT = """\
Measure how far the noise of each latent frame, at each denoising step, moves the reward of each
frame, for the model, the reward and the sampler of a recipe. Credit by influence
(vidrl.credit.influence) reads the result.

  vidrl influence scripts/recipes/demo.toml --out influence.safetensors
  vidrl train scripts/recipes/demo.toml algorithm.options.influence=influence.safetensors \\
      algorithm.options.credit=gls

Training finds a file named influence.safetensors in the model's folder without the option. One
measurement, of the model before training, serves all runs of a model, a reward and a sampler,
whatever their window of steps. With K stochastic steps, L latent frames, N prompts and M clips for
each prompt, the measurement finishes, decodes and scores N M K (L + 1) clips: thousands.
`vidrl cost RECIPE --for influence` says beforehand what that takes.
"""


def declare(commands: Any) -> None:
    """Declare the command `influence`."""
    brief = "measure how noise moves the reward, for credit by influence"
    influence = command(commands, "influence", ABOUT, brief, _influence)
    add_recipe(influence, example="seed=1")
    influence.add_argument(
        "--prompts",
        type=whole_number(1),
        default=64,
        metavar="N",
        help="the number of training prompts (64)",
    )
    influence.add_argument(
        "--members",
        type=whole_number(2),
        default=2,
        metavar="N",
        help="the number of clips for each prompt (2)",
    )
    influence.add_argument(
        "--out",
        type=new_file,
        default="influence.safetensors",
        metavar="FILE",
        help="the file to write (influence.safetensors)",
    )


def _influence(args: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from vidrl import config, plugin
    from vidrl.credit import influence
    from vidrl.training import evaluate
    from vidrl.training.influence_plan import check_noise, influence_plan

    recipe = config.load(args.recipe, args.overrides)
    config.check_plugins(recipe)
    check_noise(recipe.algorithm.name)
    backbone = plugin.load("backbones", recipe.backbone.name, **recipe.backbone.options)
    backbone.to("cuda" if torch.cuda.is_available() else "cpu")
    plan, generator = influence_plan(recipe, backbone)
    prompts = config.read_prompts(recipe.data.prompts)
    chosen = torch.randperm(len(prompts), generator=generator)[: args.prompts].tolist()
    reward = evaluate.build_reward(recipe.reward).to(backbone.device)
    measured = influence.measure(
        backbone,
        reward,
        plan,
        [prompts[i] for i in chosen],
        args.members,
        recipe.seed,
        lambda names: tqdm(names, desc="prompt", unit="prompt"),
        recipe.train.micro_batch or 32,
    )
    print(measured.save(args.out))
    return 0
