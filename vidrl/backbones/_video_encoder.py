"""Convert pixels to a pipeline's latents: encode, then invert what precedes its decoder.

Between its loop and its decoder a pipeline unpacks and scales the latents: each element z_i
that reaches the decoder is scale_i · x_{place_i} + shift_i. Scale, shift and place are
measured in four runs of that code: with latents that are 0, that are 1, and that hold the
two digits of each element's own index. So the inverse is exact, whatever the pipeline's
code is.

Legend: F pixel frames, x the pipeline's latents of one clip as one row of numbers, z the
decoder's input.
"""

from __future__ import annotations

from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from ._joint_latents import JointLayout
from ._latent_layout import Layout
from ._runner import Runner
from ._stand_ins import DecodeHook

# Indices are sent as two digits of this base: float32 (and scaling) would round large indices.
BASE = 4096
FRAMES_AT_ONCE = 8  # pictures in one call of an autoencoder of pictures


class Encodable(Protocol):
    """What the encoder reads of a pipeline backbone, whose module imports this module."""

    runner: Runner
    layout: Layout | JointLayout
    shape: tuple[int, ...]
    dry_row: int
    decode_hook: DecodeHook | None
    autoencoder: torch.nn.Module | None
    encoder: Any

    @property
    def device(self) -> torch.device:
        """The device that the network is on."""
        ...


class VideoEncoder:
    """An encoder of clips that inverts the measured scale, shift and place of latents."""

    @torch.no_grad()
    def __init__(self, pipeline: Encodable):
        """Measure scale, shift and place; raise NotImplementedError if there are none."""
        self.pipeline, shape_there = pipeline, pipeline.layout.pipeline_shape
        number = torch.arange(prod(shape_there), dtype=torch.float32, device=pipeline.device).view(
            shape_there
        )
        self.shift = self._decoder_input(torch.zeros_like(number))
        self.scale = self._decoder_input(torch.ones_like(number)) - self.shift
        high, low = (
            self._digit(digit) for digit in (number.div(BASE, rounding_mode="floor"), number % BASE)
        )
        self.place = (high * BASE + low).clamp(0, prod(shape_there) - 1)
        self._check_inverse(number)

    def _decoder_input(self, latents_of_one: Tensor) -> Tensor:
        """Return the decoder's input for the latents of one clip."""
        pipe, layout = self.pipeline, self.pipeline.layout
        assert pipe.decode_hook is not None
        pipe.decode_hook.recorded = []
        try:
            latents = layout.to_pipeline(layout.to_vidrl(latents_of_one[None]))
            pipe.runner.pixels([pipe.dry_row], latents)
            return torch.cat(pipe.decode_hook.recorded).float()
        finally:
            pipe.decode_hook.recorded = None

    def _digit(self, latents: Tensor) -> Tensor:
        """Return the digit that reached each element of the decoder's input."""
        return (
            ((self._decoder_input(latents) - self.shift) / self.scale)
            .nan_to_num(0, 0, 0)
            .round()
            .long()
        )

    def _check_inverse(self, number: Tensor) -> None:
        """Raise NotImplementedError if random latents reach the decoder in another form."""
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(number.shape, generator=draw).to(number)
        found, expected = self._decoder_input(x), self.scale * x.flatten()[self.place] + self.shift
        free = prod(self.pipeline.shape)
        reached = self.place[self.scale != 0].unique().numel() == free
        if not reached or not torch.allclose(found, expected, atol=1e-3 * float(found.abs().max())):
            raise NotImplementedError(
                f"expected {self.pipeline.runner.name} to scale and rearrange its latents "
                f"before it decodes them, got "
                'something that has no such inverse, or half precision: use dtype = "float32", '
                "or another backbone"
            )

    def latents_of(self, clip: Tensor) -> Tensor:
        """Return latents (1, C, L, h, w) of a clip (1, F, 3, H, W) in [0, 1]."""
        z = self._encoded(2 * clip - 1)
        if z.shape != self.scale.shape:
            raise NotImplementedError(
                f"expected the encoder of {self.pipeline.runner.name} to make latents of the shape "
                f"{tuple(self.scale.shape)} that its decoder reads, got {tuple(z.shape)}"
            )
        moved, shape_there = self.scale != 0, self.pipeline.layout.pipeline_shape
        x = torch.zeros(prod(shape_there), device=z.device)
        x[self.place[moved]] = ((z - self.shift) / self.scale)[moved]
        return self.pipeline.layout.to_vidrl(x.view(1, *shape_there))

    def _encoded(self, pixels: Tensor) -> Tensor:
        """Return the encoder's means: of the whole film, or frame by frame as the decoder works."""
        part = self.pipeline.autoencoder
        encode: Any = self.pipeline.encoder
        assert part is not None and encode is not None
        pixels = pixels.to(next(part.parameters()))
        is_film = self.scale.dim() == 5
        pieces = [pixels.transpose(1, 2)] if is_film else pixels[0].split(FRAMES_AT_ONCE)
        return torch.cat([_means(encode(piece)) for piece in pieces]).float()


def _means(encoded: Any) -> Tensor:
    """Return the mean of an autoencoder's `encode` output: of a distribution, or plain latents."""
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mode()
    return encoded.latent if hasattr(encoded, "latent") else encoded.latents
