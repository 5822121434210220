"""What the trainer needs of a generator, and nothing more.

Legend: B batch, C latent channels, L latent frames, h w latent height and width, F pixel
frames, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cached_property
from math import inf
from pathlib import Path as Folder

import torch
from torch import Tensor, nn

from vidrl.data.prompt import of
from vidrl.diffusion.path import Path
from vidrl.diffusion.segments import Span
from vidrl.rewards._scoring.checks import check_video
from vidrl.training.pieces import Pieces

Cond = dict[str, Tensor]  # conditioning by name, each (B, ...)
CACHE_BYTES = 4 * 2**30  # of conditions in host memory: about 1000 prompts of Wan in bfloat16


def without_autocast(device: torch.device) -> torch.autocast:
    """A context in which operations on a device run in the precision of their inputs, even
    inside autocast."""
    return torch.autocast(device.type, enabled=False)


class Generator(ABC):
    """Makes pixels out of noise under a condition; constructor arguments are its
    options."""

    network: nn.Module  # what is trained
    shape: tuple[int, ...]  # of one latent, (C, L, h, w)
    fps: float
    longer = "Shorten these prompts"  # the cure where `truncated` names prompts
    # the references of a prompt that `encode` reads, as ("image", "negative_prompt")
    reads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # those of them that every prompt must have
    # what a person must know before training of who reads the LoRA that is written
    adapter_notes: tuple[str, ...] = ()

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Cond:
        """The condition of each prompt, without gradient; a prompt may be a
        `vidrl.data.prompt.Prompt` with references."""

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise ValueError where a prompt has references that this family does not read, or
        lacks one that it needs.

        Example:
            >>> from vidrl.backbones.toy import Toy
            >>> from vidrl.data.prompt import Prompt
            >>> Toy.tiny().check_prompts([Prompt("a cat", {"image": "cat.png"})])
            Traceback (most recent call last):
            ValueError: expected prompts of text alone, which is what Toy reads, got 'a cat' with image: ...
        """
        name, reads = type(self).__name__, ", ".join(self.reads)
        for prompt in prompts:
            unread = [one for one in of(prompt) if one not in self.reads]
            missing = [one for one in self.needs if one not in of(prompt)]
            if unread:
                kinds = (
                    f"prompts with no references but {reads}" if reads else "prompts of text alone"
                )
                raise ValueError(
                    f"expected {kinds}, which is what {name} reads, got {str(prompt)[:60]!r} with "
                    f"{', '.join(unread)}: take these columns out of the prompt file, or use a backbone "
                    "that reads them"
                )
            if missing:
                raise ValueError(
                    f"expected prompts with {', '.join(self.needs)}, which {name} needs, got "
                    f"{str(prompt)[:60]!r} without {', '.join(missing)}: write the prompts into a "
                    f".jsonl, .csv or .parquet file with the columns prompt and {missing[0]}"
                )

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """The prompts whose end `encode` cuts off; a family whose text encoder has a length
        limit overrides this."""
        return []

    def encoding(self) -> AbstractContextManager[None]:
        """A context around several calls of `encode`: an offloaded text encoder stays on
        the device within."""
        return nullcontext()

    @abstractmethod
    def generate(self, noise: Tensor, cond: Cond) -> Tensor:
        """Latents (B, C, L, h, w) from noise, as the family's own sampler makes them."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Clips (B, F, 3, H, W) in [0, 1]; differentiable in the latents."""

    def decode_with(self, latents: Tensor, cond: Cond) -> Tensor:
        """The clips of latents that were made under a condition.

        A family whose decoder reads the condition too, as where a given first frame is put
        before the clip, overrides this; for the others it is `decode`.
        """
        return self.decode(latents)

    @classmethod
    @abstractmethod
    def tiny(cls) -> Generator:
        """A few thousand random weights of the same architecture, for tests; needs no
        file."""

    def noise(self, draws: Sequence[torch.Generator]) -> Tensor:
        """One unit Gaussian latent a generator, float32 (B, C, L, h, w): the same whatever
        the batch and the device."""
        created = [torch.randn(self.shape, generator=draw) for draw in draws]
        return (
            torch.stack(created) if created else torch.empty(0, *self.shape)
        )  # a process without rows

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Generator:
        """Move everything that computes; families with more than `network` extend it."""
        self.network.to(device)
        return self

    def save_lora(
        self, folder: Folder, weights: Mapping[str, Tensor], config: Mapping[str, object]
    ) -> None:
        """Write an adapter in the family's own format."""
        raise NotImplementedError(
            f"{type(self).__name__} has no adapter format: train it with policy.full = true"
        )

    def load_lora(
        self, folder: Folder, partial: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Weights and LoraConfig arguments of an adapter; ValueError, or with `partial` a
        warning, for misfits."""
        raise NotImplementedError(
            f"{type(self).__name__} has no adapter format: leave policy.lora empty"
        )


class Denoiser(Generator):
    """A generator by iterative denoising along a noise path."""

    path: Path
    frame_map: list[Span]  # of each latent frame, the pixel frames [start, end) that it stands for
    folder: Folder | None = None  # where its files lie, if they lie on this machine
    # what a person must know who compares its clips with those of another program
    notes: tuple[str, ...] = ()

    @abstractmethod
    def times(self, n: int) -> list[float]:
        """The n + 1 times, from at most 1 down to 0, that the family's own scheduler visits
        in n steps.

        Schedulers of straight paths begin at 1; those of trained levels may begin below, as
        Stable Diffusion's at 0.98.
        """

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The network's prediction at x_t (B, C, L, h, w) for times t (B,), guidance
        included."""

    @cached_property
    def clip_shape(self) -> tuple[int, ...]:
        """The shape (F, 3, H, W) of its clips, as one decode shows; a family that knows its
        size overrides this."""
        with torch.no_grad():
            return tuple(self.decode(torch.zeros(1, *self.shape, device=self.device)).shape[1:])

    @property
    def encodes_video(self) -> bool:
        """Whether `encode_video` works: whether the family has `latents_of`."""
        return type(self).latents_of is not Denoiser.latents_of

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """Latents (B, C, L, h, w), float32, of clips (B, F, 3, H, W), float in [0, 1] or
        uint8, of `clip_shape`.

        What `decode` turns into clips like these. The latents are the means of the encoder,
        so that the same clip has the same latents each time; they carry no gradient, and
        autocast does not lower their precision. Raises NotImplementedError for a family
        without an encoder, and ValueError for clips of another shape or range.

        Example:
            >>> from vidrl.backbones.toy import Toy
            >>> toy = Toy.tiny()
            >>> latents = toy.noise([torch.Generator().manual_seed(0)])
            >>> bool(torch.allclose(toy.encode_video(toy.decode(latents)), latents, atol=1e-4))
            True
        """
        self.check_encodes_video()
        finite = check_video(video, "video")
        if tuple(video.shape[1:]) != tuple(self.clip_shape):
            raise ValueError(
                f"expected clips (F, 3, H, W) of {tuple(self.clip_shape)}, as {type(self).__name__} makes "
                f"them, got {tuple(video.shape[1:])}: cut and shrink the clips to that"
            )
        if not bool(finite.all()):
            raise ValueError(
                f"expected finite clips, got NaN or infinity in clip {int(finite.all(1).int().argmin())}: "
                "leave it out"
            )
        scale = 255 if video.dtype == torch.uint8 else 1
        with without_autocast(self.device):
            return self.latents_of(video.to(self.device, torch.float32) / scale).float()

    def check_encodes_video(self) -> None:
        """Raise NotImplementedError where the family has no video encoder."""
        if not self.encodes_video:
            raise NotImplementedError(
                f"expected a backbone that turns clips into latents, got {type(self).__name__}, "
                "which has no video encoder: use the backbone wan, or give the class a method "
                "latents_of(video), clips (B, F, 3, H, W) in [0, 1] to latents"
            )

    def latents_of(self, video: Tensor) -> Tensor:
        """Latents of float32 clips in [0, 1] on the device; a family with a video encoder
        overrides this."""
        raise NotImplementedError

    def ready(self) -> None:
        """Raise what `predict` would raise on this device, with or without gradient and
        autocast as they are now."""

    def generate(self, noise: Tensor, cond: Cond, steps: int = 20) -> Tensor:
        """The deterministic sampler."""
        from vidrl.diffusion.transition import step

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
    """Encodes each prompt once, alone and outside autocast, and keeps its condition in host
    memory.

    Prompts of one text with different references are different prompts. At most `limit`
    bytes are kept: the prompt that was used longest ago goes first. A tensor that is equal
    for several prompts, as the embedding of the negative prompt is, is kept once.

    Example:
        >>> from vidrl.backbones.toy import Toy
        >>> cache = PromptCache(Toy.tiny())
        >>> cache.learn(["a cat", "a dog"])
        >>> len(cache.kept), len(cache(["a dog", "a cat", "a dog"])["text"])
        (2, 3)
    """

    def __init__(self, backbone: Generator, limit: int = CACHE_BYTES):
        self.backbone, self.limit = backbone, limit
        self.kept = OrderedDict[str, Cond]()  # the prompt that was used last stands last
        # the tensors of the first prompt: later tensors that equal these are not kept again
        self.first: Cond = {}
        self.bytes = 0
        cure = "set backbone.options.offload_text = true, or use a device of more memory"
        self._one_at_a_time = Pieces(1, "encoding one prompt", cure)

    def __call__(self, prompts: Sequence[str]) -> Cond:
        """The condition of each prompt, on the backbone's device."""
        parts = self._cached(prompts)
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in parts]
        parts |= self._one_at_a_time.attempt(1, lambda _: self._encode_new(new))
        each = [parts[prompt] for prompt in prompts]
        return {
            name: self._batch([part[name] for part in each], len(parts) > 1) for name in each[0]
        }

    def learn(self, prompts: Sequence[str]) -> None:
        """Encode prompts in advance, as many as `limit` holds, while the text encoder is on
        the device once.

        A prompt that cannot be encoded, and all after it, are left to the later call of
        `encode`, which raises.
        """
        old = self._cached(prompts)
        kept_anyway = [
            *self.first.values(),
            *(value for cond in old.values() for value in self._unshared(cond)),
        ]
        room = self.limit - sum(value.nbytes for value in kept_anyway)
        with suppress(Exception):
            self._encode_new(
                [prompt for prompt in dict.fromkeys(prompts) if prompt not in old], room
            )

    def _cached(self, prompts: Sequence[str]) -> dict[str, Cond]:
        """The conditions that are kept of these prompts, marked as used last."""
        found = {
            prompt: self.kept[prompt] for prompt in dict.fromkeys(prompts) if prompt in self.kept
        }
        for prompt in found:
            self.kept.move_to_end(prompt)
        return found

    def _encode_new(self, prompts: Sequence[str], room: float = inf) -> dict[str, Cond]:
        """Encode and keep prompts in one visit of the text encoder, until the next would
        take more than `room` bytes.

        Each is encoded alone: the last bits of a condition must not depend on what it was
        encoded with, so that a resumed run has the same ones.
        """
        created: dict[str, Cond] = {}
        if not prompts:
            return created
        self.backbone.check_prompts(prompts)
        with self.backbone.encoding(), without_autocast(self.backbone.device):
            for prompt in prompts:
                cond = self.backbone.encode([prompt])
                created[prompt] = self._keep(
                    prompt, {name: value.detach().cpu() for name, value in cond.items()}
                )
                room -= self._unshared_bytes(created[prompt])
                if room < self._unshared_bytes(created[prompt]):
                    break
        return created

    def _keep(self, prompt: str, cond: Cond) -> Cond:
        if not self.first:
            self.first, self.bytes = cond, sum(value.nbytes for value in cond.values())
        cond = {name: self._shared_or_new(name, value) for name, value in cond.items()}
        self.kept[prompt] = cond
        self.bytes += self._unshared_bytes(cond)
        while self.kept and self.bytes > self.limit:
            self.bytes -= self._unshared_bytes(self.kept.popitem(last=False)[1])
        return cond

    def _shared_or_new(self, name: str, value: Tensor) -> Tensor:
        """The first prompt's tensor of that name, where it equals this one."""
        first = self.first.get(name)
        alike = first is not None and first.shape == value.shape and first.dtype == value.dtype
        return first if alike and torch.equal(first, value) else value  # type: ignore[return-value, arg-type]

    def _unshared(self, cond: Cond) -> list[Tensor]:
        return [value for name, value in cond.items() if value is not self.first.get(name)]

    def _unshared_bytes(self, cond: Cond) -> int:
        return sum(value.nbytes for value in self._unshared(cond))

    def _batch(self, values: Sequence[Tensor], several: bool) -> Tensor:
        """One tensor (B, ...) on the device; what several prompts share is there once, and
        expanded."""
        if several and all(value is values[0] for value in values):
            return values[0].to(self.backbone.device).expand(len(values), *values[0].shape[1:])
        return torch.cat(list(values)).to(self.backbone.device)
