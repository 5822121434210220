"""Continue a clip of Wan: the last latent frames of a chunk come before the next one, at time 0.

Wan's transformer reads one time for each token, as Wan 2.2's image-to-video models do
(`expand_timesteps` of diffusers), and that of SkyReels-V2 one time for each latent frame. Diffusion
forcing (arXiv 2407.01392) trains a model for that.
The frames before are given and clean. They are no part of the latents of the chunk: no step
changes them, so that they have no log-density.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _wan_pipelines
from .base import Cond, Continuation

HISTORY = "history"


class WanContinuation(Continuation):
    """A continuation of a `Wan`: it sees the last `history` latent frames of the chunk before."""

    encodes_video = True

    def __init__(self, wan: Any, history: int):
        if not 1 <= history <= wan.shape[1]:
            raise ValueError(
                f"expected a history of 1 to {wan.shape[1]} latent frames, as a chunk has, got "
                f"{history}"
            )
        self.wan, self.history = wan, history
        # after the first one, each latent frame is decoded to as many pixel frames
        time = wan.pipe.vae_scale_factor_temporal
        self.frame_map = [(time * k, time * (k + 1)) for k in range(wan.shape[1])]

    def check_length(self, latents: int) -> None:
        """Raise ValueError where a chunk and its history are longer than the model's own clips."""
        own = self._own_length()
        if own and latents + self.history > own:
            raise ValueError(
                f"expected chunks of at most {own - self.history} latent frames, because the model "
                f"makes clips of {own} and a chunk is seen with {self.history} of the chunk "
                f"before, got {latents}: set options.frames = {self._fitting(own)}, or a shorter "
                "history"
            )

    def notes(self, latents: int) -> tuple[str, ...]:
        """Return a note where the network sees more frames than in the usual checkpoint's clips.

        A folder that names its own length is checked by `check_length`.
        """
        frames = int(_wan_pipelines.usual_size(self.wan.pipe)["frames"])
        usual, seen = self._latents(frames), latents + self.history
        if self._own_length() or seen <= usual:
            return ()
        return (
            f"the network sees {seen} latent frames at once, {latents} of a chunk and "
            f"{self.history} before it; checkpoints for clips of {frames} frames were trained with "
            f"{usual}, which options.frames = {self._fitting(usual)} keeps to",
        )

    def _fitting(self, latents: int) -> int:
        """Return the pixel frames of a chunk that has, with its history, so many latent frames."""
        return max(0, self.wan.pipe.vae_scale_factor_temporal * (latents - self.history - 1)) + 1

    def _latents(self, frames: int) -> int:
        """Return the latent frames of a clip of so many pixel frames."""
        return (frames - 1) // self.wan.pipe.vae_scale_factor_temporal + 1

    def _own_length(self) -> int:
        """Return the latent frames of the clips that the model's folder names; 0 if it does not."""
        file = self.wan.folder / "vidrl.json" if self.wan.folder else None
        found = json.loads(file.read_text()) if file is not None and file.exists() else {}
        frames = int(found.get("frames", 0))
        return self._latents(frames) if frames else 0

    def condition(self, cond: Cond, before: Tensor) -> Cond:
        """Return the last latent frames of the chunk before."""
        return {HISTORY: before[:, :, -self.history :]}

    def absent(self, count: int) -> Cond:
        """Return zeros in the shape of those latent frames; a first chunk does not read them."""
        channels, _, *size = self.wan.shape
        zeros = torch.zeros(count, channels, self.history, *size, device=self.wan.device)
        return {HISTORY: zeros}

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the prediction of the chunk's latent frames, those before it at time 0."""
        before = cond[HISTORY].to(x)
        seen, given = torch.cat([before, x], 2), before.shape[2]
        times = t[:, None].repeat(1, seen.shape[2])
        times[:, :given] = 0
        raw: Tensor = self.wan.predict(seen, times, cond)
        return raw[:, :, given:]

    def decode(self, chunks: Sequence[Tensor], cond: Cond | None) -> Tensor:
        """Return the clips; the causal decoder goes on from chunk to chunk without a border."""
        clips: Tensor = self.wan.decode(torch.cat(list(chunks), 2))
        return clips
