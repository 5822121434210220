"""Define a reward that measures whether agent and box move as the actions of the prompt ask for.

Nothing is learned: the world of `vidrl.synthetic.agents` is known exactly.

Legend: B clips, F frames, H W pixels; places in cells.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vidrl.rewards import Card, Reward, Samples

from . import agent_verifier, agents
from .world import COLOURS, pixel_grid

WIDTH = 0.2  # an error of a step, in cells, at which the score is 1/e; a whole step is 0.5
AREA = torch.pi * 4 / agents.SIDE**2  # share of the picture that the agent covers


class ActionFit(Reward):
    """Score how well each step of agent and box, from frame to frame, fits the actions, in [0, 1].

    The actions are read back from the pixels: inverse dynamics, exact here, where
    arXiv 2509.23958 trains a network for it. The score of a step is present · exp(−e/0.2), with
    e = |Δa − Δa*| + |Δb − Δb*| in cells. Δa and Δb are the steps of the agent's and the box's
    centres of mass, found by their colours. Δa* and Δb* are the steps in the true world, which
    begins with the prompt's image and follows its actions; so a wall must stop the agent. present
    is the smaller area of agent and box in the two frames over the true area, at most 1.

    Two neighbouring frames decide a score, so that credit by segments is right: a segment is an
    action. `vidrl.synthetic.agent_verifier` judges by another method, the contents of cells.

    >>> from vidrl.data.prompt import Prompt
    >>> ActionFit()(Samples(torch.zeros(1, 5, 3, 36, 36), ["left"], 8.0)).why[0][:12]
    'inapplicable'
    """

    differentiable = True
    range = (0.0, 1.0)
    time_support = "pair"
    lookahead = 1
    lowered_by = ("grey", "reverse")
    lost = agent_verifier.LOST
    card = Card(
        sees="Direction and length of each step of agent and box, and whether walls stop them.",
        blind_to="Where agent and box are; goal, hazards and walls that change.",
        hacks="Red or blue specks whose centre of mass, with the thing, moves as asked.",
        input="Clips and prompts of the backbone world: actions, and the first frame as the image.",
        cost="0.05 ms a frame of 36 x 36 on one CPU thread.",
    )

    def terms(self, samples: Samples) -> Tensor:
        """Return the fit of each step, (B, F - 1); NaN if the reward does not apply."""
        clips = samples.frames
        if clips.shape[-2:] != (agents.SIDE, agents.SIDE) or clips.shape[2] != 3:
            return clips.new_full((len(clips), clips.shape[1] - 1), torch.nan)
        places, areas = located(clips)
        present = (areas / AREA).clamp(max=1).amin(2)
        rows = [fit(place, prompt) for place, prompt in zip(places, samples.prompts, strict=True)]
        return torch.stack(rows) * torch.minimum(present[:, 1:], present[:, :-1])


def located(clips: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centres of agent and box (B, F, 2, 2), in cells, and their areas (B, F, 2).

    The soft mask of a thing is the strength of its colour, at most 1, times a factor of the
    cosine between the hues: 0 up to a cosine of 0.8, 1 from 0.95, and linear between.
    """
    deviation = clips - clips.mean(2, keepdim=True)
    length = (deviation.square().sum(2) + 1e-6).sqrt()
    colours = torch.tensor([COLOURS["red"], COLOURS["blue"]]).to(clips)
    away = colours - colours.mean(1, keepdim=True)
    cosine = torch.einsum("bfchw,kc->bfkhw", deviation, normalize(away, dim=1))
    cosine = cosine / (length + 0.02)[:, :, None]
    strength = (length[:, :, None] / away.norm(dim=1)[:, None, None]).clamp(max=1)
    mask = strength * ((cosine - 0.8) / 0.15).clamp(0, 1)
    total = mask.sum((3, 4))
    centre = torch.einsum("bfkhw,hwc->bfkc", mask, pixel_grid(agents.SIDE).to(clips))
    return agents.GRID * centre / (total[..., None] + 1e-3) - 0.5, total / agents.SIDE**2


def fit(places: Tensor, prompt: str) -> Tensor:
    """Return exp(−e/0.2) of each step of places (F, 2, 2), (F - 1,); NaN if unscored."""
    try:
        asked = asked_steps(prompt).to(places)
    except ValueError:
        return places.new_full((len(places) - 1,), torch.nan)
    if len(asked) != len(places) - 1:
        return places.new_full((len(places) - 1,), torch.nan)
    # the small number keeps the slope of the root finite at 0
    error = ((places.diff(dim=0) - asked).square().sum(2) + 1e-8).sqrt().sum(1)
    return (-error / WIDTH).exp()


@lru_cache(maxsize=4096)
def asked_steps(prompt: str) -> Tensor:
    """Return the steps of agent and box from frame to frame that a prompt asks for, (F - 1, 2, 2).

    Raises the errors of `agent_verifier.wanted`.
    """
    return torch.stack(agents.paths(agent_verifier.wanted(prompt)), 1).diff(dim=0)
