"""Define a policy that reads the state from a frame and plans in the true world."""

from __future__ import annotations

import random
from collections import deque
from functools import lru_cache

from torch import Tensor

from vidrl.synthetic import agent_verifier, agents
from vidrl.synthetic.agents import State

from . import tasks


@lru_cache(maxsize=20_000)
def plan(state: State, task: str) -> tuple[str, ...] | None:
    """Return the shortest actions that fulfil a task, by breadth-first search; None without any.

    States of reward -1 are avoided.

    Example:
        >>> nothing = frozenset()
        >>> plan(State((1, 1), (2, 1), (4, 1), nothing, nothing), "push")
        ('right', 'right')
    """
    tasks.check_name(task)
    seen = {(state.agent, state.box)}
    queue = deque[tuple[State, tuple[str, ...]]]([(state, ())])
    while queue:
        now, words = queue.popleft()
        if tasks.value_of(task, now) == 1:
            return words
        for word in list(agents.ACTIONS)[1:]:
            after = agents.follow(now, word)
            key = (after.agent, after.box)
            if key not in seen and tasks.value_of(task, after) >= 0:
                seen.add(key)
                queue.append((after, (*words, word)))
    return None


class Planner:
    """A policy that takes the first action of a plan, and a random action instead at times.

    `task`: a name of `tasks.TASKS`. `slips`: the share of random actions, in [0, 1]; 1 is a random
    policy. Where no state or no plan is found, the action is random too. Raises ValueError for
    another task or share.
    """

    def __init__(self, task: str, slips: float = 0.0):
        tasks.check_name(task)
        if not 0 <= slips <= 1:
            raise ValueError(f"expected slips in [0, 1], a share of actions, got {slips}")
        self.task, self.slips = task, slips

    def __call__(self, picture: Tensor, draw: random.Random) -> str:
        """Return the action for a picture (3, H, W) in [0, 1]."""
        # both are drawn each time, so that equal frames get equal actions in two worlds
        slips, anything = draw.random() < self.slips, draw.choice(list(agents.ACTIONS))
        if slips:
            return anything
        reading = agent_verifier.read(picture)
        found = plan(reading.state, self.task) if reading.state else None
        return found[0] if found else anything


def start(task: str, draw: random.Random, least: int = 3) -> State:
    """Return a random held-out state from which a plan of `least` actions or more fulfils a task.

    Example:
        >>> found = plan(start("push", random.Random(0)), "push")
        >>> len(found) >= 3
        True
    """
    while True:
        state = agents.start(draw.getrandbits(48), held_out=True)
        found = plan(state, task)
        if found and len(found) >= least:
            return state
