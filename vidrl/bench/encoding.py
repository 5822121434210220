"""Turn clips into features: a published image network pooled over time, or a user's function.

Legend: F frames, D features of a frame, W windows of a clip, each a row of features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vidrl import plugin
from vidrl.bench.clip import Clip
from vidrl.bench.dims import module_hash, option_identity
from vidrl.bench.protocol import digest
from vidrl.rewards import encoders

VERSION = 1  # of the pooling; raise it when the features change
BUILT_IN = ("pixels",)
PIXELS_SIDE = 8  # of `pixels`
Array = np.ndarray


class ClipEncoder(Protocol):
    """A function that maps a clip to features.

    It gets frames (F, 3, H, W) uint8 and frames a second, and returns (D,) for the clip or
    (W, D) for windows of it.
    """

    def __call__(self, frames: Tensor, fps: float, /) -> Tensor | Array: ...


class Encoder:
    """The encoder that `spec` names; `clip(clip)` returns features (W, D) float32.

    "efficientnet", "clip:PATH", "siglip:PATH", "dino:PATH", "dinov2:PATH" and "dinov3:PATH"
    encode the frames f_t and give one row of 3 D features: (mean_t f, std_t f, mean_t
    |f_{t+1} − f_t|). The last third depends on the order of the frames. "pixels" does the
    same with frames shrunk to 8 × 8, without a network. "vjepa2:PATH" encodes whole clips,
    one row each. "package.module:function", or a class that is called without arguments, is
    a `ClipEncoder`. `hash` identifies the encoder. Raises plugin.UnknownName with the
    nearest right name.

    >>> Encoder("pixel")
    Traceback (most recent call last):
    vidrl.plugin.UnknownName: no encoder 'pixel': did you mean 'pixels'? known: clip, dino, ...
    """

    def __init__(self, spec: str, device: str = "cpu") -> None:
        self.spec, self.device = spec, device
        self.frame_encoder: encoders.Encoder | None = None
        self.clip_encoder: ClipEncoder | None = None
        known = (*encoders.FAMILIES, *encoders.CLIPS, "efficientnet", *BUILT_IN)
        family = spec.partition(":")[0]
        self.is_custom = family not in known  # the user's own code
        if family in encoders.CLIPS:
            self.clip_encoder = encoders.load(spec).clip  # type: ignore[attr-defined]
        elif family in known:
            self.frame_encoder = pixels if spec in BUILT_IN else encoders.load(spec)
        elif ":" in spec:
            self.clip_encoder = _custom_encoder(spec)
        else:
            raise plugin.UnknownName(
                f"no encoder {spec!r}: {plugin.nearest(spec, known)}; others are called "
                "'package.module:function'"
            )

    @property
    def hash(self) -> str:
        """Return 12 hex digits of the encoder's name, files and code."""
        code = (
            module_hash(self.spec.partition(":")[0])
            if self.is_custom
            else _packaged_weights(self.spec)
        )
        return digest([VERSION, option_identity(self.spec), code])

    def clip(self, clip: Clip) -> Array:
        """Return the features of a clip, (W, D). Raises ValueError for another shape or NaN."""
        with torch.no_grad():
            if self.clip_encoder is not None:
                found = self.clip_encoder(clip.read().to(self.device), clip.fps)
            else:
                found = pool_over_time(self._each(piece) for piece in clip.pieces())
        return _checked_features(found, self.spec)

    def try_out(self) -> None:
        """Encode 16 frames of noise, so that missing weights are found before any work."""
        noise = torch.randint(
            0, 256, (16, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        with torch.no_grad():
            _checked_features(
                self.clip_encoder(noise.to(self.device), 8.0)
                if self.clip_encoder
                else self._each(noise[:2]),
                self.spec,
            )

    def _each(self, piece: Tensor) -> Tensor:
        assert self.frame_encoder is not None
        return self.frame_encoder(piece.to(self.device).float() / 255)


def pool_over_time(pieces: Iterable[Tensor]) -> Tensor:
    """Return mean, std and mean absolute change over time, (3 D,), of pieces (F, D).

    For a single frame the last two are 0. Sums are taken about the first frame's features:
    the difference E[x²] − E[x]² would lose digits where the mean is much larger than the
    spread.

    >>> pieces = [torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0], [4.0, 1.0]])]
    >>> pool_over_time(pieces).numpy().round(3)
    array([2.   , 1.   , 1.633, 0.   , 2.   , 0.   ])
    """
    F = 0
    total = squares = change = torch.zeros(())
    last = origin = None
    for piece in pieces:
        piece = piece.detach().cpu().double()
        origin = piece[:1] if origin is None else origin
        change = change + piece.diff(dim=0, prepend=piece[:1] if last is None else last).abs().sum(
            0
        )
        F, last = F + len(piece), piece[-1:]
        shifted = piece - origin
        total, squares = total + shifted.sum(0), squares + (shifted * shifted).sum(0)
    if origin is None:
        raise ValueError("expected a clip with frames, got none")
    mean = total / F
    return torch.cat(
        [origin[0] + mean, (squares / F - mean * mean).clamp(min=0).sqrt(), change / max(F - 1, 1)]
    )


def pixels(images: Tensor) -> Tensor:
    """Return frames (N, 3, H, W) shrunk to 8 × 8, (N, 192)."""
    return torch.nn.functional.adaptive_avg_pool2d(images, (PIXELS_SIDE, PIXELS_SIDE)).flatten(1)


def _checked_features(found: Tensor | Array, spec: str) -> Array:
    """Return features as (W, D) float32. Raises ValueError for another shape or NaN."""
    features = found.detach().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found)
    if features.ndim not in (1, 2) or not features.size:
        raise ValueError(
            f"expected features of shape (D,) or (windows, D) from encoder {spec!r}, got "
            f"{features.shape}"
        )
    features = np.atleast_2d(features.astype(np.float32))
    if not np.isfinite(features).all():
        raise ValueError(f"expected finite features from encoder {spec!r}, got NaN or infinity")
    return features


def _custom_encoder(spec: str) -> ClipEncoder:
    """Return the user's encoder that `spec` names. Raises plugin.UnknownName."""
    try:
        found = plugin.import_object(spec)
    except plugin.UnknownName as error:
        raise plugin.UnknownName(
            f"no encoder {error}; the families of networks are "
            f"{', '.join((*encoders.FAMILIES, *encoders.CLIPS))}"
        ) from error
    if not callable(found):
        raise plugin.UnknownName(
            f"expected encoder {spec!r} to be a function or a class, got {found!r}"
        )
    encoder: ClipEncoder = found() if isinstance(found, type) else found
    return encoder


def _packaged_weights(spec: str) -> Any:
    """Return the identity of weights that come inside a package, else ""."""
    if spec != "efficientnet":
        return ""
    from vidrl.rewards._networks.efficientnet import CURE, FILE, PACKAGE
    from vidrl.rewards._networks.weights import package_file

    return option_identity(package_file(PACKAGE, FILE, CURE))
