"""How often a recipe asks its denoiser: the recipe's own algorithm, run on a stand-in that counts and computes nothing.

Legend: N clips of a round, K kept steps, L latent frames, S segments. A call is one clip at one time; guidance makes
two rows of the network of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vidrl.algorithms._credit import Credited
from vidrl.algorithms.base import Algorithm, Experience
from vidrl.backbones.base import Cond, Denoiser
from vidrl.config import Recipe
from vidrl.held_out import TWINS
from vidrl.policy import Policy
from vidrl.rewards import Reward, Samples, Score
from vidrl.rollout import Plan, draws, sample, tree


class StandIn(Denoiser):
    """A backbone of the model's times and latent frames, one number a frame, that counts what is asked of it."""

    network: nn.Linear

    def __init__(self, like: Denoiser):
        self.network = nn.Linear(1, 1, bias=False)
        self.path, self.fps, self.like = like.path, like.fps, like
        self.shape, self.frame_map, self.folder = (1, like.shape[1], 1, 1), like.frame_map, like.folder
        self.calls: Counter[str] = Counter()
        self.stage = "sampling"

    def encode(self, prompts: Sequence[str], reference: Tensor | None = None) -> Cond:
        return {"text": torch.zeros(len(prompts), 1)}

    def times(self, n: int) -> list[float]:
        return self.like.times(n)

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        asked = self.stage if self.stage != "update" or torch.is_grad_enabled() else "reference"
        self.calls[asked] += len(x)
        return self.network.weight.sum() * x

    def decode(self, latents: Tensor) -> Tensor:
        return latents.transpose(1, 2).expand(-1, -1, 3, -1, -1)

    @classmethod
    def tiny(cls) -> StandIn:
        from vidrl.backbones.toy import Toy

        return cls(Toy.tiny())


class Brightness(Reward):
    """Stands for the recipe's reward where a loss asks for one: it has a gradient and costs nothing."""

    differentiable = True

    def forward(self, samples: Samples) -> Score:
        return Score(samples.video.mean((1, 2, 3, 4)))


@dataclass(frozen=True)
class Calls:
    """Denoiser calls of a run's rounds and evaluations, and the numbers behind them."""

    clips: int
    kept: int  # steps of the first round
    rounds: list[dict[str, int]]  # sampling, update (with backward), reference, divergence
    evaluation: int
    evaluations: int
    evaluated_clips: int
    whole_evaluations: float  # evaluations of all prompts that cost as much as the run's, some of them of fewer prompts

    @property
    def run(self) -> int:
        """All calls of the run, if no guard puts weights back and none was resumed."""
        return sum(sum(one.values()) for one in self.rounds) + round(self.evaluation * self.whole_evaluations)


def count(recipe: Recipe, algorithm: Algorithm, backbone: Denoiser, micro_batch: int) -> Calls:
    """Denoiser calls of every round and evaluation of a recipe, exactly.

    Raises the errors of the algorithm's plan: more segments than latent frames, no stochastic step.
    """
    stand_in, options = StandIn(backbone), recipe.train
    if isinstance(algorithm, Credited):  # measured credit makes the same calls, and here nothing was measured yet
        algorithm = replace(algorithm, credit="whole", influence="")
    policy = Policy(stand_in, full=True)
    algorithm.setup(policy, Brightness(), options.group)  # a tree of samples is planned for the group
    clips, known = options.prompts_per_round * options.group, dict[tuple[object, ...], dict[str, int]]()
    rounds, kept = [], 0
    for number in range(options.rounds):
        plan = algorithm.plan(stand_in, number, draws(recipe.seed, [("plan", number)])[0])
        size = tuple(plan.times), plan.stochastic, plan.keep, plan.forks
        known[size] = known.get(size) or _round(policy, algorithm, plan, clips, options.group, micro_batch)
        rounds.append(known[size])
        kept = kept or len(plan.keep)
    n = recipe.data.held_out_n
    measured, few = (one + min(TWINS, one) for one in (n, options.eval_n or n))
    steps = len(stand_in.times(options.eval_steps)) - 1
    between = (options.rounds - 1) // options.eval_every
    whole = 2 + between * few / measured
    return Calls(clips, kept, rounds, measured * steps, 2 + between, measured, whole)


def _round(
    policy: Policy, algorithm: Algorithm, plan: Plan, clips: int, group: int, micro_batch: int
) -> dict[str, int]:  # fmt: skip
    stand_in, names = policy.backbone, [(0, *divmod(i, group)) for i in range(clips)]
    assert isinstance(stand_in, StandIn)
    stand_in.calls, stand_in.stage = Counter(), "sampling"
    rollout = sample(policy, stand_in.encode([""] * clips), draws(0, names), plan, tree(plan, 0, names, group))
    numbers = torch.arange(clips)
    credit = (1.0 + numbers)[:, None].expand(-1, plan.segments)  # no two alike, and none 0: none is left out
    seen = Experience(rollout, credit, numbers // group, [""] * clips, numbers, 0, 0)
    batches = list(algorithm.minibatches(seen))
    stand_in.stage = "update"
    for batch in batches:
        for micro in batch.split(micro_batch):
            algorithm.loss(policy, micro)
    stand_in.stage = "divergence"  # as Updater logs it: one micro-batch after the update
    with torch.no_grad():
        algorithm.divergence(policy, batches[0].split(micro_batch)[0])
    return {name: stand_in.calls[name] for name in ("sampling", "update", "reference", "divergence")}
