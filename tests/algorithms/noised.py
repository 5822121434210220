"""What tests of forward-process algorithms share: a policy in float64, and a round of
clips."""

import re
import tomllib
from pathlib import Path

import torch
from toys import Brightness

from vidrl.algorithms.base import Experience
from vidrl.backbones.toy import Toy
from vidrl.diffusion.segments import borders
from vidrl.training.policy import Policy
from vidrl.training.rollout import draws, sample

N, LATENTS = (
    6,
    5,
)  # clips, in two groups of three; latent frames, which two segments divide unevenly
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])
PROMPTS = [f"prompt {i // 3}" for i in range(N)]


def recipe_of(name) -> dict:
    """The options of an algorithm's recipe in docs/guides/coming_from.md."""
    page = (Path(__file__).parents[2] / "docs" / "guides" / "coming_from.md").read_text()
    recipes = map(tomllib.loads, re.findall(r"```toml\n(.*?)```", page, re.DOTALL))
    (found,) = [made["algorithm"] for made in recipes if made["algorithm"].get("name") == name]
    return found["options"]


def exact() -> Policy:
    """A policy of float64, so that two ways of writing one formula agree to the digit."""
    toy = Toy(LATENTS)
    toy.noise = lambda generators: Toy.noise(toy, generators).double()
    toy.encode = lambda prompts: {"text": Toy.encode(toy, prompts)["text"].double()}
    policy = Policy(toy, full=True)
    toy.network.double()
    policy.remember("reference")
    return policy


def move(policy: Policy, seed: int, name: str = "live", size: float = 1e-2) -> None:
    """Add a random vector to a set of weights."""
    draw = torch.Generator().manual_seed(seed)
    values = [w.data for w in policy.weights.values()] if name == "live" else policy.sets[name]
    for value in values:
        value += size * torch.randn(value.shape, generator=draw, dtype=value.dtype)


def round_of(algorithm, policy, advantage=None, group=GROUP, number=0) -> Experience:
    """A round of N clips by these weights; advantages (N, S) are random where none are
    given."""
    algorithm.setup(policy, Brightness(), 3)
    plan = algorithm.plan(policy.backbone, number, draws(0, [("plan", number)])[0])
    with policy.using(plan.weights):
        rollout = sample(
            policy, policy.backbone.encode(PROMPTS), draws(0, [(i,) for i in range(N)]), plan
        )
    if advantage is None:
        advantage = torch.randn(
            N, plan.segments, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
        )
    return Experience(rollout, advantage, group, PROMPTS, torch.arange(N), 0, number)


def prediction(policy, batch, name="live"):
    """(x_t, v) of a set of weights on the straight path."""
    t = batch["t"].view(-1, 1, 1, 1, 1)
    x = (1 - t) * batch["x0"] + t * batch["eps"]
    with policy.using(name), torch.set_grad_enabled(name == "live"):
        return x, policy.backbone.network(x, batch["t"], batch.cond["text"])


def spans(segments):
    """(share of the clip's elements, slice of the latent frames) of each segment."""
    return [((b - a) / LATENTS, slice(a, b)) for a, b in borders(LATENTS, segments)]


def gradient(policy, value):
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(value, list(policy.weights.values()))]
    )


def calls(policy) -> list[int]:
    """The rows of each call of the network from now on."""
    seen, predict = [], policy.backbone.predict

    def counted(x, t, cond):
        seen.append(len(x))
        return predict(x, t, cond)

    policy.backbone.predict = counted
    return seen
