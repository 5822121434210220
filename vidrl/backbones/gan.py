"""Any generator of torch as a policy of one step: a Gaussian over its latent, learned by prompt.

Legend: B batch, C codes of a latent frame, L latent frames, h w latent height and width, F pixel
frames, D numbers of a prompt's words. A latent of fewer axes has h = w = 1, or L = 1.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidrl import lora, plugin
from vidrl.diffusion.learned_gaussian import learned
from vidrl.diffusion.path import exact
from vidrl.lora import writing

from ._hashed_words import WIDTH, hashed_words
from ._layered_gan import LayeredGan
from .base import Cond, Denoiser

WEIGHTS, SHAPE = "generator.safetensors", "generator.json"
PROBES = 3  # latents with which a generator is checked
TOLERANCE = 1e-3  # of a pixel: what a clip may exceed [0, 1], and what a neighbour may change


class LatentPolicy(nn.Module):
    """A linear map from a prompt's words to the mean and the log-scale of each number of a latent.

    Each word adds its own part, so that what was learned of a word holds in prompts that were not
    trained on. A new map gives mean 0 and log-scale 0: the latents that the generator knows.
    """

    def __init__(self, shape: Sequence[int], log_scale: float):
        super().__init__()
        self.shape, self.log_scale = tuple(shape), log_scale
        self.out = nn.Linear(WIDTH, 2 * prod(shape))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, text: Tensor) -> Tensor:
        """Return mean and log-scale, joined along the codes, (B, 2C, L, h, w)."""
        found = self.out(text).unflatten(1, (2, *self.shape))
        bound = self.log_scale
        scale = bound * torch.tanh(found[:, 1] / bound) if bound else 0 * found[:, 1]
        return torch.cat([found[:, 0], scale], 1)


class Gan(Denoiser):
    """A generator of torch, with a Gaussian over its latent that is learned by prompt.

    The policy draws z ~ N(μ(c), σ(c)²) in one step, so that `algorithm.options.steps = 1` and
    `eta = 1` are the natural options; its log-density is exact, and a sum over latent frames.
    Algorithms on sampled steps, as grpo, train the Gaussian alone: the generator is deterministic
    behind it. reward_backprop trains the generator as well, by LoRA or with policy.full.

    Options:
    - `model`: a folder as assets/tiny-gan, or `package.module:NAME`, a `torch.nn.Module` or what
      returns one when it is called. NAME is called with a latent and, if its forward takes a second
      argument, with the condition: what its own method `encode(prompts)` returned, (B, ...), else
      the prompt's words as 96 numbers. It returns clips (B, F, 3, H, W) or images (B, 3, H, W).
    - `latent`: the shape of one latent, [C], [C, L], [C, h, w] or [C, L, h, w]; the generator's own
      attribute `latent` if empty. Of two axes, the second is time. F must be a multiple of L.
    - `signed`: the pixels are in [−1, 1], not in [0, 1].
    - `log_scale`: |log σ| stays below it: 2 allows scales from 0.14 to 7.4, and with 0 the mean
      alone is learned.
    - `fps` of the clips.

    A generator is refused with ValueError if it has no latent, if its latent does not change the
    clip, if the clip has another shape or range, or if a clip depends on the others of its batch.
    """

    calls_depend_on = "rows"

    def __init__(
        self,
        model: str = "assets/tiny-gan",
        latent: list[int] | None = None,
        signed: bool = False,
        fps: float = 8.0,
        log_scale: float = 2.0,
    ):
        if log_scale < 0:
            raise ValueError(
                f"backbone.options.log_scale: expected a number from 0, got {log_scale}"
            )
        generator = _found(model).eval()
        self.name, self.own = model, _latent_of(generator, latent, model)
        self.shape, self.path = _as_video(self.own), learned()
        self.signed, self.fps = signed, fps
        self.network = nn.ModuleDict(
            {"latent": LatentPolicy(self.shape, log_scale), "generator": generator}
        )
        self.reads_text = _arguments(generator) > 1
        self.clip_shape = self._checked()
        frames, each = self.clip_shape[0], self.clip_shape[0] // self.shape[1]
        self.frame_map = [(start, start + each) for start in range(0, frames, each)]

    @classmethod
    def tiny(cls) -> Gan:
        """Build the architecture of assets/tiny-gan, narrow and with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = cls(f"{__name__}:_tiny")
            nn.init.normal_(built.network.get_parameter("latent.out.weight"), std=0.1)
        return built

    def encode(self, prompts: Sequence[str]) -> Cond:
        """Return {"text": (B, 96)}, and the generator's own "condition" if it encodes prompts."""
        self.check_prompts(prompts)
        text, own = hashed_words(prompts).to(self.device), self._encoder()
        if own is None:
            return {"text": text}
        with torch.no_grad():
            condition = own(list(prompts))
        if not isinstance(condition, Tensor) or len(condition) != len(prompts):
            raise ValueError(
                f"expected a tensor with a row for each of {len(prompts)} prompts from the method "
                f"encode of {self.name}, got {_described(condition)}: correct it"
            )
        return {"text": text, "condition": condition.to(self.device)}

    def times(self, n: int) -> list[float]:
        """Return n + 1 even times; the latent is drawn in one step, and others do not change it."""
        if n < 1:
            raise ValueError(f"expected at least one step, got {n}: set it to 1")
        return torch.linspace(1, 0, n + 1, dtype=torch.float64).tolist()

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the mean and the log-scale of the latent, (B, 2C, L, h, w)."""
        return exact(self.network.get_submodule("latent")(cond["text"]))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the clips of an empty prompt."""
        return self.decode_with(latents, self.encode([""] * len(latents)))

    def decode_with(self, latents: Tensor, cond: Cond) -> Tensor:
        """Return clips (B, F, 3, H, W) in [0, 1], with gradient by the generator's weights too."""
        return self._made(latents, cond).clamp(0, 1)

    def save_lora(
        self, folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, object]
    ) -> None:
        """Write the adapter in peft's format: adapter_model.safetensors and adapter_config.json."""
        writing.folder(weights, config, "peft", Path(folder))

    def load_lora(
        self, folder: Path, partial: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Return the weights and the LoraConfig arguments of an adapter that `save_lora` wrote.

        Raises ValueError for parts that do not fit; with `partial` these are left out.
        """
        found = lora.fitted(lora.read(folder), self.network, partial)
        return found.weights, found.config()

    def _encoder(self) -> Any:
        """Return the generator's own method `encode`, None if it has none or reads no condition."""
        return (
            getattr(self.network.get_submodule("generator"), "encode", None)
            if self.reads_text
            else None
        )

    def _made(self, latents: Tensor, cond: Cond) -> Tensor:
        """Return what the generator makes, as clips in its own range, (B, F, 3, H, W)."""
        given = [cond.get("condition", cond["text"])] if self.reads_text else []
        made = self.network.get_submodule("generator")(latents.reshape(-1, *self.own), *given)
        made = made[:, None] if isinstance(made, Tensor) and made.dim() == 4 else made
        return (made + 1) / 2 if self.signed else made

    @torch.no_grad()
    def _checked(self) -> tuple[int, ...]:
        """Return the shape of a clip; raise ValueError for a generator that cannot be a policy."""
        z = self.noise([torch.Generator().manual_seed(i) for i in range(PROBES)]).to(self.device)
        cond = self.encode([""] * PROBES)
        try:
            clips = self._made(z, cond)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"expected a generator that takes latents {(PROBES, *self.own)}, got an error of "
                f"{self.name} ({type(error).__name__}: {str(error)[:200]}): set "
                "backbone.options.latent to the shape of one latent"
            ) from error
        self._check_clips(clips)
        alone = self._made(z[:1], {name: value[:1] for name, value in cond.items()})
        if not torch.allclose(alone, clips[:1], atol=TOLERANCE):
            raise ValueError(
                f"expected clips that depend on their own latents alone, got others from "
                f"{self.name} in a batch of three than alone: replace its batch "
                "normalisation, or its noise"
            )
        return tuple(clips.shape[1:])

    def _check_clips(self, clips: object) -> None:
        """Raise ValueError for clips of a wrong shape or range, or that ignore the latent."""
        is_clip = isinstance(clips, Tensor) and clips.dim() == 5 and clips.shape[2] == 3
        if not is_clip or len(clips) != PROBES or clips.shape[1] % self.shape[1]:  # type: ignore
            raise ValueError(
                f"expected clips ({PROBES}, F, 3, H, W) with F a multiple of the {self.shape[1]} "
                f"latent frames, or images ({PROBES}, 3, H, W), from {self.name}, got "
                f"{_described(clips)}: let its forward return that"
            )
        assert isinstance(clips, Tensor)
        low, high = float(clips.min()), float(clips.max())
        if not -TOLERANCE <= low <= high <= 1 + TOLERANCE:  # NaN fails too
            signed = "it" if self.signed else "backbone.options.signed = true for pixels in [−1, 1]"
            raise ValueError(
                f"expected pixels in [0, 1] from {self.name}, got {low:.3g} to {high:.3g}: set "
                f"{signed}, or end the generator with a sigmoid"
            )
        if bool((clips == clips[:1]).all()):
            raise ValueError(
                f"expected clips that differ with the latent, got {PROBES} equal ones from "
                f"{self.name}: a generator without a latent has nothing to learn from noise; let "
                "its forward read its first argument"
            )


def _tiny() -> nn.Module:
    return LayeredGan(content=4, motion=2, frames=4, width=16)


def _found(model: str) -> nn.Module:
    """Return the generator of a folder, or of `package.module:NAME`."""
    if ":" not in model:
        return _of_folder(Path(model))
    found = plugin.import_object(model)
    if not isinstance(found, nn.Module) and callable(found):
        found = found()
    if not isinstance(found, nn.Module):
        raise ValueError(
            f"backbone.options.model: expected a torch.nn.Module, or what returns one without "
            f"arguments, for {model}, got {_described(found)}: name such a class, function or "
            "object"
        )
    return found


def _of_folder(folder: Path) -> nn.Module:
    """Return the generator of a folder that scripts/pretrain_gan.py wrote."""
    from safetensors.torch import load_file

    missing = [name for name in (SHAPE, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"backbone.options.model: expected a folder with {SHAPE} and {WEIGHTS}, got {folder} "
            f"without {' and '.join(missing)}: use assets/tiny-gan, or name your own generator "
            "as package.module:NAME"
        )
    generator = LayeredGan(**json.loads((folder / SHAPE).read_text(encoding="utf-8")))
    generator.load_state_dict(load_file(folder / WEIGHTS))
    return generator


def _latent_of(generator: nn.Module, given: Sequence[int] | None, model: str) -> tuple[int, ...]:
    """Return the shape of one latent as the generator takes it; raise ValueError for none."""
    found = given or getattr(generator, "latent", None)
    whole = isinstance(found, (list, tuple)) and all(isinstance(n, int) and n > 0 for n in found)
    if not whole or not 1 <= len(found) <= 4:  # type: ignore[arg-type]
        raise ValueError(
            f"backbone.options.latent: expected the shape of the latent of {model}, one to four "
            f"numbers above 0, got {found or 'none'}: set it, as [128], or give the "
            "generator an attribute latent"
        )
    return tuple(found)  # type: ignore[arg-type]


def _as_video(own: tuple[int, ...]) -> tuple[int, ...]:
    """Return a latent's shape as (C, L, h, w).

    >>> _as_video((8,)), _as_video((8, 4)), _as_video((8, 16, 16))
    ((8, 1, 1, 1), (8, 4, 1, 1), (8, 1, 16, 16))
    """
    return own if len(own) == 4 else (own[0], 1, *own[1:]) if len(own) == 3 else _padded(own)


def _padded(own: tuple[int, ...]) -> tuple[int, ...]:
    return (*own, *[1] * (4 - len(own)))


def _arguments(generator: nn.Module) -> int:
    """Return how many positional arguments the generator's forward takes."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(generator.forward).parameters.values()
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def _described(found: object) -> str:
    """Return a tensor's shape, or the type of anything else."""
    return str(tuple(found.shape)) if isinstance(found, Tensor) else type(found).__name__
