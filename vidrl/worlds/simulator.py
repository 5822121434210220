"""A simulator makes the frames that follow a frame under an action; it has no other state.

Legend: B rows, F frames of an action, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from vidrl import plugin
from vidrl.backbones.base import Denoiser
from vidrl.backbones.world import World
from vidrl.data import picture
from vidrl.data.prompt import Prompt
from vidrl.synthetic import agent_verifier, agents
from vidrl.training import clips
from vidrl.training.model_source import resolve
from vidrl.training.policy import Policy, load_adapter

MODEL = Path(__file__).resolve().parents[2] / "assets" / "tiny-world"  # of the checkout
STEPS = 8  # denoising steps where no run says otherwise


@runtime_checkable
class Simulator(Protocol):
    """A simulator has actions, the shape of what an action makes, and a rate of frames."""

    actions: tuple[str, ...]
    shape: tuple[int, int, int, int]  # of the frames of one action, (F, 3, H, W)
    fps: float

    def follow(
        self, frames: Tensor, actions: Sequence[str], draws: Sequence[torch.Generator]
    ) -> Tensor:
        """Return the frames (B, F, 3, H, W) in [0, 1] that follow frames under actions.

        `frames` (B, 3, H, W) in [0, 1]; `actions`, one word a row; `draws`, the random generator
        of each row. A row depends on its own frame, action and generator alone. Raises
        ValueError for an unknown action and for frames of another size.
        """


def check(simulator: Simulator, frames: Tensor, actions: Sequence[str]) -> None:
    """Raise ValueError for an action that a simulator does not know, or frames it cannot read.

    >>> check(TrueWorld(), torch.zeros(1, 3, 36, 36), ["jump"])
    Traceback (most recent call last):
    ValueError: expected an action of the world, stay, left, right, up, down, got 'jump'
    """
    for action in actions:
        if action not in simulator.actions:
            known = ", ".join(simulator.actions)
            raise ValueError(f"expected an action of the world, {known}, got {action!r}")
    wanted = (len(actions), *simulator.shape[1:])
    if tuple(frames.shape) != wanted:
        raise ValueError(
            f"expected frames (B, 3, H, W) of {wanted}, got {tuple(frames.shape)}: resize them"
        )


class TrueWorld:
    """The exact world of `vidrl.synthetic.agents`: reads a frame, and draws what follows.

    Example:
        >>> frame = agents.render([agents.start(0)])
        >>> TrueWorld().follow(frame, ["left"], [torch.Generator()]).shape
        torch.Size([1, 2, 3, 36, 36])
    """

    actions = tuple(agents.ACTIONS)
    shape = (agents.FRAMES, 3, agents.SIDE, agents.SIDE)
    fps = agents.FPS

    def follow(
        self, frames: Tensor, actions: Sequence[str], draws: Sequence[torch.Generator]
    ) -> Tensor:
        """Return the true frames; raise ValueError for a frame that shows no state."""
        check(self, frames, actions)
        rows = [self._follow(*row) for row in zip(frames, actions, strict=True)]
        return torch.stack(rows) if rows else torch.empty(0, *self.shape)

    def _follow(self, frame: Tensor, action: str) -> Tensor:
        reading = agent_verifier.read(frame)
        if reading.state is None:
            raise ValueError(f"expected a frame of the true world, but {reading.why}")
        return agents.render([reading.state, agents.follow(reading.state, action)])[1:]


class LearnedWorld:
    """A world that a generator makes: the prompt is the action, its image the last frame.

    `policy`: a denoiser, or a policy, that reads the reference `image`, and whose clip begins with
    the image. `actions`: the texts that are actions. `steps`: denoising steps. Raises ValueError
    for a denoiser that reads no image, and for steps below 1.

    Example:
        >>> world = LearnedWorld(World(actions=1), ["stay", "left"], steps=2)
        >>> world.follow(torch.zeros(1, 3, 12, 12), ["left"], [torch.Generator()]).shape
        torch.Size([1, 2, 3, 12, 12])
    """

    def __init__(self, policy: Denoiser | Policy, actions: Sequence[str], steps: int = STEPS):
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"expected 1 denoising step or more, got steps={steps!r}")
        self.policy, self.steps = policy, steps
        self.actions = tuple(actions)
        backbone = policy.backbone if isinstance(policy, Policy) else policy
        if "image" not in backbone.reads:
            raise ValueError(
                "expected a backbone that goes on from the image of a prompt, got "
                f"{type(backbone).__name__}, which reads {', '.join(backbone.reads) or 'no image'}"
            )
        frames, colours, height, width = backbone.clip_shape
        self.shape = (frames - 1, colours, height, width)
        self.fps = backbone.fps

    def follow(
        self, frames: Tensor, actions: Sequence[str], draws: Sequence[torch.Generator]
    ) -> Tensor:
        """Return the frames that the generator makes."""
        check(self, frames, actions)
        with TemporaryDirectory() as folder:
            prompts = []
            for number, (frame, action) in enumerate(zip(frames, actions, strict=True)):
                file = Path(folder) / f"{number}.png"
                picture.write(file, frame)
                prompts.append(Prompt(action, {"image": file}))
            made = clips.clips(self.policy, prompts, draws, self.steps, 64, 64)
            return torch.cat([torch.empty(0, *self.shape), *(c.video[:, 1:].cpu() for c in made)])


def load(model: str = "", run: str = "", steps: int = 0) -> LearnedWorld:
    """Return the learned world of a model of the backbone `world`, or of a trained run.

    `model`: a model's folder; left out, assets/tiny-world of the checkout, or the run's own.
    `run`: the folder of a run, of which the trained weights are taken; give `model` too where the
    path of the run's model is relative to another folder. `steps`: denoising steps, 0 for the
    run's own. Raises the errors of `resolve` and of the backbone; ValueError for a run of another
    backbone, and for steps below 0.
    """
    if not run:
        made = World(model or str(MODEL), actions=1)
        return LearnedWorld(made, made.words, steps or STEPS)
    source = resolve(model or None, run=run)
    options = dict(source.options) | {"actions": 1}
    backbone = plugin.load("backbones", source.backbone, **options)
    if not isinstance(backbone, World):
        raise ValueError(f"expected a run of the backbone world, got {source.backbone} in {run}")
    policy = load_adapter(backbone, str(source.lora))
    return LearnedWorld(policy, backbone.words, steps or source.steps or STEPS)
