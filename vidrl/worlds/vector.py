"""Step many environments of one world at once; needs the extra `world`.

Legend: N environments, F frames of an action, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from . import simulator, tasks

# `environment` says how to install gymnasium where it is missing
from .environment import LIMIT, Frames, Start, Step, WorldEnv, gymnasium

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Actions = np.ndarray[Any, np.dtype[np.int64]]
NEXT_STEP = gymnasium.vector.AutoresetMode.NEXT_STEP
Steps = tuple[Frames, Floats, Bools, Bools, dict[str, Any]]


class WorldVectorEnv(gymnasium.vector.VectorEnv[Frames, Actions, np.ndarray[Any, Any]]):
    """N environments of one world, whose frames are made in one batch.

    The arguments are those of `WorldEnv`. Episodes are those of `gymnasium.vector.SyncVectorEnv`
    over N `WorldEnv`, up to rounding: environment i has the seed `seed + i`, and one whose
    episode ended is reset by the next step, which ignores its action. Raises the errors of
    `WorldEnv`; ValueError for a number of environments below 1, another number of actions, or of
    seeds; and RuntimeError for a step without a reset.

    Example:
        >>> envs = WorldVectorEnv(simulator.TrueWorld(), 3, "reach")
        >>> frames, infos = envs.reset(seed=0)
        >>> frames.shape, envs.step(envs.action_space.sample())[1].shape
        ((3, 2, 36, 36, 3), (3,))
    """

    def __init__(
        self,
        world: simulator.Simulator,
        num_envs: int = 1,
        task: str | tasks.Task = "reach",
        start: Start | None = None,
        limit: int | None = LIMIT,
        render_mode: str | None = None,
    ):
        if num_envs < 1:
            raise ValueError(f"expected 1 environment or more, got num_envs={num_envs}")
        self.world, self.num_envs = world, num_envs
        self.render_mode = render_mode
        self.envs = [WorldEnv(world, task, start, limit, render_mode) for _ in range(num_envs)]
        self.metadata = {**self.envs[0].metadata, "autoreset_mode": NEXT_STEP}
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = gymnasium.vector.utils.batch_space(
            self.single_observation_space, num_envs
        )
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.begun = False

    def reset(  # type: ignore[override]
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Frames, dict[str, Any]]:
        """Begin an episode in each environment; a first frame in `options` is that of all."""
        seeds = self._seeds(seed)
        rows = [env.reset(seed=one, options=options) for env, one in zip(self.envs, seeds)]
        self.begun = True
        return np.stack([frames for frames, _ in rows]), self._infos([info for _, info in rows])

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        """Return the seed of each environment."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds, got {len(seed)}")
        return list(seed)

    def step(self, actions: Actions) -> Steps:
        """Do an action in each environment; one whose episode ended is reset instead."""
        given = np.asarray(actions)
        if not self.begun:
            raise RuntimeError("expected reset() before the first step")
        if given.shape != (self.num_envs,):
            raise ValueError(f"expected {self.num_envs} actions, one a row, got {given.shape}")
        going = [i for i, env in enumerate(self.envs) if env.steps is not None]
        made = self._followed(going, given)
        rows = [made[i] if i in made else self._again(env) for i, env in enumerate(self.envs)]
        frames, reward, ended, late, infos = zip(*rows, strict=True)
        flags = np.array(ended, np.bool_), np.array(late, np.bool_)
        return np.stack(frames), np.array(reward, np.float64), *flags, self._infos(infos)

    @torch.no_grad()
    def _followed(self, going: Sequence[int], actions: Actions) -> dict[int, Step]:
        """Return what happens in the environments whose episode goes on."""
        # all actions are checked before a frame is made
        asked = [self.envs[i].asked(actions[i]) for i in going]
        if not asked:
            return {}
        last = torch.stack([self.envs[i].last() for i in going])
        made = self.world.follow(last, [word for word, _ in asked], [draw for _, draw in asked])
        return {i: self.envs[i].received(frames) for i, frames in zip(going, made, strict=True)}

    def _again(self, env: WorldEnv) -> Step:
        """Reset an environment whose episode ended."""
        frames, info = env.reset()
        return frames, 0.0, False, False, info

    def _infos(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the infos of all environments as Gymnasium's arrays."""
        found: dict[str, Any] = {}
        for number, info in enumerate(infos):
            found = self._add_info(found, info, number)
        return found

    def render(self) -> tuple[Frames | None, ...]:  # type: ignore[override]
        """Return the last frame of each environment, enlarged."""
        return tuple(env.render() for env in self.envs)
