"""Wrap a world and a task as a Gymnasium environment; needs the extra `world`.

Legend: F frames of an action, H W pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrl.lookup.extras import install
from vidrl.synthetic import agents

from . import policies, simulator, tasks

try:
    import gymnasium
except ImportError as error:
    raise ImportError(
        f"expected gymnasium for an environment, found none ({error}): {install('world')}"
    ) from error

Frames = np.ndarray[Any, np.dtype[np.uint8]]
Start = Callable[[random.Random], Tensor]


class WorldEnv(gymnasium.Env[Frames, np.int64]):
    """An environment whose observations are the frames of the last action, uint8 (F, H, W, 3).

    `world`: a simulator, such as `TrueWorld()` or `simulator.load()`. `task`: a name of
    `tasks.TASKS`, or a function from a picture (3, H, W) in [0, 1] to a `tasks.Outcome`. `start`: a
    function that draws the first picture; left out, states of `agents` with a plan for the task.
    `limit`: actions after which an episode is truncated. `render_mode`: "rgb_array" or None.

    The first observation repeats the first picture F times. Reward and end are read from the last
    frame's pixels. `info["why"]` says why a frame shows no state, and is "" where it shows one.

    Raises ValueError for an unknown task, a task of the user's without `start`, a first frame of
    another size, and an action that is no number of an action; RuntimeError for a step without a
    reset, or after the end.

    Example:
        >>> env = WorldEnv(simulator.TrueWorld(), "reach")
        >>> frames, info = env.reset(seed=0)
        >>> frames.shape, env.step(env.action_space.sample())[1] in (0.0, 1.0)
        ((2, 36, 36, 3), True)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": agents.FPS}

    def __init__(
        self,
        world: simulator.Simulator,
        task: str | tasks.Task = "reach",
        start: Start | None = None,
        limit: int = 20,
        render_mode: str | None = None,
    ):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'expected render_mode None or "rgb_array", got {render_mode!r}')
        if start is None and not isinstance(task, str):
            raise ValueError("expected start, which draws a first picture, for a task of your own")
        self.world, self.limit = world, limit
        self.render_mode = render_mode
        self.judge = tasks.task(task) if isinstance(task, str) else task
        self.start = start or _starts(str(task))
        frames, colours, height, width = world.shape
        self.observation_space = gymnasium.spaces.Box(
            0, 255, (frames, height, width, colours), np.uint8
        )
        self.action_space = gymnasium.spaces.Discrete(len(world.actions))
        self.steps: int | None = None  # since the reset; None where a reset is due
        self.frames = torch.zeros(world.shape)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frames, dict[str, Any]]:
        """Begin an episode; `options["frame"]`, uint8 (H, W, 3), is the first frame if given."""
        super().reset(seed=seed)
        given = (options or {}).get("frame")
        if given is None:
            first = self.start(random.Random(int(self.np_random.integers(2**62))))
        else:
            first = torch.as_tensor(np.asarray(given)).movedim(-1, 0).float() / 255
        if tuple(first.shape) != self.world.shape[1:]:
            raise ValueError(
                f"expected a first frame (3, H, W) of {self.world.shape[1:]}, got "
                f"{tuple(first.shape)}: resize it"
            )
        self.steps = 0
        self.frames = first[None].expand(self.world.shape).clone()
        return self._observed(), {"why": self.judge(self.frames[-1]).why}

    def step(self, action: np.int64) -> tuple[Frames, float, bool, bool, dict[str, Any]]:
        """Make the frames of an action; return them, the reward, the two ends, and the info."""
        if self.steps is None:
            raise RuntimeError("expected reset() before the first step and after an episode's end")
        if not self.action_space.contains(action):
            known = ", ".join(f"{i} {word}" for i, word in enumerate(self.world.actions))
            raise ValueError(f"expected the number of an action, {known}, got {action!r}")
        draw = torch.Generator().manual_seed(int(self.np_random.integers(2**62)))
        words = [self.world.actions[int(action)]]
        with torch.no_grad():
            self.frames = self.world.follow(self.frames[-1:], words, [draw])[0]
        found = self.judge(self.frames[-1])
        self.steps += 1
        late = self.steps >= self.limit and not found.ends
        if found.ends or late:
            self.steps = None
        return self._observed(), found.reward, found.ends, late, {"why": found.why}

    def render(self) -> Frames | None:  # type: ignore[override]
        """Return the last frame, uint8 (H, W, 3), with the render mode "rgb_array"."""
        return self._observed()[-1] if self.render_mode else None

    def _observed(self) -> Frames:
        """Return the frames of the last action as bytes."""
        return (self.frames.permute(0, 2, 3, 1) * 255).round().byte().numpy()


def _starts(task: str) -> Start:
    """Return a function that draws pictures of states that have a plan for a task."""
    return lambda draw: agents.render([policies.start(task, draw)])[0]
