"""Play policies in worlds, and compare what happens in a learned world with the true one.

Legend: N episodes, T actions, F frames of an action.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidrl.synthetic import action_fit, agents
from vidrl.synthetic.agents import State
from vidrl.training.rollout import draws

from . import tasks
from .simulator import Simulator

Act = Callable[[Tensor, random.Random], str]


@dataclass(frozen=True)
class Played:
    """Episodes that were played: rewards (N,), actions until the end (N,), and last frames.

    `last` (N, 3, H, W) are the last frames of the episodes.
    """

    reward: Tensor
    length: Tensor
    last: Tensor


@torch.no_grad()
def play(
    world: Simulator, act: Act, task: str, starts: Sequence[State], limit: int = 20, seed: int = 0
) -> Played:
    """Play one episode from each start, all at once; a row depends on its own number alone.

    The policy's random numbers are those of (seed, row), so that two worlds meet the same policy.
    Raises ValueError for another task, no starts, and a limit below 1.
    """
    if not starts or limit < 1:
        raise ValueError(f"expected a start and a limit of 1 or more, got {len(starts)}, {limit}")
    judge, count = tasks.task(task), len(starts)
    frames = torch.stack([agents.render([state])[0] for state in starts])
    luck = [random.Random(f"{seed} {row}") for row in range(count)]
    reward, length = torch.zeros(count), torch.full((count,), limit)
    running = list(range(count))
    for step in range(limit):
        words = [act(frames[row], luck[row]) for row in running]
        noise = draws(seed, [("play", row, step) for row in running])
        frames[running] = world.follow(frames[running], words, noise)[:, -1]
        ended = [(row, judge(frames[row])) for row in running]
        for row, outcome in ended:
            if outcome.ends:
                reward[row], length[row] = outcome.reward, step + 1
        running = [row for row, outcome in ended if not outcome.ends]
        if not running:
            break
    return Played(reward, length, frames)


@torch.no_grad()
def distances(
    world: Simulator, starts: Sequence[State], actions: Sequence[Sequence[str]], seed: int = 0
) -> Tensor:
    """Return how far the agent is from its true place after each of given actions, (N, T).

    In cells: the distance between the centres of mass of the agent's colour in the world's frame
    and in the true one. A frame without the agent counts as the whole width, 6 cells. Raises
    ValueError for starts without actions, and for rows of different numbers of actions.
    """
    lengths = {len(words) for words in actions}
    if len(starts) != len(actions) or len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"expected actions for each of {len(starts)} starts, as many in each row, got "
            f"{[len(words) for words in actions]}"
        )
    count, steps = len(actions), len(actions[0])
    truth = [agents.states(state, words) for state, words in zip(starts, actions, strict=True)]
    frames = torch.stack([agents.render(states[:1])[0] for states in truth])
    found = []
    for step in range(steps):
        noise = draws(seed, [("same", row, step) for row in range(count)])
        frames = world.follow(frames, [words[step] for words in actions], noise)[:, -1]
        place, area = action_fit.located(frames[:, None])
        wanted = torch.tensor([states[step + 1].agent for states in truth])
        away = (place[:, 0, 0] - wanted).norm(dim=1).clamp(max=agents.GRID)
        seen = area[:, 0, 0] > action_fit.AREA / 4
        found.append(torch.where(seen, away, torch.tensor(float(agents.GRID))))
    return torch.stack(found, 1)


def agreement(world: Played, truth: Played) -> Tensor:
    """Return 1 for each episode that has the same reward in both worlds, else 0, (N,).

    Raises ValueError for another number of episodes.
    """
    if len(world.reward) != len(truth.reward):
        raise ValueError(
            f"expected the same episodes in both worlds, got {len(world.reward)} and "
            f"{len(truth.reward)}"
        )
    return (world.reward == truth.reward).float()
