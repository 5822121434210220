"""The interface between a generator and the trainer: what a backbone must define, and no more.

A backbone is a subclass of `Denoiser` (or of `Generator`, for a model without a noise path)
in a file of this folder. It must define `encode`, `times`, `predict`, `decode` and `tiny`,
and set the attributes `network`, `shape`, `fps`, `path` and `frame_map`. The other methods
have defaults.

Legend: B batch, C latent channels, L latent frames, h w latent height and width, F pixel
frames, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cached_property
from math import inf
from pathlib import Path as Folder
from typing import Literal

import torch
from torch import Tensor, nn

from vidrl.data.prompt import of
from vidrl.diffusion.path import Path
from vidrl.diffusion.segments import Span
from vidrl.rewards._scoring.checks import check_video
from vidrl.training.pieces import Pieces

from ._attention import AttentionSwitch

Cond = Mapping[str, Tensor]  # conditioning by name, each (B, ...)
# the entry of the condition of a chunk: 1 where it follows another chunk, 0 for a first chunk
FOLLOWS = "follows"
# The bytes of conditions that a PromptCache keeps in host memory: about 1000 prompts of Wan in
# bfloat16.
CACHE_BYTES = 4 * 2**30


def without_autocast(device: torch.device) -> torch.autocast:
    """Return a context in which autocast is off on a device.

    Operations then run in the precision of their inputs, even inside an enclosing autocast.
    """
    return torch.autocast(device.type, enabled=False)


class Generator(ABC):
    """A generator makes pixels from noise under a condition; its constructor takes its options."""

    network: nn.Module  # what is trained
    shape: tuple[int, ...]  # of one latent, (C, L, h, w)
    fps: float
    # what a person should do about the prompts that `truncated` returns; ends a warning
    longer = "Shorten these prompts"
    # the references of a prompt that `encode` reads, for example ("image", "negative_prompt")
    reads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # the references in `reads` that every prompt must have
    # three texts that `tiny()` can encode, for the tests of all backbones: a family whose prompts
    # have a grammar, such as actions, names others
    examples: tuple[str, ...] = ("a red circle moves left", "a blue cross", "still")
    # shown before training: which programs cannot read the LoRA that will be written
    adapter_notes: tuple[str, ...] = ()
    # the option that lets a LoRA alone be trained, as quantised weights; "" where there is none
    only_lora: str = ""
    # whether `drop_encoders` is to be called once all prompts of a run are encoded
    drops_encoders: bool = False

    @classmethod  # noqa: B027  most families have nothing to check
    def check_options(cls, options: Mapping[str, object]) -> None:
        """Raise for values of options that cannot work here, before a model is read.

        `options` are those of a run that trains; their names and types are checked already. The
        default checks nothing.
        """

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Cond:
        """Return the condition of each prompt: named tensors (B, ...), without gradient.

        The keys are the backbone's own; the trainer only takes rows of the tensors
        (`rows`), moves them between devices, and hands them back to `predict` and
        `decode_with`. A row must depend on its own prompt alone, since conditions are
        cached prompt by prompt. A prompt may be a `vidrl.data.prompt.Prompt` with
        references, such as an image. Call `check_prompts` first: this method raises
        ValueError for references that the family does not read.
        """

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise ValueError if a prompt has a reference that is not read, or lacks a needed one.

        Example:
            >>> from vidrl.backbones.toy import Toy
            >>> from vidrl.data.prompt import Prompt
            >>> Toy.tiny().check_prompts([Prompt("a cat", {"image": "cat.png"})])
            Traceback (most recent call last):
            ValueError: expected prompts of text alone, which is what Toy reads, got ...
        """
        name, reads = type(self).__name__, ", ".join(self.reads)
        for prompt in prompts:
            unread = [kind for kind in of(prompt) if kind not in self.reads]
            missing = [kind for kind in self.needs if kind not in of(prompt)]
            if unread:
                kinds = (
                    f"prompts with no references but {reads}" if reads else "prompts of text alone"
                )
                raise ValueError(
                    f"expected {kinds}, which is what {name} reads, got {str(prompt)[:60]!r} "
                    f"with {', '.join(unread)}: take these columns out of the prompt file, or "
                    "use a backbone that reads them"
                )
            if missing:
                raise ValueError(
                    f"expected prompts with {', '.join(self.needs)}, which {name} needs, got "
                    f"{str(prompt)[:60]!r} without {', '.join(missing)}: write the prompts into a "
                    f".jsonl, .csv or .parquet file with the columns prompt and {missing[0]}"
                )

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts whose end `encode` cuts off at the text encoder's limit.

        The default returns none; a family with a length limit overrides this method.
        """
        return []

    def encoding(self, device: torch.device | None = None) -> AbstractContextManager[None]:
        """Return a context around several calls of `encode`.

        Within the context an offloaded text encoder stays on the device, so that the
        encoder is moved once and not once for each prompt. `device` None is the network's.
        With another device the encoders compute there while the network stays where it is.
        """
        return nullcontext()

    def drop_encoders(self) -> None:  # noqa: B027  most families keep them
        """Free the text encoders; afterwards a prompt that was not encoded is an error.

        The default frees nothing.
        """

    @abstractmethod
    def generate(self, noise: Tensor, cond: Cond) -> Tensor:
        """Return latents (B, C, L, h, w) that the family's sampler makes of unit noise."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return clips (B, F, 3, H, W) in [0, 1] from latents (B, C, L, h, w).

        The result must be differentiable in the latents: rewards with a gradient are
        trained through this method. Each clip must depend on its own latents alone.
        """

    def decode_with(self, latents: Tensor, cond: Cond) -> Tensor:
        """Return the clips of latents that were generated under a condition.

        The default ignores the condition and calls `decode`. A family whose decoder reads
        the condition overrides this method, for example where a conditioning frame is put
        before the clip.
        """
        return self.decode(latents)

    @classmethod
    @abstractmethod
    def tiny(cls) -> Generator:
        """Build the same architecture with a few thousand random weights, for tests."""

    def noise(self, draws: Sequence[torch.Generator]) -> Tensor:
        """Return unit Gaussian latents (B, C, L, h, w), float32, one for each random generator.

        A latent depends on its own generator alone: not on the batch, and not on the
        device, since the numbers are drawn on the CPU.
        """
        created = [torch.randn(self.shape, generator=draw) for draw in draws]
        # `torch.stack` refuses an empty list, which a process without rows passes
        return torch.stack(created) if created else torch.empty(0, *self.shape)

    @property
    def device(self) -> torch.device:
        """The device on which the network's weights are."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Generator:
        """Move all modules that compute; a family with further modules extends this method."""
        self.network.to(device)
        return self

    def save_lora(
        self, folder: Folder, weights: Mapping[str, Tensor], config: Mapping[str, object]
    ) -> None:
        """Write an adapter in the family's format: peft's tensors and LoraConfig arguments.

        The default raises NotImplementedError.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no adapter format: train it with policy.full = true"
        )

    def load_lora(
        self, folder: Folder, partial: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Return the weights and the LoraConfig arguments of an adapter file or folder.

        Raises ValueError for parts that do not fit the network; with `partial` these are
        left out with a warning. The default raises NotImplementedError.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no adapter format: leave policy.lora empty"
        )


class Denoiser(Generator):
    """A generator that denoises in steps along a noise path x_t = α_t x0 + σ_t ε."""

    path: Path
    frame_map: list[Span]  # for each latent frame, the pixel frames [start, end) decoded from it
    folder: Folder | None = None  # the model's folder, if it is on this machine
    # shown before training: why clips of another program may differ from this backbone's
    notes: tuple[str, ...] = ()
    # What decides how often, and in which order, `predict` calls which network: "rows" (only how
    # many rows there are), "times" (also how many different times they have), or "time" (also
    # which times, as where one network is for early times and another for late ones). Processes
    # that share the weights cut their micro-batches accordingly (`vidrl.training.lockstep`).
    calls_depend_on: Literal["rows", "times", "time"] = "time"
    # How many chunks a clip is made of, one after the other; the latents of a clip then have
    # `chunks` times the latent frames of a chunk. Such a backbone defines `following`,
    # `chunk_noise` and, for the latents of a chunk, `predict`.
    chunks: int = 1
    # the kernels of attention, for a family whose options choose them
    attention_switch: AttentionSwitch | None = None

    @abstractmethod
    def times(self, n: int) -> list[float]:
        """Return the n + 1 falling times, the last one 0, of the family's own scheduler.

        Times are in [0, 1]: 1 is pure noise, 0 a clean latent. Schedulers of straight paths
        begin at 1; schedulers of trained levels may begin below 1, as Stable Diffusion's at
        0.98. Raises ValueError for n < 1.
        """

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the network's prediction at x_t, guidance included, in the shape of x.

        `x`: latents (B, C, L, h, w) at the times `t` (B,); rows may have different times.
        `cond`: what `encode` returned. The prediction is ε, v, x0 or the velocity ε − x0,
        as `path` declares, in float32 or the network's precision. With gradients enabled
        the result carries the gradient of the weights.
        """

    @cached_property
    def clip_shape(self) -> tuple[int, ...]:
        """The shape (F, 3, H, W) of a clip; the default decodes zeros once to find it."""
        with torch.no_grad():
            return tuple(self.decode(torch.zeros(1, *self.shape, device=self.device)).shape[1:])

    def continuation(self, history: int) -> Continuation:
        """Return how this family continues a clip after the last `history` frames of it.

        Raises ValueError for a family that cannot, which is the default.
        """
        raise _cannot_continue(type(self).__name__)

    @classmethod
    def check_continuation(cls, options: Mapping[str, object], history: int) -> None:
        """Raise ValueError where a model of these options cannot continue a clip.

        Nothing of the model but its index is read.
        """
        if cls.continuation is Denoiser.continuation:
            raise _cannot_continue(cls.__name__)

    def following(self, cond: Cond, before: Tensor | None) -> Cond:
        """Return the condition of a chunk that follows the latents `before` of a chunk.

        `cond` is the condition of the chunk before. Without `before`, `cond` is what `encode`
        returned, and the result is the condition of a clip's first chunk. The result has the
        entries of `encode` unchanged, and further ones on their device.
        """
        raise NotImplementedError(f"{type(self).__name__} makes a clip in one piece")

    def chunk_noise(self, draws: Sequence[torch.Generator]) -> Tensor:
        """Return unit noise of one chunk for each random generator; see `noise`."""
        return self.noise(draws)

    @property
    def encodes_video(self) -> bool:
        """Whether `encode_video` works, which is whether the family defines `latents_of`."""
        return type(self).latents_of is not Denoiser.latents_of

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """Return latents (B, C, L, h, w), float32, of clips (B, F, 3, H, W).

        Clips are of `clip_shape`, float in [0, 1] or uint8. The latents are the means of
        the encoder, so that a clip has the same latents each time; they carry no gradient,
        and autocast does not lower their precision. Raises NotImplementedError for a family
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
                f"expected clips (F, 3, H, W) of {tuple(self.clip_shape)}, as "
                f"{type(self).__name__} makes them, got {tuple(video.shape[1:])}: cut and shrink "
                "the clips to that"
            )
        if not bool(finite.all()):
            raise ValueError(
                "expected finite clips, got NaN or infinity in clip "
                f"{int(finite.all(1).int().argmin())}: leave it out"
            )
        scale = 255 if video.dtype == torch.uint8 else 1
        with without_autocast(self.device):
            return self.latents_of(video.to(self.device, torch.float32) / scale).float()

    def check_encodes_video(self) -> None:
        """Raise NotImplementedError if the family has no video encoder."""
        if not self.encodes_video:
            raise NotImplementedError(
                f"expected a backbone that turns clips into latents, got {type(self).__name__}, "
                "which has no video encoder: use the backbone wan, or give the class a method "
                "latents_of(video), clips (B, F, 3, H, W) in [0, 1] to latents"
            )

    def latents_of(self, video: Tensor) -> Tensor:
        """Return the latents of float32 clips in [0, 1] that are on the device.

        A family with a video encoder overrides this method; `encode_video` checks the clips
        and then calls this method.
        """
        raise NotImplementedError

    def ready(self) -> None:
        """Raise the errors of the first `predict` early, on this device and with this autocast.

        The trainer calls this method before any work. The default checks nothing.
        """

    def generate(self, noise: Tensor, cond: Cond, steps: int = 20) -> Tensor:
        """Sample deterministically (the sampler "ode") in `steps` steps from x_1 = noise."""
        from vidrl.diffusion.transition import step

        x, times = noise.to(self.device), self.times(steps)
        for t, s in zip(times[:-1], times[1:], strict=True):
            t_of_rows = torch.full((len(x),), t, device=x.device)
            x = step(self.path, "ode", self.predict(x, t_of_rows, cond), x, t, s).mean
        return x


class Continuation(ABC):
    """A continuation makes latent frames that follow earlier ones; a backbone may offer one.

    `frame_map` has, for each latent frame of a chunk that follows another one, the pixel frames
    [start, end) after the end of the chunk before.
    """

    frame_map: list[Span]
    encodes_video = False  # whether the family encodes clips of all chunks at once
    unread: tuple[str, ...] = ()  # references that the base reads, and chunks would not

    @abstractmethod
    def condition(self, cond: Cond, before: Tensor) -> Cond:
        """Return what a chunk reads of the latents `before` of the chunk before it, (B, ...).

        `cond` is the condition of the chunk before; the result has the entries to be added,
        under names that `encode` does not use, on any device.
        """

    @abstractmethod
    def absent(self, count: int) -> Cond:
        """Return entries of the same names and shapes for `count` first chunks of clips.

        Nothing comes before a first chunk, so that no method reads the values.
        """

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return `Denoiser.predict` of chunks x_t whose condition has those entries."""

    @abstractmethod
    def decode(self, chunks: Sequence[Tensor], cond: Cond | None) -> Tensor:
        """Return the clips of the latents of successive chunks, with gradient.

        `cond` is the condition of the prompts, None where the family's decoder reads none.
        """

    def check_length(self, latents: int) -> None:  # noqa: B027  most families have no limit
        """Raise ValueError for chunks that are too long for the network."""

    def notes(self, latents: int) -> tuple[str, ...]:
        """Return what a user should know of chunks of `latents` latent frames before training."""
        return ()


def _cannot_continue(name: str) -> ValueError:
    """Return the error for a family that makes each clip in one piece."""
    return ValueError(
        f"expected a backbone that can continue a clip, got {name}, which takes no earlier "
        "frames: use wan, or pipeline with a pipeline that takes an image"
    )


def is_hub_id(model: str | Folder) -> bool:
    """Return whether the name of a model can be a hub id, owner/name, and not a mistyped folder.

    A name whose first part is a folder here, as `assets/tiny-wam`, is meant as a folder: the hub
    is not asked, which would take long where there is no network.

    >>> is_hub_id("Wan-AI/Wan2.1-T2V-1.3B-Diffusers"), is_hub_id("models/wan/1.3b")
    (True, False)
    """
    owner, _, name = str(model).partition("/")
    return bool(name) and "/" not in name and not Folder(owner).is_dir()


class SharedCond(Mapping[str, Tensor]):
    """The conditions of samples, of which several have one prompt: each prompt's is kept once.

    `table` holds the conditions of the prompts, each (P, ...), and `row` (B,) the place of
    each sample's prompt in the table. Reading a tensor by its name repeats the rows, so read
    it for a few samples at a time (`rows`, `on`). `own` has what differs between the samples
    of a prompt, each (B, ...).

    Example:
        >>> shared = SharedCond({"text": torch.tensor([5.0, 7.0])}, torch.tensor([0, 0, 1]))
        >>> shared["text"], rows(shared, slice(1, 3))["text"]
        (tensor([5., 5., 7.]), tensor([5., 7.]))
    """

    def __init__(self, table: Cond, row: Tensor, own: Cond | None = None):
        self.table, self.row = table, row
        self.own = own or {}

    def __getitem__(self, name: str) -> Tensor:
        return self.own[name] if name in self.own else self.table[name][self.row]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.table, **self.own})

    def __len__(self) -> int:
        return len({**self.table, **self.own})


def rows(cond: Cond, index: Tensor | slice) -> Cond:
    """Return some rows of a condition.

    Example:
        >>> rows({"text": torch.arange(3)}, torch.tensor([2, 2]))
        {'text': tensor([2, 2])}
    """
    if isinstance(cond, SharedCond):
        return SharedCond(cond.table, cond.row[index], rows(cond.own, index))
    return {name: value[index] for name, value in cond.items()}


def size_and_device(cond: Cond) -> tuple[int, torch.device]:
    """Return how many rows a condition has, and the device of its tensors.

    Raises ValueError for a condition without tensors, which has neither.

    Example:
        >>> size_and_device({"text": torch.zeros(3, 8)})
        (3, device(type='cpu'))
    """
    if isinstance(cond, SharedCond):
        return len(cond.row), cond.row.device
    if not cond:
        raise ValueError("expected a condition of one tensor or more, got none: encode prompts")
    first = next(iter(cond.values()))
    return len(first), first.device


def extended(cond: Cond, added: Cond) -> Cond:
    """Return a condition with more entries, or with others in place of those of the same name.

    Example:
        >>> extended({"text": torch.arange(2)}, {"chunk": torch.zeros(2)})
        {'text': tensor([0, 1]), 'chunk': tensor([0., 0.])}
    """
    if isinstance(cond, SharedCond):
        return SharedCond(cond.table, cond.row, {**cond.own, **added})
    return {**cond, **added}


def stacked(conds: Sequence[Cond]) -> Cond:
    """Return the rows of several conditions of the same prompts, one after the other.

    Example:
        >>> stacked([{"chunk": torch.zeros(1)}, {"chunk": torch.ones(1)}])
        {'chunk': tensor([0., 1.])}
    """
    first = conds[0]
    if isinstance(first, SharedCond):
        shared = [cond for cond in conds if isinstance(cond, SharedCond)]
        own = stacked([cond.own for cond in shared])
        return SharedCond(first.table, torch.cat([cond.row for cond in shared]), own)
    return {name: torch.cat([cond[name] for cond in conds]) for name in first}


def on(cond: Cond, device: torch.device) -> Cond:
    """Return the tensors of a condition on a device.

    Example:
        >>> on(SharedCond({"text": torch.tensor([5.0])}, torch.tensor([0, 0])), torch.device("cpu"))
        {'text': tensor([5., 5.])}
    """
    return {name: value.to(device) for name, value in cond.items()}


class PromptCache:
    """A cache that encodes each prompt once and keeps the condition in host memory.

    Prompts of one text with different references are different prompts. At most `limit`
    bytes are kept: the prompt that was used longest ago is dropped first. A tensor that is
    equal for several prompts, such as the embedding of the negative prompt, is kept once.

    Example:
        >>> from vidrl.backbones.toy import Toy
        >>> cache = PromptCache(Toy.tiny())
        >>> cache.learn(["a cat", "a dog"])
        >>> len(cache.kept), len(cache(["a dog", "a cat", "a dog"])["text"])
        (2, 3)
    """

    def __init__(self, backbone: Generator, limit: int = CACHE_BYTES):
        self.backbone, self.limit = backbone, limit
        self.kept = OrderedDict[str, Cond]()  # in the order of use; the latest is at the end
        # the first prompt's tensors: a later tensor that equals one of these is not stored again
        self.first: Cond = {}
        self.bytes = 0
        cure = 'set backbone.options.text_encoder = "offload", or use a device of more memory'
        self._one_at_a_time = Pieces(1, "encoding one prompt", cure)

    def __call__(self, prompts: Sequence[str]) -> Cond:
        """Return the condition of each prompt, on the backbone's device."""
        return self._conditions(prompts, self.backbone.device)

    def shared(self, prompts: Sequence[str], device: torch.device) -> SharedCond:
        """Return the conditions of samples on a device, each prompt's once.

        Example:
            >>> from vidrl.backbones.toy import Toy
            >>> cond = PromptCache(Toy.tiny()).shared(["a cat", "a cat"], torch.device("cpu"))
            >>> len(cond.table["text"]), len(cond["text"])
            (1, 2)
        """
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        row = torch.tensor([place[prompt] for prompt in prompts], device=device)
        return SharedCond(self._conditions(list(place), device), row)

    def _conditions(self, prompts: Sequence[str], device: torch.device) -> Cond:
        """Return the condition of each prompt on a device; new prompts are encoded first."""
        parts = self._cached(prompts)
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in parts]
        parts |= self._one_at_a_time.attempt(1, lambda _: self._encode_new(new))
        conds = [parts[prompt] for prompt in prompts]
        return {
            name: self._batch([cond[name] for cond in conds], len(parts) > 1, device)
            for name in conds[0]
        }

    def learn(self, prompts: Sequence[str]) -> None:
        """Encode prompts in advance, as many as `limit` holds, in one text encoder visit.

        Errors are suppressed here: a prompt that cannot be encoded, and all prompts after
        it, are encoded by the later call of the cache, which raises.
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

    def complete(self, prompts: Sequence[str]) -> None:
        """Encode all prompts in advance, and keep them all.

        Raises the errors of `encode`, and MemoryError where `limit` does not hold all
        prompts.
        """
        wanted = list(dict.fromkeys(prompts))
        for some in (wanted[:1], wanted[1:2], wanted[2:]):
            self._encode_new([prompt for prompt in some if prompt not in self.kept])
            each = max((self._unshared_bytes(cond) for cond in self.kept.values()), default=0)
            if each * len(wanted) > self.limit or self.bytes > self.limit:
                raise MemoryError(
                    f"expected conditions of at most {self.limit / 2**30:.1f} GiB in host memory, "
                    f"got {len(wanted)} prompts of {each / 2**20:.1f} MiB: set "
                    'backbone.options.text_encoder = "offload", or use fewer prompts'
                )

    def _cached(self, prompts: Sequence[str]) -> dict[str, Cond]:
        """Return the cached conditions of these prompts, and mark them as used last."""
        found = {
            prompt: self.kept[prompt] for prompt in dict.fromkeys(prompts) if prompt in self.kept
        }
        for prompt in found:
            self.kept.move_to_end(prompt)
        return found

    def _encode_new(self, prompts: Sequence[str], room: float = inf) -> dict[str, Cond]:
        """Encode and keep prompts in one text encoder visit, until `room` bytes are used up.

        Each prompt is encoded alone: the last bits of a condition must not depend on the
        prompts of the same batch, so that a resumed run has the same conditions.
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
                # the next condition is taken to be as large as this one
                room -= self._unshared_bytes(created[prompt])
                if room < self._unshared_bytes(created[prompt]):
                    break
        return created

    def _keep(self, prompt: str, cond: Cond) -> Cond:
        """Store a condition, and drop the prompts that were used longest ago above the limit."""
        if not self.first:
            self.first, self.bytes = cond, sum(value.nbytes for value in cond.values())
        cond = {name: self._shared_or_new(name, value) for name, value in cond.items()}
        self.kept[prompt] = cond
        self.bytes += self._unshared_bytes(cond)
        while self.kept and self.bytes > self.limit:
            self.bytes -= self._unshared_bytes(self.kept.popitem(last=False)[1])
        return cond

    def _shared_or_new(self, name: str, value: Tensor) -> Tensor:
        """Return the first prompt's tensor of that name if it equals `value`, else `value`."""
        first = self.first.get(name)
        alike = first is not None and first.shape == value.shape and first.dtype == value.dtype
        if alike and torch.equal(first, value):  # type: ignore[arg-type]
            return first  # type: ignore[return-value]
        return value

    def _unshared(self, cond: Cond) -> list[Tensor]:
        """Return the tensors of a condition that are not shared with the first prompt."""
        return [value for name, value in cond.items() if value is not self.first.get(name)]

    def _unshared_bytes(self, cond: Cond) -> int:
        """Return the bytes of the tensors that only this condition holds."""
        return sum(value.nbytes for value in self._unshared(cond))

    def _batch(self, values: Sequence[Tensor], several: bool, device: torch.device) -> Tensor:
        """Concatenate the prompts' tensors to one tensor (B, ...) on a device.

        A tensor that all prompts share is moved once and expanded.
        """
        if several and all(value is values[0] for value in values):
            return values[0].to(device).expand(len(values), *values[0].shape[1:])
        return torch.cat(list(values)).to(device)
