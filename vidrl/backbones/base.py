"""What the trainer needs of a generator, and nothing more.

Legend: B batch, C latent channels, L latent frames, h w latent height and width, F pixel frames, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path as Folder

import torch
from torch import Tensor, nn

from vidrl.path import Path
from vidrl.segments import Span

Cond = dict[str, Tensor]  # conditioning by name, each (B, ...)


class Generator(ABC):
    """Makes pixels out of noise under a condition; constructor arguments are its options."""

    network: nn.Module  # what is trained
    shape: tuple[int, ...]  # of one latent, (C, L, h, w)
    fps: float
    longer = "Shorten these prompts"  # the cure where `truncated` names prompts

    @abstractmethod
    def encode(self, prompts: Sequence[str], reference: Tensor | None = None) -> Cond:
        """The condition of each prompt; without gradient."""

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which `encode` does not read the end; a family whose text encoder has a limit tells them."""
        return []

    @abstractmethod
    def generate(self, noise: Tensor, cond: Cond) -> Tensor:
        """Latents (B, C, L, h, w) from noise, as the family's own sampler makes them."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Clips (B, F, 3, H, W) in [0, 1]; differentiable in the latents."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> Generator:
        """A few thousand random weights of the same architecture, for tests; needs no file."""

    def noise(self, draws: Sequence[torch.Generator]) -> Tensor:
        """One unit Gaussian latent a generator, float32 (B, C, L, h, w): the same whatever the batch and the device."""
        return torch.stack([torch.randn(self.shape, generator=draw) for draw in draws])

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Generator:
        """Move everything that computes; families with more than `network` extend it."""
        self.network.to(device)
        return self

    def save_lora(self, folder: Folder, weights: Mapping[str, Tensor], config: Mapping[str, object]) -> None:
        """Write an adapter in the family's own format."""
        raise NotImplementedError(f"{type(self).__name__} has no adapter format: train it with policy.full = true")

    def load_lora(self, folder: Folder) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Read weights and configuration of an adapter of the family's own format."""
        raise NotImplementedError(f"{type(self).__name__} has no adapter format: leave policy.lora empty")


class Denoiser(Generator):
    """A generator by iterative denoising along a noise path."""

    path: Path
    frame_map: list[Span]  # of each latent frame, the pixel frames [start, end) where its influence begins
    folder: Folder | None = None  # where its files lie, if they lie on this machine
    notes: tuple[str, ...] = ()  # what a person must know who compares its clips with those of another program

    @abstractmethod
    def times(self, n: int) -> list[float]:
        """The n + 1 times from 1 down to 0 that the family's own scheduler visits in n steps."""

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The network's prediction at x_t (B, C, L, h, w) for times t (B,), guidance included."""

    def generate(self, noise: Tensor, cond: Cond, steps: int = 20) -> Tensor:
        """The deterministic sampler."""
        from vidrl.transition import step

        x, times = noise.to(self.device), self.times(steps)
        for t, s in zip(times[:-1], times[1:], strict=True):
            at = torch.full((len(x),), t, device=x.device)
            x = step(self.path, "ode", self.predict(x, at, cond), x, t, s).mean
        return x


def rows(cond: Cond, index: Tensor | slice) -> Cond:
    """Some rows of a condition.

    Example:
        >>> rows({"text": torch.arange(3)}, torch.tensor([2, 2]))
        {'text': tensor([2, 2])}
    """
    return {name: value[index] for name, value in cond.items()}


class PromptCache:
    """Encodes each prompt once, and keeps its condition on the CPU."""

    def __init__(self, backbone: Generator):
        self.backbone, self.kept = backbone, dict[str, Cond]()

    def __call__(self, prompts: Sequence[str]) -> Cond:
        """The condition of each prompt, on the backbone's device."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.kept]
        size = 1 if self.backbone.device.type == "cpu" else len(new)  # alone: the last bits must not tell its company
        for batch in (new[a : a + size] for a in range(0, len(new), size)):
            made = {name: value.cpu() for name, value in self.backbone.encode(batch).items()}
            self.kept |= {prompt: rows(made, slice(i, i + 1)) for i, prompt in enumerate(batch)}
        parts = [self.kept[prompt] for prompt in prompts]
        return {name: torch.cat([part[name] for part in parts]).to(self.backbone.device) for name in parts[0]}
