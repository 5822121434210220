"""Define tasks in the world of `agents`: reward and end are read from the pixels of a frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from vidrl.synthetic import agent_verifier
from vidrl.synthetic.agents import State

TASKS = {
    "reach": "the agent must reach the goal; hazards do no harm",
    "push": "the agent must push the box onto the goal; hazards do no harm",
    "avoid": "the agent must reach the goal, and a hazard ends the episode",
}


class Outcome(NamedTuple):
    """What a frame means for a task: the reward, whether the episode ends, and why unread."""

    reward: float
    ends: bool
    why: str = ""


Task = Callable[[Tensor], Outcome]


def task(name: str) -> Task:
    """Return a task by its name in `TASKS`: a function of a picture (3, H, W) in [0, 1].

    The reward is 1 where the task is fulfilled, -1 on a hazard of "avoid", and else 0. A picture
    that shows no state has the reward 0, and the reason in `why`. Raises ValueError for another
    name.

    Example:
        >>> from vidrl.synthetic import agents
        >>> picture = agents.render([agents.start(0)])[0]
        >>> task("reach")(picture), task("push")(0 * picture).why
        (Outcome(reward=0.0, ends=False, why=''), 'cell (0, 0) shows no known content')
    """
    check_name(name)

    def judge(picture: Tensor) -> Outcome:
        reading = agent_verifier.read(picture)
        if reading.state is None:
            return Outcome(0.0, False, reading.why)
        value = value_of(name, reading.state)
        return Outcome(value, value != 0)

    return judge


def check_name(name: str) -> None:
    """Raise ValueError for a task that is not in `TASKS`."""
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"expected a task, {', '.join(TASKS)}, got {name!r}")


def value_of(name: str, state: State) -> float:
    """Return the reward of a state: 1, 0 or -1."""
    if name == "avoid" and state.agent in state.hazards:
        return -1.0
    who = state.box if name == "push" else state.agent
    return float(who == state.goal)
