"""A denoiser of worlds: from the last frame and actions it makes the frames that follow.

A prompt is a text of actions, such as "left left up", with the last frame as its image. A
latent frame holds the frames of one action, so that segments are actions. The clip begins with
the given frame.

Legend: B batch, L actions, K frames of an action, H side in pixels; latents (B, 3 K, L, H, H),
clips (B, 1 + K L, 3, H, H).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.data.prompt import Prompt
from vidrl.diffusion.path import flow

from . import _weights_file
from ._world_net import WorldNet
from .base import Cond, Denoiser

WEIGHTS, CONFIG = "network.safetensors", "config.json"
SIZES = ("patch", "frames", "width", "depth")  # of the network
TINY: dict[str, Any] = {
    "side": 12,
    "length": 2,
    "patch": 6,
    "frames": 2,
    "width": 16,
    "depth": 1,
    "actions": ["stay", "left", "right"],
}
SHIFT = 3.0  # of the times: most steps are at high noise, where it is decided what happens
EARLIEST = 0.05  # the velocity is (x − x̂0)/t; below this time it would enlarge the network's error


class World(Denoiser):
    """Frames that follow a given frame under given actions, made along a straight path.

    `model`: a folder with config.json and network.safetensors, as scripts/pretrain_world.py
    writes; "" makes random weights. `actions`: how many actions a prompt has; 0 means as many as
    the model was trained with. `fps`: frames a second. Raises ValueError for a number below 0,
    and for a folder that holds no such model.

    Example:
        >>> model = World.tiny()
        >>> model.shape, model.frame_map
        ((6, 2, 12, 12), [(0, 3), (3, 5)])
        >>> model.decode(torch.zeros(1, *model.shape)).shape
        torch.Size([1, 5, 3, 12, 12])
    """

    calls_depend_on = "rows"
    reads = ("image",)
    needs = ("image",)
    examples = ("left stay", "right right", "stay left")

    def __init__(self, model: str = "", actions: int = 0, fps: float = 4.0):
        self._build(_config(Path(model)) if model else TINY, actions, fps)
        if model:
            self.folder = Path(model)
            _weights_file.load(self.network, self.folder / WEIGHTS, "a model of worlds")

    def _build(self, config: Mapping[str, Any], actions: int, fps: float) -> None:
        """Make the network with random weights, and the frame map."""
        check(actions)
        self.words = list(config["actions"])
        frames, side = config["frames"], config["side"]
        length = actions or config["length"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = WorldNet(words=len(self.words), **{key: config[key] for key in SIZES})
        self.path, self.fps = flow(), fps
        self.shape = (3 * frames, length, side, side)
        self.clip_shape = (1 + frames * length, 3, side, side)
        # the given frame belongs to the first action
        self.frame_map = [(1 + frames * k, 1 + frames * (k + 1)) for k in range(length)]
        self.frame_map[0] = (0, 1 + frames)

    @classmethod
    def tiny(cls) -> World:
        """Build a model of random weights: 2 actions of 2 frames, 12 x 12 pixels."""
        return cls()

    def encode(self, prompts: Sequence[str]) -> Cond:
        """Return {"frame": (B, 3, H, H), "actions": (B, L)}: the image and numbers of actions.

        Raises ValueError for an unknown action, another number of actions, and an image of
        another size.
        """
        self.check_prompts(prompts)
        frames = [self._frame(prompt) for prompt in prompts]
        side, length = self.shape[2], self.shape[1]
        numbers = [self._numbers(prompt) for prompt in prompts]
        return {
            "frame": torch.cat([torch.empty(0, 3, side, side), *frames]).to(self.device),
            "actions": torch.tensor(numbers, device=self.device).long().reshape(-1, length),
        }

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise ValueError for prompts without an image, and for what are no actions here."""
        super().check_prompts(prompts)
        for prompt in prompts:
            self._numbers(prompt)

    def _numbers(self, prompt: str) -> list[int]:
        """Return the numbers of a prompt's actions."""
        words = str(prompt).lower().split()
        if unknown := [word for word in words if word not in self.words]:
            raise ValueError(
                f"expected actions of this world, {', '.join(self.words)}, got {unknown[0]!r} in "
                f"{str(prompt)[:60]!r}"
            )
        if len(words) != self.shape[1]:
            raise ValueError(
                f"expected {self.shape[1]} actions in a prompt, got {len(words)} in "
                f"{str(prompt)[:60]!r}: change the prompt, or set backbone.options.actions"
            )
        return [self.words.index(word) for word in words]

    def _frame(self, prompt: str) -> Tensor:
        """Return the image of a prompt, (1, 3, H, H) in [−1, 1]."""
        picture, side = Prompt(prompt).picture(), self.shape[2]
        if tuple(picture.shape) != (3, side, side):
            raise ValueError(
                f"expected an image of {side} x {side} pixels, the last frame of this world, got "
                f"{picture.shape[2]} x {picture.shape[1]}: resize the image"
            )
        return 2 * picture[None] - 1

    def times(self, n: int) -> list[float]:
        """Return n + 1 times from 1 to 0, of which most are at high noise: 3 u/(1 + 2 u)."""
        if n < 1:
            raise ValueError(f"expected at least one step, got {n}")
        u = torch.linspace(1, 0, n + 1, dtype=torch.float64)
        return (SHIFT * u / (1 + (SHIFT - 1) * u)).tolist()

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the velocity ε − x0 = (x − x̂0)/t; the network predicts x̂0."""
        clean = self.network(x, t, cond["frame"], cond["actions"])
        return (x - clean) / t.clamp(min=EARLIEST).view(-1, 1, 1, 1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the clips of latents whose given frame is not known, and is grey."""
        side = self.shape[2]
        return self.decode_with(latents, {"frame": latents.new_zeros(len(latents), 3, side, side)})

    def decode_with(self, latents: Tensor, cond: Cond) -> Tensor:
        """Return the clips (B, 1 + K L, 3, H, H): the given frame, and the frames that follow."""
        later = latents.transpose(1, 2).unflatten(2, (-1, 3)).flatten(1, 2)
        return ((torch.cat([cond["frame"][:, None], later], 1) + 1) / 2).clamp(0, 1)

    def latents_of(self, video: Tensor) -> Tensor:
        """Return the latents of clips; their first frame is the given one, and left out."""
        return latents_of(video, self.shape[1])


def latents_of(video: Tensor, actions: int) -> Tensor:
    """Return the latents (B, 3F, L, H, W) of clips (B, 1 + L F, 3, H, W) of L actions.

    >>> latents_of(torch.zeros(2, 9, 3, 36, 36), 4).shape
    torch.Size([2, 6, 4, 36, 36])
    """
    later = (2 * video[:, 1:] - 1).unflatten(1, (actions, -1))
    return later.flatten(2, 3).transpose(1, 2).contiguous()


def check(actions: int) -> None:
    """Raise ValueError for a number of actions that no clip can have.

    >>> check(-1)
    Traceback (most recent call last):
    ValueError: expected actions of 1 or more, or 0 for as many as in training, got -1
    """
    if actions < 0:
        raise ValueError(
            f"expected actions of 1 or more, or 0 for as many as in training, got {actions}"
        )


def _config(folder: Path) -> dict[str, Any]:
    """Return the sizes and the actions of a model's folder."""
    try:
        found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"expected a model of worlds, a folder with {CONFIG} and {WEIGHTS}, got "
            f"{folder.resolve()}: name the path of assets/tiny-world in the repository of vidrl, "
            "or train one with scripts/pretrain_world.py"
        ) from error
    words, wanted = found.get("actions"), ("side", "length", *SIZES)
    named = isinstance(words, list) and words and all(isinstance(word, str) for word in words)
    if not named or not all(isinstance(found.get(k), int) and found[k] > 0 for k in wanted):
        raise ValueError(
            f"expected the numbers {', '.join(wanted)}, above 0, and a list of words, actions, in "
            f"{folder / CONFIG}, got {found}: name the model that scripts/pretrain_world.py wrote"
        )
    return found
