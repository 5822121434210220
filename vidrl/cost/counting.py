"""Count a recipe's denoiser calls: its own algorithm runs on a stand-in that only counts.

Legend: N clips of a round, K kept steps, L latent frames, S segments. A call is one clip at
one time; with guidance the network computes two rows for a call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vidrl.algorithms._credit import Credited
from vidrl.algorithms._forward import equal
from vidrl.algorithms._gate import Gated
from vidrl.algorithms.base import Algorithm, Experience
from vidrl.backbones.base import Cond, Denoiser
from vidrl.config import Recipe, members, offline
from vidrl.rewards import Reward, Samples, Score
from vidrl.training.held_out import GROUP_PAIRS
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, Rollout, draws, sample, tree


class StandIn(Denoiser):
    """A backbone with the model's times and one number a latent frame, that counts calls."""

    network: nn.Linear

    def __init__(self, like: Denoiser):
        self.network = nn.Linear(1, 1, bias=False)
        self.path = like.path
        self.fps = like.fps
        self.like = like
        self.shape = (1, like.shape[1], 1, 1)
        self.frame_map = like.frame_map
        self.folder = like.folder
        self.calls: Counter[str] = Counter()
        self.stage, self.decoded = "sampling", 0.0

    def encode(self, prompts: Sequence[str], reference: Tensor | None = None) -> Cond:
        """Return a condition of one number a prompt."""
        return {"text": torch.zeros(len(prompts), 1)}

    def times(self, n: int) -> list[float]:
        """Return the model's own times."""
        return self.like.times(n)

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Count the rows; return a prediction that carries the weight's gradient."""
        kind = self.stage if self.stage != "update" or torch.is_grad_enabled() else "reference"
        self.calls[kind] += len(x)
        predicted = self.network.weight.sum() * x
        # a path of learned noise also reads a scale, here log 1 = 0, as a further half of channels
        return torch.cat([predicted, 0 * predicted], 1) if self.path.learned else predicted

    def decode(self, latents: Tensor) -> Tensor:
        """Count the clips; a part of a clip counts as that part."""
        self.decoded += len(latents) * latents.shape[2] / self.shape[1]
        return latents.transpose(1, 2).expand(-1, -1, 3, -1, -1)

    @classmethod
    def tiny(cls) -> StandIn:
        """Build a stand-in for the toy backbone."""
        from vidrl.backbones.toy import Toy

        return cls(Toy.tiny())


class Brightness(Reward):
    """Replaces the recipe's reward if a loss asks for one: it has a gradient and costs nothing."""

    differentiable = True

    def forward(self, samples: Samples) -> Score:
        """Return the mean brightness of each clip."""
        return Score(samples.video.mean((1, 2, 3, 4)))


@dataclass(frozen=True)
class Round:
    """A round: its calls, the rows of its losses, and the clips that are decoded.

    `largest` is the number of rows of the largest optimiser step. The loop decodes and
    scores `scored` clips, 0 if the plan says that nothing is scored. The loss decodes
    `in_loss` clips with gradient; a part of a clip counts as that part.
    """

    calls: dict[str, int]
    rows: int
    largest: int
    scored: int
    in_loss: float


@dataclass(frozen=True)
class Calls:
    """The denoiser calls of a run's rounds and evaluations, with the numbers they derive from."""

    clips: int
    kept: int  # steps of the first round
    # sampling, update (with backward), reference, divergence, recomputed in backward
    rounds: list[dict[str, int]]
    first: Round  # the first round's rows and clips
    evaluation: int
    evaluations: int
    evaluated_clips: int
    # evaluations of all prompts that cost as much as the run's, some of them of fewer
    # prompts
    whole_evaluations: float

    @property
    def run(self) -> int:
        """All calls of the run, if no guard restores weights and the run is not resumed."""
        return sum(sum(item.values()) for item in self.rounds) + round(
            self.evaluation * self.whole_evaluations
        )


def count(recipe: Recipe, algorithm: Algorithm, backbone: Denoiser, micro_batch: int) -> Calls:
    """Count the denoiser calls of every round and evaluation of a recipe, exactly.

    Rounds with equal plans and equal sets of weights make equal calls, and are run once.
    Raises the errors of the algorithm's plan: more segments than latent frames, no
    stochastic step.
    """
    stand_in, options = StandIn(backbone), recipe.train
    # Credit by a measured influence makes the same calls; no measurement exists here.
    if isinstance(algorithm, Credited):
        algorithm = replace(algorithm, credit="whole", influence="")
    # A KL on some of the samples makes the same calls, but would need a reward with parts.
    if isinstance(algorithm, Gated):
        algorithm = replace(algorithm, gate=0.0)
    policy = Policy(stand_in, full=True)
    if options.ema:
        policy.remember("ema")
    # `setup` comes before any plan: some algorithms plan a tree for the group size.
    algorithm.setup(policy, Brightness(), members(recipe, algorithm.data))
    files = offline(recipe, algorithm.data)
    clips = options.prompts_per_round * options.group
    round_of_plan = dict[tuple[object, ...], Round]()
    rounds = list[Round]()
    for round_number in range(options.rounds):
        plan = algorithm.plan(
            stand_in, round_number, draws(recipe.seed, [("plan", round_number)])[0]
        )
        # A set that equals the live weights needs no second call.
        equal_sets = tuple(name for name in sorted(policy.sets) if equal(policy, name))
        key = tuple(plan.times), plan.stochastic, plan.keep, plan.forks, plan.scored, equal_sets
        if key in round_of_plan:
            _change_weights(policy)
        else:
            round_of_plan[key] = _count_round(
                policy, algorithm, plan, clips, options.group, micro_batch, files
            )
        algorithm.after(policy, round_number)
        rounds.append(round_of_plan[key])
    kept = len(algorithm.plan(stand_in, 0, draws(recipe.seed, [("plan", 0)])[0]).keep)
    n = recipe.data.held_out_n
    measured, measured_between = (
        item + min(GROUP_PAIRS, item) for item in (n, options.eval_n or n)
    )
    steps = len(stand_in.times(options.eval_steps)) - 1
    evaluations_between = (options.rounds - 1) // options.eval_every
    whole_evaluations = 2 + evaluations_between * measured_between / measured
    return Calls(
        clips,
        kept,
        [item.calls for item in rounds],
        rounds[0],
        measured * steps,
        2 + evaluations_between,
        measured,
        whole_evaluations,
    )


def _count_round(
    policy: Policy,
    algorithm: Algorithm,
    plan: Plan,
    clips: int,
    group: int,
    micro_batch: int,
    source: str,
) -> Round:
    """Run one round on the stand-in and count its calls."""
    stand_in = policy.backbone
    assert isinstance(stand_in, StandIn)
    stand_in.calls = Counter()
    stand_in.stage = "sampling"
    stand_in.decoded = 0.0
    seen = _experience(policy, plan, clips, group, source)
    batches = list(algorithm.minibatches(seen))
    for batch in batches:
        stand_in.stage = "update"
        # All rows at once: micro-batches make as many calls together.
        loss = algorithm.loss(policy, batch).value
        stand_in.stage = "recomputed"  # calls in the backward pass, by checkpointing of the loss
        loss.backward()  # type: ignore[no-untyped-call]
        _change_weights(policy)
    in_loss = stand_in.decoded
    stand_in.stage = "divergence"  # as Updater logs it: one micro-batch after the update
    with torch.no_grad():
        algorithm.divergence(policy, batches[0].split(micro_batch)[0])
    names = [
        "sampling",
        "update",
        "reference",
        "divergence",
        *["recomputed"] * ("recomputed" in stand_in.calls),
    ]
    rows = [len(batch) for batch in batches]
    scored = clips if plan.scored and source != "pairs" else 0
    return Round(
        {name: stand_in.calls[name] for name in names}, sum(rows), max(rows), scored, in_loss
    )


def _experience(policy: Policy, plan: Plan, clips: int, group: int, source: str) -> Experience:
    """Return the samples of a round: drawn from the policy, or of files without a call."""
    stand_in, numbers = policy.backbone, torch.arange(clips)
    cond, prompts = stand_in.encode([""] * clips), [""] * clips
    # Distinct advantages other than 0, so that no algorithm leaves a sample out.
    credit = (1.0 + numbers)[:, None].expand(-1, plan.segments)
    names = [(0, *divmod(i, group)) for i in range(clips)]
    if not source:
        rollout = sample(policy, cond, draws(0, names), plan, tree(plan, 0, names, group))
        return Experience(rollout, credit, numbers // group, prompts, numbers, 0, 0)
    latents, width = stand_in.noise(draws(0, names)), 2 if source == "pairs" else 1
    empty = latents.new_zeros(clips, 0)
    rollout = Rollout(cond, latents, empty, empty, empty, plan)
    pairs = (
        (numbers.view(-1, 2), torch.ones(clips // 2, plan.segments)) if width == 2 else (None, None)
    )
    return Experience(rollout, credit, numbers // width, prompts, numbers, 0, 0, *pairs)


def _change_weights(policy: Policy) -> None:
    """Change the weights a little, as an optimiser step does.

    Then no kept set equals the live weights, and losses that compare sets call the network
    for both.
    """
    with torch.no_grad():
        for weight in policy.weights.values():
            weight.add_(1e-3)
            weight.grad = None
