"""Networks that turn frames into features: CLIP, SigLIP, DINO, V-JEPA 2, EfficientNet-Lite.

Any callable works as an encoder too.

>>> load(lambda images: images.mean((2, 3)))(torch.ones(2, 3, 8, 8)).shape
torch.Size([2, 3])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ._networks.efficientnet import EfficientNetLite
from ._networks.hub import Network, chunked, nearest, pretrained, tokenizer
from ._networks.pixels import HALF, IMAGENET, Pixels, read_pixels
from ._networks.vjepa2 import VJepa2


class Encoder(Protocol):
    """An encoder maps frames (N, 3, H, W) to features (N, D).

    Frames are float in [0, 1], of any size.
    """

    def __call__(self, images: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class _Family:
    """A family of published checkpoints, and how to read them.

    - `kind`: the class of transformers.
    - `usual`: the hub id that is used where none is given.
    - `pixels`: the preprocessing, unless the checkpoint has its own.
    - `read`: a function of the model and the pixels that returns the feature.
    """

    kind: str
    usual: str
    pixels: Pixels
    read: Callable[[Any, Tensor], Tensor]


def _pooled(model: Any, pixels: Tensor) -> Tensor:
    """Return the image feature of a CLIP or SigLIP, (N, D)."""
    return model.get_image_features(pixel_values=pixels).pooler_output


def class_token(model: Any, pixels: Tensor) -> Tensor:
    """Return the feature of the class token, (N, D)."""
    return model(pixel_values=pixels).last_hidden_state[:, 0]


FAMILIES = {
    "clip": _Family("CLIPModel", "openai/clip-vit-large-patch14", Pixels(), _pooled),
    "siglip": _Family(
        "SiglipModel", "google/siglip-so400m-patch14-384", Pixels((384, 384), None, HALF), _pooled
    ),
    "dino": _Family(
        "ViTModel", "facebook/dino-vitb16", Pixels((224, 224), None, IMAGENET), class_token
    ),
    "dinov2": _Family(
        "Dinov2Model", "facebook/dinov2-base", Pixels(256, (224, 224), IMAGENET), class_token
    ),
    "dinov3": _Family(
        "DINOv3ViTModel",
        "facebook/dinov3-vitb16-pretrain-lvd1689m",
        Pixels((224, 224), None, IMAGENET, "bilinear"),
        class_token,
    ),
}
PAIRS = ("clip", "siglip")
# encoders of whole clips, and their usual hub ids
CLIPS = {"vjepa2": "facebook/vjepa2-vitl-fpc64-256"}


class Vision:
    """An encoder that runs a transformers model: preprocessing, then the feature.

    `network` holds the model, `pixels` maps the model to its preprocessing, `read` returns
    the feature, and `chunk` frames are read at a time. Features of float64 frames are
    float64, all others float32. Gradients pass to the frames.
    """

    def __init__(
        self,
        network: Network,
        pixels: Callable[[Any], Pixels],
        read: Callable[[Any, Tensor], Tensor],
        chunk: int = 16,
    ) -> None:
        self.network, self.chunk = network, chunk
        self.find, self.read = pixels, read
        self.pixels: Pixels | None = None

    def __call__(self, images: Tensor, /) -> Tensor:
        with self.network.on(images) as model:
            self.pixels = self.pixels or self.find(model)
            return chunked(partial(self._features, model, self.pixels), self.chunk, images)

    def _features(self, model: Any, pixels: Pixels, images: Tensor) -> Tensor:
        """Return the features of one chunk of frames."""
        ready = pixels(images)
        return self.read(model, ready.to(model.dtype)).to(ready.dtype)


class TextImage(Vision):
    """An encoder of frames by a CLIP or SigLIP, and of texts into the same space."""

    def __init__(
        self,
        network: Network,
        pixels: Callable[[Any], Pixels],
        words: Callable[[], Any],
        chunk: int = 16,
    ) -> None:
        super().__init__(network, pixels, _pooled, chunk)
        self.words = words
        self._tokenizer: Any = None

    @torch.no_grad()
    def texts(self, prompts: list[str], like: Tensor) -> Tensor:
        """Return features of prompts, (B, D), on the device and in the type of `like`.

        A prompt that is longer than the model reads is cut off.
        """
        with self.network.on(like) as model:
            tokens = self._tokens(prompts, model.config).to(like.device)
            return model.get_text_features(**tokens).pooler_output.to(like)

    def scale(self, like: Tensor) -> Tensor:
        """Return the trained factor of cosines, exp of the model's logit_scale."""
        return self.network.setup().logit_scale.to(like).exp()

    def bias(self, like: Tensor) -> Tensor:
        """Return the trained addend of a SigLIP's logits; 0 for a CLIP."""
        model = self.network.setup()
        return model.logit_bias.to(like) if hasattr(model, "logit_bias") else like.new_zeros(())

    @property
    def sigmoid(self) -> bool:
        """Whether the model was trained with a yes or no for each pair, as SigLIP was."""
        return hasattr(self.network.setup(), "logit_bias")

    def _tokens(self, prompts: list[str], config: Any) -> Any:
        """Return the tokens of prompts."""
        self._tokenizer = self._tokenizer or self.words()
        longest = config.text_config.max_position_embeddings
        # SigLIP was trained on texts padded to the full length, without a mask
        padded = self.sigmoid
        tokens = self._tokenizer(
            prompts,
            padding="max_length" if padded else True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
            return_attention_mask=not padded,
        )
        tokens.pop("token_type_ids", None)
        return tokens


def load(
    spec: str | Encoder, chunk: int = 16, dtype: str = "float32", offload: bool = False
) -> Encoder:
    """Return the encoder that `spec` names.

    - "clip:SOURCE", "siglip:SOURCE", "dino:SOURCE", "dinov2:SOURCE", "dinov3:SOURCE", with
      a path or a hub id as the source; without a source, the usual hub id of the family.
    - "vjepa2:SOURCE" encodes clips, by its method `clip`, and reads a frame as a clip that
      stands still.
    - "efficientnet" brings its own small weights.
    - A callable is returned as it is.

    Weights are loaded at the first call. Raises ValueError with the nearest name for an
    unknown spec.

    >>> load("dinov4:somewhere")
    Traceback (most recent call last):
    ValueError: no encoder 'dinov4': did you mean 'dinov3'? known: clip, dino, dinov2, ...
    """
    if not isinstance(spec, str):
        return spec
    name, source = _parsed(spec, (*FAMILIES, *CLIPS, "efficientnet"))
    if name in CLIPS:
        place = source or CLIPS[name]
        return VJepa2(Network(lambda: pretrained("VJEPA2Model", place, dtype), offload), chunk)
    if name == "efficientnet":
        return EfficientNetLite(chunk=chunk, offload=offload)
    if name in PAIRS:
        return load_pair(spec, chunk, dtype, offload)
    family = FAMILIES[name]
    source = source or family.usual
    network = Network(lambda: pretrained(family.kind, source, dtype), offload)
    return Vision(network, lambda _: read_pixels(source, family.pixels), family.read, chunk)


def load_pair(
    spec: str, chunk: int = 16, dtype: str = "float32", offload: bool = False, processor: str = ""
) -> TextImage:
    """Return the text and image model that "clip:SOURCE" or "siglip:SOURCE" names.

    `processor` is where the tokenizer and preprocessor_config.json lie, if they do not lie
    with the weights.
    """
    name, source = _parsed(spec, PAIRS)
    family = FAMILIES[name]
    source = source or family.usual
    network = Network(lambda: pretrained(family.kind, source, dtype), offload)
    words = processor or source
    return TextImage(
        network, lambda _: read_pixels(words, family.pixels), lambda: tokenizer(words), chunk
    )


def _parsed(spec: str, known: tuple[str, ...]) -> tuple[str, str]:
    """Return name and source of a spec, or raise ValueError with the nearest name."""
    name, _, source = spec.partition(":")
    if name not in known:
        raise ValueError(
            f"no encoder {name!r}: {nearest(name, known)}; "
            "a path goes behind a colon, as clip:folder"
        )
    return name, source


def cosine(features: Tensor, other: Tensor) -> Tensor:
    """Return the cosine of the last axes, clamped to [-1, 1] against rounding."""
    return torch.nn.functional.cosine_similarity(features, other, dim=-1).clamp(-1, 1)
