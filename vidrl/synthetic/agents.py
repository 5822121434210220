"""Define a small world whose agent obeys actions, with exact dynamics and an exact renderer.

An agent (red disc) walks on a grid of cells, and pushes a box (blue square). Walls and the edge
stop both. A goal (green frame) and hazards (yellow frames) lie on the ground; tasks give them a
meaning (`vidrl.worlds.tasks`). One action takes two frames, in which things move evenly.

Legend: F frames, N pictures, L actions; cells are (x, y), x to the right and y down.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .world import COLOURS, coverage

Cell = tuple[int, int]

GRID = 6  # cells a side
CELL = 6  # pixels a cell
SIDE = GRID * CELL  # pixels of a picture
FRAMES = 2  # frames of one action
FPS = 4.0
ACTIONS: dict[str, Cell] = {
    "stay": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
FLOOR, WALL = 0.22, 0.66  # levels of grey
HAZARDS, WALLS = 2, 4  # how many a start has
# `coverage` draws a circle of 0.92 and a square of 0.82 half-sides of its radius: 2 pixels each
AGENT_RADIUS, BOX_RADIUS = 2 / 0.92 / SIDE, 2 / 0.82 / SIDE

# how often one action of the corpus has a fault; see `faulty`
FAULTS = {"ignores": 0.16, "passes": 0.12, "drifts": 0.08}


@dataclass(frozen=True)
class State:
    """A state of the world: where the agent, the box and the fixed things are.

    Example:
        >>> state = State((1, 1), (2, 1), (4, 4), frozenset(), frozenset({(1, 0)}))
        >>> follow(state, "right").box, follow(state, "up") == state
        ((3, 1), True)
    """

    agent: Cell
    box: Cell
    goal: Cell
    hazards: frozenset[Cell]
    walls: frozenset[Cell]

    def free(self, cell: Cell) -> bool:
        """Return whether a cell is in the grid and is no wall."""
        return 0 <= cell[0] < GRID and 0 <= cell[1] < GRID and cell not in self.walls


def follow(state: State, action: str) -> State:
    """Return the state after an action.

    The agent moves one cell where the cell is free. If the box is in this cell, the box moves
    too, where the cell behind is free; otherwise nothing moves. Raises ValueError for an
    unknown action.
    """
    check_actions([action])
    ahead = moved(state.agent, action)
    if action == "stay" or not state.free(ahead):
        return state
    if ahead != state.box:
        return replace(state, agent=ahead)
    behind = moved(state.box, action)
    return replace(state, agent=ahead, box=behind) if state.free(behind) else state


def moved(cell: Cell, action: str) -> Cell:
    """Return the neighbouring cell in the direction of an action."""
    x, y = ACTIONS[action]
    return cell[0] + x, cell[1] + y


def check_actions(words: Sequence[str]) -> None:
    """Raise ValueError for an action that the world does not know.

    >>> check_actions(["left", "jump"])
    Traceback (most recent call last):
    ValueError: expected actions of the world, stay, left, right, up, down, got 'jump'
    """
    for word in words:
        if word not in ACTIONS:
            raise ValueError(f"expected actions of the world, {', '.join(ACTIONS)}, got {word!r}")


def states(state: State, actions: Sequence[str]) -> list[State]:
    """Return the states before the first action and after each action, L + 1."""
    found = [state]
    for action in actions:
        found.append(follow(found[-1], action))
    return found


def paths(found: Sequence[State]) -> tuple[Tensor, Tensor]:
    """Return the places of agent and box in each frame, (2 L + 1, 2) each, in cells.

    Example:
        >>> state = State((1, 1), (3, 1), (4, 4), frozenset(), frozenset())
        >>> paths(states(state, ["right"]))[0][:, 0].tolist()
        [1.0, 1.5, 2.0]
    """
    agent, box = (
        torch.tensor([getattr(state, name) for state in found], dtype=torch.float32)
        for name in ("agent", "box")
    )
    return _between(agent), _between(box)


def _between(cells: Tensor) -> Tensor:
    """Return places (L + 1, 2) with two even steps from one to the next, (2 L + 1, 2)."""
    share = torch.arange(1, FRAMES + 1)[None, :, None] / FRAMES
    steps = cells[:-1, None] + share * (cells[1:] - cells[:-1])[:, None]
    return torch.cat([cells[:1], steps.flatten(0, 1)])


def ground(state: State) -> Tensor:
    """Return the picture of the fixed things, (3, 36, 36) in [0, 1]."""
    picture = torch.full((3, SIDE, SIDE), FLOOR)
    for x, y in state.walls:
        picture[:, y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL] = WALL
    for cells, colour in (({state.goal}, "green"), (state.hazards, "yellow")):
        for x, y in cells:
            patch = picture[:, y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL]
            edge = torch.ones(CELL, CELL, dtype=torch.bool)
            edge[1:-1, 1:-1] = False
            patch[:, edge] = torch.tensor(COLOURS[colour])[:, None]
    return picture


def draw(grounds: Tensor, agent: Tensor, box: Tensor) -> Tensor:
    """Return pictures (N, 3, 36, 36) of the box and the agent over the ground.

    `grounds` (N, 3, 36, 36); `agent` and `box` (N, 2) in cells.
    """
    picture = grounds
    things = (
        ("square", box, BOX_RADIUS, "blue"),
        ("circle", agent, AGENT_RADIUS, "red"),
    )
    for shape, place, radius, colour in things:
        # few places differ, as things stand or take even steps
        places, which = place.unique(dim=0, return_inverse=True)
        radii = torch.full((len(places),), radius)
        mask = coverage(shape, (places + 0.5) / GRID, radii, SIDE)[which]
        rgb = torch.tensor(COLOURS[colour])[None, :, None, None]
        picture = picture + mask[:, None] * (rgb - picture)
    return picture


def render(found: Sequence[State]) -> Tensor:
    """Return the clip (2 L + 1, 3, 36, 36) in [0, 1] of L + 1 states that follow each other.

    The first frame shows the first state, and frame 2 k shows state k.

    Example:
        >>> render(states(start(0), ["left", "stay"])).shape
        torch.Size([5, 3, 36, 36])
    """
    agent, box = paths(found)
    return draw(ground(found[0])[None].expand(len(agent), -1, -1, -1), agent, box)


def start(seed: int, held_out: bool = False) -> State:
    """Return a random state in which no two things share a cell.

    The agent is often beside the box. States are divided by their content: no state is both
    held out and not.

    Example:
        >>> start(0) == start(0), start(0) == start(1)
        (True, False)
    """
    draw = random.Random(seed)
    while True:
        state = _random_state(draw)
        # one state in four is held out
        if (zlib.crc32(repr(_key(state)).encode()) % 4 == 0) == held_out:
            return state


def _key(state: State) -> tuple[object, ...]:
    """Return the content of a state in one order."""
    return state.agent, state.box, state.goal, sorted(state.hazards), sorted(state.walls)


def _random_state(draw: random.Random) -> State:
    """Return a random state; in half of the states the agent is beside the box."""
    cells = [(x, y) for x in range(GRID) for y in range(GRID)]
    draw.shuffle(cells)
    box = cells.pop()
    near = [c for c in cells if abs(c[0] - box[0]) + abs(c[1] - box[1]) == 1]
    agent = draw.choice(near if draw.random() < 0.5 else cells)
    cells.remove(agent)
    goal, *rest = cells
    hazards, walls = rest[:HAZARDS], rest[HAZARDS : HAZARDS + WALLS]
    return State(agent, box, goal, frozenset(hazards), frozenset(walls))


def pushes(found: Sequence[State]) -> list[bool]:
    """Return, for each action between states that follow each other, whether the box moves.

    >>> state = State((1, 1), (2, 1), (4, 4), frozenset(), frozenset())
    >>> pushes(states(state, ["right", "left"]))
    [True, False]
    """
    return [before.box != after.box for before, after in itertools.pairwise(found)]


def pushing_start(seed: int, held_out: bool = False) -> State:
    """Return a random state, as `start` does, in which one action pushes the box.

    Example:
        >>> state = pushing_start(0)
        >>> any(any(pushes(states(state, [word]))) for word in ACTIONS)
        True
    """
    draw = random.Random(seed)
    while True:
        state = start(draw.getrandbits(48), held_out)
        if any(follow(state, word).box != state.box for word in ACTIONS):
            return state


def pushing_actions(state: State, n: int, draw: random.Random) -> list[str]:
    """Return n random actions of which one or more push the box, from a state of `pushing_start`.

    Raises ValueError for a state in which no action pushes the box.

    Example:
        >>> state = pushing_start(0)
        >>> any(pushes(states(state, pushing_actions(state, 4, random.Random(0)))))
        True
    """
    if not any(follow(state, word).box != state.box for word in ACTIONS):
        raise ValueError(f"expected a state in which an action pushes the box, got {state}")
    while True:
        words = random_actions(n, draw)
        if any(pushes(states(state, words))):
            return words


def random_actions(n: int, draw: random.Random) -> list[str]:
    """Return n random actions; in two of five cases an action repeats the one before."""
    words: list[str] = []
    for _ in range(n):
        again = bool(words) and draw.random() < 0.4
        words.append(words[-1] if again else draw.choice(list(ACTIONS)))
    return words


def faulty(state: State, action: str, draw: random.Random) -> State:
    """Return the state after an action, with the faults of `FAULTS` at their rates.

    "ignores": the agent does another action. "passes": walls and the box do not stop the
    agent, and the box is not pushed. "drifts": the box moves though nothing pushes it.
    """
    if draw.random() < FAULTS["ignores"]:
        action = draw.choice([word for word in ACTIONS if word != action])
    after = follow(state, action)
    ahead = moved(state.agent, action)
    inside = 0 <= ahead[0] < GRID and 0 <= ahead[1] < GRID
    if inside and draw.random() < FAULTS["passes"]:
        after = replace(state, agent=ahead)
    if draw.random() < FAULTS["drifts"]:
        place = moved(after.box, draw.choice(list(ACTIONS)[1:]))
        free = after.free(place) and place != after.agent and after.box == state.box
        after = replace(after, box=place) if free else after
    return after


def corpus(seed: int, actions: int) -> Iterator[tuple[list[str], list[State]]]:
    """Yield endless pairs of actions and the states of a world that has faults.

    No start is held out.

    Example:
        >>> words, found = next(corpus(0, 3))
        >>> len(words), len(found)
        (3, 4)
    """
    draw = random.Random(seed)
    while True:
        found = [start(draw.getrandbits(48))]
        words = random_actions(actions, draw)
        for word in words:
            found.append(faulty(found[-1], word, draw))
        yield words, found
