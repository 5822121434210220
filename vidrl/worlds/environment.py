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
from .registration import LIMIT

try:
    import gymnasium
except ImportError as error:
    raise ImportError(
        f"expected gymnasium for an environment, found none ({error}): {install('world')}"
    ) from error

Frames = np.ndarray[Any, np.dtype[np.uint8]]
Start = Callable[[random.Random], Tensor]
Step = tuple[Frames, float, bool, bool, dict[str, Any]]

SHOWN = 256  # pixels; a rendered frame is enlarged until its shorter side has as many


class WorldEnv(gymnasium.Env[Frames, np.int64]):
    """An environment whose observations are the frames of the last action, uint8 (F, H, W, 3).

    `world`: a simulator, such as `TrueWorld()` or `simulator.load()`. `task`: a name of
    `tasks.TASKS`, or a function from a picture (3, H, W) in [0, 1] to a `tasks.Outcome`. `start`: a
    function that draws the first picture; left out, states of `agents` with a plan for the task.
    `limit`: actions after which an episode is truncated, or None. `render_mode`: "rgb_array" or
    None.

    The first observation repeats the first picture F times. Reward and end are read from the last
    frame's pixels. `info["why"]` says why a frame shows no state, and is "" where it shows one.

    Raises ValueError for a world that is no simulator, an unknown task, a named task in a world
    of another size, a task of the user's without `start`, a limit below 1, a first frame that is
    no uint8 (H, W, 3), an unknown option of `reset`, an action that is no number of an action, a
    `start` that draws no picture, and a `task` that returns no `Outcome`; RuntimeError for a step
    without a reset, or after the end.

    Example:
        >>> env = WorldEnv(simulator.TrueWorld(), "reach")
        >>> frames, info = env.reset(seed=0)
        >>> frames.shape, env.step(env.action_space.sample())[1] in (0.0, 1.0)
        ((2, 36, 36, 3), True)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": agents.FPS / agents.FRAMES}

    def __init__(
        self,
        world: simulator.Simulator,
        task: str | tasks.Task = "reach",
        start: Start | None = None,
        limit: int | None = LIMIT,
        render_mode: str | None = None,
    ):
        _check(world, limit, render_mode)
        self.world, self.limit = world, limit
        self.render_mode = render_mode
        self.judge, self.start = _task(world, task, start)
        frames = world.shape[0]
        # one picture is rendered for each action
        self.metadata = {**self.metadata, "render_fps": world.fps / frames}
        self.observation_space = gymnasium.spaces.Box(
            0, 255, (frames, *_bytes_shape(world)), np.uint8
        )
        self.action_space = gymnasium.spaces.Discrete(len(world.actions))
        self.steps: int | None = None  # since the reset; None where a reset is due
        self.frames: Tensor | None = None  # of the last action; None before the first reset

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frames, dict[str, Any]]:
        """Begin an episode; `options["frame"]`, uint8 (H, W, 3), is the first frame if given."""
        super().reset(seed=seed)
        given = _first(options or {}, _bytes_shape(self.world))
        if given is None:
            given = self.start(random.Random(int(self.np_random.integers(2**62))))
        _check_picture(given, self.world.shape[1:])
        found = self._judged(given)
        self.steps = 0
        self.frames = given[None].expand(self.world.shape).clone()
        return _bytes(self.frames), {"why": found.why}

    def step(self, action: np.int64) -> Step:
        """Make the frames of an action; return them, the reward, the two ends, and the info."""
        word, draw = self.asked(action)
        with torch.no_grad():
            return self.received(self.world.follow(self.last()[None], [word], [draw])[0])

    def asked(self, action: np.int64) -> tuple[str, torch.Generator]:
        """Return the word and the random generator of an action, which are the world's input."""
        if self.steps is None:
            raise RuntimeError("expected reset() before the first step and after an episode's end")
        if not self.action_space.contains(action):
            known = ", ".join(f"{i} {word}" for i, word in enumerate(self.world.actions))
            raise ValueError(f"expected the number of an action, {known}, got {action!r}")
        draw = torch.Generator().manual_seed(int(self.np_random.integers(2**62)))
        return self.world.actions[int(action)], draw

    def last(self) -> Tensor:
        """Return the last frame (3, H, W) in [0, 1]; raise RuntimeError before the first reset."""
        if self.frames is None:
            raise RuntimeError("expected reset() before a frame is asked for")
        return self.frames[-1]

    def received(self, frames: Tensor) -> Step:
        """Take the frames (F, 3, H, W) that follow an action, and return the values of `step`."""
        found = self._judged(frames[-1])
        self.frames, self.steps = frames, (self.steps or 0) + 1
        late = self.limit is not None and self.steps >= self.limit and not found.ends
        if found.ends or late:
            self.steps = None
        return _bytes(frames), found.reward, found.ends, late, {"why": found.why}

    def _judged(self, picture: Tensor) -> tasks.Outcome:
        """Return what a picture means for the task."""
        found = self.judge(picture)
        if not isinstance(found, tasks.Outcome):
            raise ValueError(f"expected a task that returns tasks.Outcome, got {found!r}")
        return found

    def render(self) -> Frames | None:  # type: ignore[override]
        """Return the last frame, enlarged, uint8 (H, W, 3), with the render mode "rgb_array"."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() needs render_mode="rgb_array", and returns None here')
            return None
        picture = _bytes(self.last()[None])[0]
        times = max(1, -(-SHOWN // min(picture.shape[:2])))
        return picture.repeat(times, 0).repeat(times, 1)


def _check(world: simulator.Simulator, limit: int | None, render_mode: str | None) -> None:
    """Raise ValueError for what is no world, a limit below 1, and an unknown render mode."""
    if not isinstance(world, simulator.Simulator):
        raise ValueError(
            "expected a world, such as simulator.TrueWorld() or simulator.load(MODEL), got "
            f"{world!r}"
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"expected a limit of 1 or more actions, or None, got {limit!r}")
    if render_mode not in (None, "rgb_array"):
        raise ValueError(
            f'expected render_mode None or "rgb_array", got {render_mode!r}: gymnasium.make opens '
            'a window for render_mode="human"'
        )


def _check_picture(picture: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError for a first picture that is no tensor of numbers in [0, 1]."""
    is_tensor = isinstance(picture, Tensor) and picture.is_floating_point()
    if not is_tensor or tuple(picture.shape) != shape:
        got = (tuple(picture.shape), picture.dtype) if hasattr(picture, "dtype") else picture
        raise ValueError(
            f"expected a first frame as a float tensor (3, H, W) of {shape}, got "
            f"{type(picture).__name__} of {got}: resize or convert it"
        )
    if not (picture.amin() >= 0 and picture.amax() <= 1):  # NaN is refused, too
        raise ValueError("expected a first frame of numbers in [0, 1], got others: divide by 255")


def _task(
    world: simulator.Simulator, task: str | tasks.Task, start: Start | None
) -> tuple[tasks.Task, Start]:
    """Return the judge of a task and the function that draws first pictures."""
    if callable(task):
        if start is None:
            raise ValueError("expected start, which draws a first picture, for a task of your own")
        return task, start
    judge, shape = tasks.task(task), (3, agents.SIDE, agents.SIDE)
    if world.shape[1:] != shape:
        raise ValueError(
            f"expected a world of frames {shape}, which the task {task!r} reads, got frames "
            f"{world.shape[1:]}: give a task and a start of your own"
        )
    return judge, start or (lambda draw: agents.render([policies.start(task, draw)])[0])


def _first(options: dict[str, Any], shape: tuple[int, ...]) -> Tensor | None:
    """Return the first frame that the options of `reset` give, (3, H, W) in [0, 1], or None."""
    if unknown := [name for name in options if name != "frame"]:
        raise ValueError(f"expected the option frame of reset, got {unknown[0]!r}")
    if options.get("frame") is None:
        return None
    given = np.asarray(options["frame"])
    if given.shape != shape or given.dtype != np.uint8:
        raise ValueError(
            f"expected a first frame of {shape}, (H, W, 3), in uint8, got {given.shape} in "
            f"{given.dtype}: resize it, and give bytes from 0 to 255"
        )
    return torch.as_tensor(given.copy()).movedim(-1, 0).float() / 255


def _bytes_shape(world: simulator.Simulator) -> tuple[int, int, int]:
    """Return the shape of a frame of bytes, (H, W, 3)."""
    _, colours, height, width = world.shape
    return height, width, colours


def _bytes(frames: Tensor) -> Frames:
    """Return frames (F, 3, H, W) in [0, 1] as bytes (F, H, W, 3)."""
    return (frames.permute(0, 2, 3, 1) * 255).round().byte().numpy()
