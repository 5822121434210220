"""Read the state of the world of `agents` back from a picture, without learning.

Each cell is compared with the pictures of all contents that a cell can have.

Legend: B clips, F frames, L actions, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from vidrl.data.prompt import Prompt
from vidrl.rewards import Card, Reward, Samples

from . import agents
from .agents import CELL, GRID, SIDE, State

GROUNDS = ("floor", "wall", "goal", "hazard")
FARTHEST = 0.13  # root mean square of a cell's difference from its content, above which none fits
LOST = (
    "inapplicable: needs clips of 36 x 36 pixels of two frames an action and a first one, and "
    "prompts of actions with a readable image of the world of vidrl.synthetic.agents"
)


@dataclass(frozen=True)
class Reading:
    """A reading of one picture: the state, or None and the reason `why` there is none."""

    state: State | None
    why: str = ""


def read(picture: Tensor) -> Reading:
    """Return the state that a picture (3, 36, 36) in [0, 1] shows, with things on their cells.

    Raises ValueError for another size.

    Example:
        >>> state = agents.start(3)
        >>> read(agents.render([state])[0]).state == state
        True
        >>> read(torch.zeros(3, 36, 36)).why
        'cell (0, 0) shows no known content'
    """
    if tuple(picture.shape) != (3, SIDE, SIDE):
        raise ValueError(
            f"expected a picture (3, {SIDE}, {SIDE}) of the world of vidrl.synthetic.agents, got "
            f"{tuple(picture.shape)}: resize it, or use the renderer of that module"
        )
    cells = picture.detach().float().cpu().unflatten(2, (GRID, CELL)).unflatten(1, (GRID, CELL))
    known = _contents()
    away = torch.cdist(cells.permute(1, 3, 0, 2, 4).reshape(GRID * GRID, -1), known)
    away, number = (away / known.shape[1] ** 0.5).min(1)
    if bool((far := away > FARTHEST).any()):
        place = int(far.nonzero()[0])
        return Reading(None, f"cell {(place % GRID, place // GRID)} shows no known content")
    return _state(number.tolist())


def _state(numbers: list[int]) -> Reading:
    """Return the state of the contents of all cells, row by row."""
    cells = {(i % GRID, i // GRID): number for i, number in enumerate(numbers)}
    on = [[c for c, number in cells.items() if number // len(GROUNDS) == k] for k in (1, 2)]
    lie = {
        name: [c for c, number in cells.items() if number % len(GROUNDS) == k]
        for k, name in enumerate(GROUNDS)
    }
    for name, found in (("agent", on[0]), ("box", on[1]), ("goal", lie["goal"])):
        if len(found) != 1:
            return Reading(None, f"{len(found)} cells show the {name}")
    fixed = frozenset(lie["hazard"]), frozenset(lie["wall"])
    return Reading(State(on[0][0], on[1][0], lie["goal"][0], *fixed))


@lru_cache
def _contents() -> Tensor:
    """Return the pictures of all contents of a cell, (12, 108): nothing, agent or box on each."""
    rows = []
    aside = (0, 0)  # where a thing is that does not lie on the cell (1, 1), which is cut out
    for agent, box in ((aside, aside), ((1, 1), aside), (aside, (1, 1))):
        for kind in GROUNDS:
            at = (1, 1)
            hazards, walls = (frozenset({at} if kind == k else ()) for k in ("hazard", "wall"))
            state = State(agent, box, at if kind == "goal" else (5, 5), hazards, walls)
            rows.append(agents.render([state])[0][:, CELL : 2 * CELL, CELL : 2 * CELL].flatten())
    return torch.stack(rows)


def wanted(prompt: str) -> list[State]:
    """Return the states that the image and the actions of a prompt ask for, L + 1.

    Raises ValueError for a prompt without an image, an unknown action, and an image that shows
    no state.
    """
    if not isinstance(prompt, Prompt) or "image" not in prompt.files:
        raise ValueError(f"expected a prompt with an image of the world, got {str(prompt)[:60]!r}")
    agents.check_actions(prompt.split())
    reading = read(prompt.picture())
    if reading.state is None:
        raise ValueError(f"expected an image of the world, but {reading.why}")
    return agents.states(reading.state, prompt.split())


class ActionVerifier(Reward):
    """Score the share of a clip's actions after which the world is as the actions ask for.

    After each action the whole state is read and compared with the true one: agent, box, goal,
    hazards and walls. Meant as a judge: give it the weight 0 in [reward.parts], and a band in
    [guard.bands].
    """

    range = (0.0, 1.0)
    time_support = "clip"
    least_frames = agents.FRAMES + 1
    lowered_by = ("grey", "reverse")
    lost = LOST
    card = Card(
        sees="Whether each action has exactly its effect on agent and box, and nothing else moves.",
        blind_to="Frames in the middle of an action; differences below 0.13 of a cell's range.",
        hacks="Unknown; no policy was trained on it.",
        input="Clips and prompts of the backbone world: actions, and the first frame as the image.",
        cost="1 ms a clip of four actions on one CPU thread.",
    )

    def terms(self, samples: Samples) -> Tensor:
        """Return the verdict of each frame, that of its action, (B, F)."""
        clips = samples.frames
        rows = [_verdict(clip, p) for clip, p in zip(clips, samples.prompts, strict=True)]
        return torch.stack(rows).to(clips)


def _verdict(clip: Tensor, prompt: str) -> Tensor:
    """Return 1 for each frame of an action that is right, else 0, (F,); NaN if unscored.

    The first frame, which is given, has the mean of the others.
    """
    try:
        states = wanted(prompt)
        if len(clip) != agents.FRAMES * (len(states) - 1) + 1:
            raise ValueError
        ends = [read(frame).state for frame in clip[:: agents.FRAMES][1:]]
    except ValueError:
        return torch.full((len(clip),), torch.nan)
    right = torch.tensor([float(a == b) for a, b in zip(ends, states[1:], strict=True)])
    return torch.cat([right.mean()[None], right.repeat_interleave(agents.FRAMES)])
