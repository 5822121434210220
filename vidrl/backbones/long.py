"""A long clip, made chunk by chunk: each chunk follows the last frames of the chunk before it.

The model of a chunk is another backbone of this folder. A chunk is denoised along all times
before the next one begins (`vidrl.training.chunks`), as autoregressive video diffusion models
do (CausVid, arXiv 2412.07772).

Legend: B batch, J chunks, C latent channels, L latent frames of a chunk, F pixel frames of a
clip; latents of a clip (B, C, J·L, h, w), of a chunk (B, C, L, h, w).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl import plugin
from vidrl.diffusion.segments import Span
from vidrl.lora.file import FULL

from .base import FOLLOWS, Cond, Denoiser, extended, on, rows, size_and_device


class Long(Denoiser):
    """A backbone that makes clips of J chunks by another one, which can continue a clip.

    - `model` and `options`: those of the backbone `base`, whose clip is one chunk. The backbone
      "wan" sees the last `history` latent frames of the chunk before, at time 0, which a model
      must have learned; "pipeline" drives a pipeline that is given the last `history` pixel frames
      of the chunk before: one as its image, several as its film.
    - `chunks`: J, at least 1.
    - `weights`: a folder with network.safetensors, the weights of a network that learned to
      continue, in place of the model's own; "" keeps those.

    A clip has J · L latent frames, so that `segments = J` credits chunks. Raises ValueError for
    fewer than one chunk, for a base that cannot continue a clip, and for chunks that are too long
    for the model.

    Example:
        >>> long = Long.tiny()
        >>> long.shape, long.frame_map  # two chunks of two latent frames
        ((4, 4, 2, 2), [(0, 1), (1, 5), (5, 9), (9, 13)])
    """

    def __init__(
        self,
        model: object,
        chunks: int = 4,
        base: str = "wan",
        options: Mapping[str, Any] | None = None,
        history: int = 1,
        weights: str = "",
    ):
        _check(chunks, history)
        if weights:
            _weights_file(weights)  # found missing before the model is read, which takes long
        kind: Any = plugin.find("backbones", base)
        kind.check_continuation({"model": model, **(options or {})}, history)
        self.base: Denoiser = plugin.load("backbones", base, model=model, **(options or {}))
        self.chunks = chunks
        self.latents = self.base.shape[1]
        self.continued = self.base.continuation(history)
        self.continued.check_length(self.latents)
        switch = self.base.attention_switch
        if switch is not None and switch.mixes:
            raise ValueError(
                "expected no options.rollout_attention with the backbone long, got "
                f"{switch.rollout}: leave it out"
            )
        if weights:
            _load(self.base, _weights_file(weights))
        self._describe(weights)

    def _describe(self, weights: str) -> None:
        """Set what the trainer reads of a backbone."""
        base = self.base
        self.network, self.path = base.network, base.path
        self.fps = base.fps
        # of first chunks, and of later ones: `vidrl.training.lockstep` tells these two apart
        self.calls_depend_on = base.calls_depend_on
        self.attention_switch, self.longer = base.attention_switch, base.longer
        self.reads = tuple(name for name in base.reads if name not in self.continued.unread)
        self.needs = base.needs
        self.only_lora, self.drops_encoders = base.only_lora, base.drops_encoders
        # no folder: what was measured of the base's clips does not hold for long ones
        self.notes = (*base.notes, *self.continued.notes(self.latents))
        others = (f"the LoRA is one of the weights in {weights}",) if weights else ()
        self.adapter_notes = (*base.adapter_notes, *others)
        channels, latents, *size = base.shape
        self.shape = (channels, self.chunks * latents, *size)
        self.frame_map: list[Span] = [*base.frame_map]
        for _ in range(1, self.chunks):
            end = self.frame_map[-1][1]
            following = self.continued.frame_map
            self.frame_map += [(end + a, end + b) for a, b in following]
        self.clip_shape = (self.frame_map[-1][1], *base.clip_shape[1:])

    @property
    def borders(self) -> list[int]:
        """The first pixel frames of all chunks but the first: where a seam can be.

        Example:
            >>> Long.tiny().borders
            [5]
        """
        return [self.frame_map[self.latents * j][0] for j in range(1, self.chunks)]

    @classmethod
    def check_options(cls, options: Mapping[str, object]) -> None:
        """Raise for what cannot work, before the model of the chunks is read."""
        chunks, history = options.get("chunks", 4), options.get("history", 1)
        if isinstance(chunks, int) and isinstance(history, int):
            _check(chunks, history)
        if options.get("weights"):
            _weights_file(str(options["weights"]))
        base: Any = plugin.find("backbones", str(options.get("base", "wan")))
        own = options.get("options") or {}
        given = {"model": options.get("model"), **(own if isinstance(own, Mapping) else {})}
        base.check_options(given)
        base.check_continuation(given, history if isinstance(history, int) else 1)

    @classmethod
    def tiny(cls) -> Long:
        """Build two chunks of a Wan pipeline of random weights: 16 x 16 pixels."""
        from ._tiny import pipeline

        size = {"height": 16, "width": 16, "frames": 5, "fps": 8.0, "text_length": 16}
        return cls(pipeline(), chunks=2, options=size)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise ValueError for references that chunks or the base do not read, or needs."""
        super().check_prompts(prompts)
        self.base.check_prompts(prompts)

    def encode(self, prompts: Sequence[str]) -> Cond:
        """Return the base's conditions of the prompts."""
        return self.base.encode(prompts)

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts whose end the base's text encoder cuts off."""
        return self.base.truncated(prompts)

    def encoding(self, device: torch.device | None = None) -> AbstractContextManager[None]:
        """Return the base's context around several calls of `encode`."""
        return self.base.encoding(device)

    def drop_encoders(self) -> None:
        """Free the base's text encoders."""
        self.base.drop_encoders()

    def times(self, n: int) -> list[float]:
        """Return the times of a chunk."""
        return self.base.times(n)

    def chunk_noise(self, draws: Sequence[torch.Generator]) -> Tensor:
        """Return unit noise (B, C, L, h, w) of one chunk for each random generator."""
        return self.base.noise(draws)

    def following(self, cond: Cond, before: Tensor | None) -> Cond:
        """Return the condition of a chunk after the latents `before` (B, C, L, h, w) of a chunk.

        `before` None: the condition of a first chunk.
        """
        count, device = size_and_device(cond)
        added = (
            self.continued.absent(count)
            if before is None
            else self.continued.condition(cond, before)
        )
        follows = torch.full((count,), float(before is not None))
        # the rows of a condition are taken by indices of one device
        return extended(cond, on({**added, FOLLOWS: follows}, device))

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the prediction of chunks, whose condition is that of `following`.

        For latents of a whole clip, all chunks are at the time t, and each one reads the chunk
        before it as it is in x.
        """
        if FOLLOWS not in cond:
            return self._predict_clip(x, t, cond)
        follows = cond[FOLLOWS] > 0
        if bool(follows.all()):
            return self.continued.predict(x, t, cond)
        if not bool(follows.any()):
            return self.base.predict(x, t, cond)
        later, first = follows.nonzero().flatten(), (~follows).nonzero().flatten()
        raw = torch.cat(
            [self.predict(x[part], t[part], rows(cond, part)) for part in (first, later)]
        )
        return raw[torch.cat([first, later]).argsort()]

    def _predict_clip(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the prediction of the latents (B, C, J·L, h, w) of clips."""
        made, before = list[Tensor](), None
        for chunk in x.split(self.latents, 2):
            cond = self.following(cond, before)
            made.append(self.predict(chunk, t, cond))
            before = chunk
        return torch.cat(made, 2)

    def generate(self, noise: Tensor, cond: Cond, steps: int = 20) -> Tensor:
        """Sample deterministically, chunk after chunk, from unit noise of a clip."""
        made, before = list[Tensor](), None
        for chunk in noise.split(self.latents, 2):
            cond = self.following(cond, before)
            before = super().generate(chunk, cond, steps)
            made.append(before)
        return torch.cat(made, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Return clips (B, F, 3, H, W) in [0, 1], with gradient."""
        return self.continued.decode(latents.split(self.latents, 2), None)

    def decode_with(self, latents: Tensor, cond: Cond) -> Tensor:
        """Return the clips of latents that were generated under a condition."""
        return self.continued.decode(latents.split(self.latents, 2), cond)

    @property
    def encodes_video(self) -> bool:
        """Whether long clips can be encoded: by the causal autoencoder of wan alone."""
        return self.continued.encodes_video

    def latents_of(self, video: Tensor) -> Tensor:
        """Return the latents of long clips."""
        return self.base.latents_of(video)

    def ready(self) -> None:
        """Raise the errors of the base's first prediction early."""
        self.base.ready()

    @property
    def device(self) -> torch.device:
        """The device on which the base computes."""
        return self.base.device

    def to(self, device: torch.device | str) -> Long:
        """Move all modules of the base."""
        self.base.to(device)
        return self

    def save_lora(
        self, folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, object]
    ) -> None:
        """Write an adapter in the base's format."""
        self.base.save_lora(folder, weights, config)

    def load_lora(
        self, folder: Path, partial: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Return the weights and the LoraConfig arguments of an adapter of the base."""
        return self.base.load_lora(folder, partial)


def _check(chunks: int, history: int) -> None:
    """Raise ValueError for fewer than one chunk, or nothing to continue from."""
    if chunks < 1 or history < 1:
        raise ValueError(
            f"expected chunks ≥ 1 and history ≥ 1, got chunks = {chunks} and history = {history}"
        )


def _weights_file(folder: str) -> Path:
    """Return the file of weights in a folder; raises ValueError where there is none."""
    file = Path(folder) / FULL
    if not file.is_file():
        raise ValueError(
            f"expected {FULL} in the folder of backbone.options.weights, got {folder}: name a "
            "folder such as assets/tiny-long, or a run of full weights"
        )
    return file


def _load(base: Denoiser, file: Path) -> None:
    """Copy all weights of the base's network from a file."""
    from safetensors.torch import load_file

    found, own = load_file(file), dict(base.network.named_parameters())
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    if shapes != {name: tuple(p.shape) for name, p in own.items()}:
        raise ValueError(
            f"expected the {len(own)} weights of the base's network in {file}, got "
            f"{len(found)} of other names or shapes: name the weights of this model"
        )
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(found[name])
