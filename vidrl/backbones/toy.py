"""A denoiser of a few hundred weights that needs torch alone: the smallest backbone.

The trainer's tests train this model.

Legend: B batch, L latent frames; latents (B, 3, L, 4, 4), clips (B, 4 L − 3, 3, 32, 32).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vidrl.diffusion.path import flow

from .base import Cond, Denoiser


class _Net(nn.Module):
    """Two 3D convolutions, between which the embedded time and text are added."""

    def __init__(self, width: int):
        super().__init__()
        self.into = nn.Conv3d(3, width, 3, padding=1)
        self.cond = nn.Linear(8 + 1, width)
        self.out = nn.Conv3d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        cond = self.cond(torch.cat([text, t[:, None].to(text)], 1))
        return self.out(torch.tanh(self.into(x) + cond[:, :, None, None, None]))


class Toy(Denoiser):
    """A random convolutional denoiser that predicts along a straight path.

    The decoder has no weights: it repeats and enlarges latent frames.

    Example:
        >>> toy = Toy.tiny()
        >>> toy.decode(torch.zeros(1, *toy.shape)).shape
        torch.Size([1, 9, 3, 32, 32])
    """

    calls_depend_on = "rows"

    def __init__(self, latent_frames: int = 3, width: int = 8, seed: int = 0, fps: float = 8.0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _Net(width)
        self.path, self.fps = flow(), fps
        self.shape, self.clip_shape = (3, latent_frames, 4, 4), (4 * latent_frames - 3, 3, 32, 32)
        self.frame_map = [(0, 1)] + [(4 * k - 3, 4 * k + 1) for k in range(1, latent_frames)]

    @classmethod
    def tiny(cls) -> Toy:
        """Build the model with its default sizes."""
        return cls()

    def encode(self, prompts: Sequence[str]) -> Cond:
        """Return {"text": (B, 8)}: eight numbers in [−1, 1] that are hashed from each prompt."""
        self.check_prompts(prompts)
        bits = [
            [(zlib.crc32(f"{i} {p}".encode()) % 1000) / 500 - 1 for i in range(8)] for p in prompts
        ]
        return {"text": torch.tensor(bits, device=self.device)}

    def times(self, n: int) -> list[float]:
        """Return n + 1 evenly spaced times from 1 to 0."""
        return torch.linspace(1, 0, n + 1, dtype=torch.float64).tolist()

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the velocity ε − x0 that the network predicts."""
        return self.network(x, t, cond["text"])

    def decode(self, latents: Tensor) -> Tensor:
        """Return clips: the first latent frame gives one pixel frame, each later one four."""
        frames = torch.cat([latents[:, :, :1], latents[:, :, 1:].repeat_interleave(4, 2)], 2)
        video = torch.sigmoid(frames).transpose(1, 2)
        return interpolate(video.flatten(0, 1), scale_factor=8.0, mode="bilinear").unflatten(
            0, video.shape[:2]
        )

    def latents_of(self, video: Tensor) -> Tensor:
        """Return the least-squares inverse of `decode`."""
        # The matrix (32, 4) of the enlargement in `decode` along one axis.
        enlarge = interpolate(
            torch.eye(4, device=video.device)[None], scale_factor=8.0, mode="linear"
        )[0].T
        shrink = torch.linalg.pinv(enlarge)
        frames = (
            torch.einsum("yh,bfchw,xw->bcfyx", shrink, video, shrink).clamp(1e-6, 1 - 1e-6).logit()
        )
        return torch.cat([frames[:, :, :1], frames[:, :, 1:].unflatten(2, (-1, 4)).mean(3)], 2)
