"""Build the model of a known family on the device "meta", from its public configuration."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidrl import lora
from vidrl.backbones.base import Cond, Denoiser
from vidrl.plugin import nearest

from .calls import FAMILIES, Family

FILE = Path(__file__).with_suffix(".toml")
# Names of the number of frames in the calls of pipelines.
FRAMES = ("num_frames", "frames")


@cache
def _table() -> dict[str, Any]:
    """Return the content of families.toml."""
    return tomllib.loads(FILE.read_text())


def names() -> list[str]:
    """Return the hub ids whose configuration is known.

    Example:
        >>> "Wan-AI/Wan2.1-T2V-14B-Diffusers" in names()
        True
    """
    return [*_table()["models"], *_table()["other_names"]]


def find(model: str) -> dict[str, Any]:
    """Return the configuration of a hub id; raise ValueError for an unknown one.

    Example:
        >>> find("zai-org/CogVideoX-2b")["network"]["num_layers"]
        30
    """
    tables = _table()
    model = tables["other_names"].get(model, model)
    if model not in tables["models"]:
        raise ValueError(
            f"expected a model of a known family, got {model!r}: {nearest(model, names())}"
        )
    found: dict[str, Any] = tables["models"][model]
    return found


def known(model: object) -> bool:
    """Return whether the configuration of a hub id is known."""
    return str(model) in names()


def text_config(name: str) -> dict[str, Any]:
    """Return the configuration of a text encoder of families.toml."""
    return dict(_table()["texts"][name]["config"])


@cache
def text_weights(name: str) -> tuple[int, int]:
    """Return the numbers of weights of a text encoder: all, and those of its embeddings.

    The encoder is built with one and with two blocks, because all blocks are alike.

    Example:
        >>> all_weights, embeddings = text_weights("t5_xxl")
        >>> round(all_weights / 1e9, 2), embeddings == 32128 * 4096
        (4.76, True)
    """
    import transformers

    entry = _table()["texts"][name]
    kind, config = getattr(transformers, entry["class"]), entry["config"]
    key = "num_layers" if "num_layers" in config else "num_hidden_layers"
    sizes = []
    for blocks in (1, 2):
        with torch.device("meta"):
            built: Any = kind(kind.config_class(**config | {key: blocks}))
        sizes.append(sum(p.numel() for p in built.parameters()))
    one, two = sizes
    return one + (config[key] - 1) * (two - one), built.get_input_embeddings().weight.numel()


class Skeleton(Denoiser):
    """A backbone of a known family without weights, with few blocks if a number is given.

    `call` holds the arguments of the pipeline's call: height, width, num_frames and
    guidance_scale. Raises ValueError for a size that the decoder does not make.

    Example:
        >>> call = {"num_frames": 33, "height": 64, "width": 96}
        >>> made = Skeleton("Lightricks/LTX-Video", call, 2)
        >>> made.shape, len(made.network.transformer_blocks)
        ((128, 5, 2, 3), 2)
    """

    def __init__(
        self,
        model: str,
        call: Mapping[str, Any] | None = None,
        blocks: int = 0,
        dtype: torch.dtype = torch.float32,
        fps: float | None = None,
        decode_chunk: int = 1,
    ):
        self.entry = find(model)
        self.family: Family = FAMILIES[self.entry["family"]]
        self.dtype = dtype
        self.decode_chunk = decode_chunk
        call = call or {}
        self.guidance = float(call.get("guidance_scale", self.family.guidance))
        if self.entry["family"] == "flux":
            self.guidance = 1.0  # FLUX takes the scale of guidance as an input of one call
        frames = next((call[name] for name in FRAMES if name in call), self.family.size[0])
        self.size = tuple(
            int(call.get(k, n))
            for k, n in zip(("height", "width"), self.family.size[1:], strict=True)
        )
        self.path = self.family.path()
        self.fps = float(fps or call.get("frame_rate") or self.family.fps)
        self._resize(int(frames))
        self._build(blocks)

    def _resize(self, frames: int) -> None:
        """Set the shapes and the frame map of a clip."""
        space, time = int(self.entry.get("space", self.family.space)), self.family.time
        unit = space * self.family.patch
        for name, value in zip(("height", "width"), self.size, strict=True):
            if value < unit or value % unit:
                raise ValueError(f"expected {name} to be a multiple of {unit}, got {value}")
        if (frames - 1) % time or (time == 1 and frames != 1):
            wanted = "1, a picture" if time == 1 else f"{time} k + 1"
            raise ValueError(f"expected the number of frames to be {wanted}, got {frames}")
        latent = (frames - 1) // time + 1
        channels = int(self.entry["network"].get("in_channels", self.family.channels))
        self.shape = (channels, latent, self.size[0] // space, self.size[1] // space)
        self.clip_shape = (frames, 3, *self.size)
        self.frame_map = [(0, 1)] + [(time * (k - 1) + 1, time * k + 1) for k in range(1, latent)]

    @property
    def tokens(self) -> int:
        """The number of tokens of a clip in the network, without those of the text."""
        return prod(self.shape[1:]) // self.family.patch**2

    def _build(self, blocks: int) -> None:
        """Build the network and the decoder."""
        import diffusers

        config, whole = dict(self.entry["network"]), int(self.entry["network"]["num_layers"])
        if blocks:
            config["num_layers"] = blocks
            if "num_single_layers" in config:  # FLUX: two single blocks a double block
                config["num_single_layers"] = config["num_single_layers"] * blocks // whole
        with torch.device("meta"):
            self.network = getattr(diffusers, self.family.network)(**config)
            decoder = getattr(diffusers, self.family.decoder)
            self.decoder = decoder(
                **dict(self.family.decoder_config) | self.entry.get("decoder", {})
            )
        nn.Module.to(self.network, self.dtype)
        self.network.requires_grad_(False).eval()
        self.decoder.requires_grad_(False).eval()
        network: Any = self.network
        network.times_of_tokens = bool(self.entry.get("times_of_tokens"))

    def text_cost(self) -> tuple[float, float]:
        """Return the FLOPs of one prompt, two a weight and token, and the encoders' bytes."""
        flops = 0.0
        weights = 0.0
        for name, tokens in self.entry["texts"].items():
            total, embeddings = text_weights(name)
            flops += 2.0 * (total - embeddings) * tokens
            weights += float(total * self.dtype.itemsize)
        return flops, weights

    def encode(self, prompts: Sequence[str]) -> Cond:
        """Return the conditions of prompts, without numbers where the caller has none."""
        widths = self.family.widths
        names = ["", "negative "] if self.guidance != 1 else [""]
        return {
            prefix + key: torch.empty(len(prompts), *shape, dtype=self.dtype)
            for prefix in names
            for key, shape in widths.items()
        }

    def times(self, n: int) -> list[float]:
        """Return n + 1 even times; a call costs the same at each time."""
        return [1 - i / n for i in range(n)] + [0.0]

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the prediction with guidance, in two calls or in one of two rows."""
        with_text = {k: v for k, v in cond.items() if not k.startswith("negative ")}
        x = x.to(self.dtype)
        if self.guidance == 1:
            return self.family.predict(self.network, x, t, with_text).float()
        without = {k.removeprefix("negative "): v for k, v in cond.items() if k not in with_text}
        if self.family.guided_apart:
            first, second = (
                self.family.predict(self.network, x, t, part).float()
                for part in (with_text, without)
            )
        else:
            both = {k: torch.cat([without[k], v]) for k, v in with_text.items()}
            raw = self.family.predict(self.network, torch.cat([x, x]), torch.cat([t, t]), both)
            second, first = raw.float().chunk(2)
        return second + self.guidance * (first - second)

    def decode(self, latents: Tensor) -> Tensor:
        """Return clips (B, F, 3, H, W), float32."""
        pieces = []
        for piece in latents.float().split(self.decode_chunk):
            picture = self.family.time == 1
            clip = self.decoder.decode(piece[:, :, 0] if picture else piece, return_dict=False)[0]
            pieces.append(clip[:, :, None] if picture else clip)
        return (torch.cat(pieces).transpose(1, 2) / 2 + 0.5).clamp(0, 1)

    def load_lora(
        self, folder: Path, partial: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Return the weights and the LoraConfig arguments of a LoRA that fits the network."""
        found = lora.fitted(lora.read(folder), self.network, partial)
        return found.weights, found.config()

    @classmethod
    def tiny(cls) -> Skeleton:
        """Build two blocks of the smallest known model at a small size."""
        return cls("Lightricks/LTX-Video", {"num_frames": 9, "height": 64, "width": 64}, 2)
