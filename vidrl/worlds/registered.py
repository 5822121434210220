"""Define the environments that `gymnasium.make` and `gymnasium.make_vec` make by name.

Their arguments are words and numbers, and `max_episode_steps` of Gymnasium limits an episode.
"""

from __future__ import annotations

from typing import Any

from . import simulator, tasks
from .environment import Start, WorldEnv
from .vector import WorldVectorEnv


class LearnedWorldEnv(WorldEnv):
    """An environment whose world is learned: `model`, `run` and `steps` are those of `load`."""

    def __init__(
        self,
        task: str | tasks.Task = "reach",
        model: str = "",
        run: str = "",
        steps: int = 0,
        start: Start | None = None,
        render_mode: str | None = None,
    ):
        super().__init__(simulator.load(model, run, steps), task, start, None, render_mode)


class TrueWorldEnv(WorldEnv):
    """An environment whose world is the true one of `vidrl.synthetic.agents`."""

    def __init__(
        self,
        task: str | tasks.Task = "reach",
        start: Start | None = None,
        render_mode: str | None = None,
    ):
        super().__init__(simulator.TrueWorld(), task, start, None, render_mode)


def learned_worlds(
    num_envs: int,
    max_episode_steps: int | None = None,
    model: str = "",
    run: str = "",
    steps: int = 0,
    **options: Any,
) -> WorldVectorEnv:
    """Return environments over one learned world; `options` are those of `WorldVectorEnv`."""
    world = simulator.load(model, run, steps)
    return WorldVectorEnv(world, num_envs, limit=_limit(max_episode_steps), **options)


def true_worlds(
    num_envs: int, max_episode_steps: int | None = None, **options: Any
) -> WorldVectorEnv:
    """Return environments over the true world; `options` are those of `WorldVectorEnv`."""
    limit = _limit(max_episode_steps)
    return WorldVectorEnv(simulator.TrueWorld(), num_envs, limit=limit, **options)


def _limit(max_episode_steps: int | None) -> int | None:
    """Return the limit of an episode; Gymnasium's −1 means none.

    >>> _limit(-1), _limit(8)
    (None, 8)
    """
    return None if max_episode_steps == -1 else max_episode_steps
