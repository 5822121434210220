"""Drive any diffusers pipeline as a denoiser: the pipeline's own code runs around the network.

diffusers has no common interface for one prediction: each pipeline's `__call__` prepares
text, pictures, guidance and further network inputs in its own way. But every pipeline hands
its guided prediction to `scheduler.step`, and takes the next latents from there. So vidrl
runs the unchanged `__call__` and intercepts its scheduler; no code here depends on a
family.

One prediction runs two iterations of the pipeline's loop at one time (`_runner`). In the
first iteration the network is replaced by zeros that cost nothing (`_stand_ins`); at the
end of the iteration the pipeline calls `scheduler.step`, and the intercepting scheduler
returns vidrl's latents as the next ones (`_scheduler_probe`). In the second iteration the
pipeline therefore runs the real network at vidrl's latents. What it hands to
`scheduler.step` is the prediction, guidance included, and an exception ends the run.
Outputs of frozen parts, such as text embeddings, are cached by prompt (`_encoder_cache`).
Decoding is the code after the pipeline's loop: one iteration hands over the latents, and
the loop ends.

Legend: B batch, C latent channels, L latent frames, F pixel frames; vidrl's latents are (B,
C, L, h, w).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidrl.attention import Trial
from vidrl.data.prompt import is_file, is_text, of

from . import (
    _adapters,
    _checkpointing,
    _components,
    _conditioning_frames,
    _options,
    _picture_continuation,
    _quantization,
    _references,
    _row_independence,
    _sizes,
)
from ._attention import AttentionSwitch
from ._encoder_cache import EncoderCache
from ._joint_latents import JointLayout, find_layout
from ._memory import Memory
from ._mixed_times import MixedTimes
from ._runner import Row, Runner
from ._scheduler_probe import probe
from ._stand_ins import DecodeHook
from ._truncation import TokenizerCalls
from ._video_encoder import VideoEncoder
from .base import Cond, Continuation, Denoiser


class Pipeline(Denoiser):
    """A diffusers pipeline as a denoiser; deterministic sampling gives its own pixels.

    All weights come frozen and in eval mode. The options are:

    - `model`: a folder, a hub id, or a pipeline in memory.
    - `call`: keyword arguments of the pipeline's call, such as height, width, num_frames,
      guidance_scale, negative_prompt; the pipeline's defaults hold for the others.
    - `fps`: frames a second of the clips; None takes the value of the folder's vidrl.json,
      of the call or of the pipeline, else 16.
    - `dtype`: precision of all components of a folder or hub id but the autoencoder, which
      stays float32; a pipeline in memory keeps its own precision.
    - `text_encoder`: "offload" keeps the encoders on the CPU, and moves them to the device
      only to encode; "drop" frees the text encoders as well, once a run has encoded all its
      prompts. `offload = true` is the former name of "offload".
    - `batch`: the largest number of rows in one run; 0 means no limit. If a row's
      prediction depends on the other rows of its batch, which the first batch shows, rows
      run alone.
    - `decode_chunk`: the number of clips that are decoded at once.
    - `gradient_checkpointing`: recompute activations of the networks, and of decodes that
      carry gradient, in the backward pass.
    - `train`: names of the networks to train, of a pipeline with several; empty means all.
    - `seed`: seeds what the pipeline draws while it encodes a picture.
    - `attention`: the kernel that computes attention in the networks, transformers and
      UNets, such as "sdpa", "flash3" or "auto" (docs/guides/attention.md); it is proven in
      the networks at first use.
    - `rollout_attention`: another kernel for rollouts alone, which may be of low precision;
      log-densities, where the algorithm keeps any, are then computed again by `attention`.
    - `quantization`, `activation_offload`, `group_offload`, `vae_tiling`, `vae_slicing` and
      `compile`: see `vidrl.backbones._memory.Memory`.

    Raises ValueError for a model that is no pipeline, for a pipeline that cannot be driven,
    with the reason, and for sizes that the pipeline does not make.

    Example:
        >>> pipeline = Pipeline.tiny()
        >>> pipeline.shape, pipeline.frame_map
        ((4, 2, 2, 2), [(0, 1), (1, 5)])
    """

    def __init__(
        self,
        model: object,
        call: Mapping[str, Any] | None = None,
        fps: float | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        offload: bool = False,
        batch: int = 0,
        decode_chunk: int = 1,
        gradient_checkpointing: bool = False,
        train: Sequence[str] = (),
        seed: int = 0,
        attention: str = "sdpa",
        quantization: _quantization.Kind = "none",
        activation_offload: bool = False,
        group_offload: bool = False,
        vae_tiling: bool = False,
        vae_slicing: bool = False,
        compile: bool = False,
        text_encoder: Literal["keep", "offload", "drop"] = "keep",
        rollout_attention: str = "",
    ):
        given = {"call": call, "dtype": dtype, "attention": attention}
        _options.check({**given, "rollout_attention": rollout_attention}, training=False)
        if batch < 0 or decode_chunk < 1 or (fps is not None and fps <= 0):
            raise ValueError(
                f"expected batch ≥ 0, decode_chunk ≥ 1 and fps > 0, got {batch}, "
                f"{decode_chunk} and {fps}"
            )
        self.memory = Memory(
            quantization,
            activation_offload,
            group_offload,
            vae_tiling,
            vae_slicing,
            compile,
            gradient_checkpointing,
        )
        self.only_lora = self.memory.only_lora
        local = isinstance(model, (str, Path))
        if not local and dtype != "float32":
            raise ValueError(
                f"expected dtype with a folder or a hub id, got {dtype} with a pipeline in "
                "memory, which keeps its own precision: leave dtype out, and call "
                f"pipe.to(torch.{dtype}) first, and pipe.vae.to(torch.float32)"
            )
        self.folder = Path(str(model)) if local and Path(str(model)).is_dir() else None
        pipe = _components.check(_components.load(str(model), dtype) if local else model)
        self.batch = batch
        self.decode_chunk = decode_chunk
        self.offload = offload or text_encoder != "keep"
        self.drops_encoders = text_encoder == "drop"
        self._sort_components(pipe, train, gradient_checkpointing)
        folder_size = _sizes.folder_size(self.folder, _components.arguments(pipe))
        self._prepare(pipe, {**folder_size, **(call or {})}, seed)
        self.fps = float(
            fps or _sizes.clip_rate(self.folder, self.runner.call, self.runner.call_parameters)
        )
        version_note = (
            _components.newer_version_note(_components.index(str(model))) if local else ""
        )
        self.notes = (
            *([version_note] if version_note else []),
            *_components.scheduler_notes(pipe.scheduler, self.probe),
            *self.memory.notes(self.networks.values()),
        )
        self.adapter_notes = tuple(_adapters.notes(pipe, self.trained))
        # whether a batch has shown that rows change each other, and the sets of pictures for which
        # a row was compared with itself in a batch
        self._rows_depend, self._tried_together = False, set[_conditioning_frames.Pictures]()
        self.attention_switch: AttentionSwitch = AttentionSwitch(
            list(self.networks.values()),
            attention,
            rollout_attention,
            self._trials,
            lambda: self._dry_prediction(self.times(4)[1]),
        )

    @classmethod
    def check_options(cls, options: Mapping[str, object]) -> None:
        """Raise for a kernel, a size or a dtype that cannot work, before a model is read."""
        _options.check(options, training=True)

    def _sort_components(self, pipe: Any, train: Sequence[str], checkpointing: bool) -> None:
        """Sort the pipeline's modules into networks, some of them trained, and frozen parts."""
        self.networks, self.frozen = _components.networks(pipe), _components.frozen(pipe)
        self.trained = _components.select_trained(self.networks, train, type(pipe).__name__)
        # a pipeline of two experts calls one of them at early times and the other at late ones
        self.calls_depend_on = "times" if len(self.networks) == 1 else "time"
        single = len(self.trained) == 1
        self.network = next(iter(self.trained.values())) if single else nn.ModuleDict(self.trained)
        for part in (*self.networks.values(), *self.frozen.values()):
            part.requires_grad_(False).eval()
        if checkpointing:
            _components.enable_checkpointing(self.networks)
        self.autoencoder = _components.autoencoder(self.frozen)
        self.memory.apply(self.networks.values(), self.autoencoder)
        # Taken before the encoder cache replaces the method `encode`: clips to train on are
        # encoded here, and must not fill the cache.
        self.encoder = None if self.autoencoder is None else self.autoencoder.encode
        self.decode_hook = (
            None if self.autoencoder is None else DecodeHook(self.autoencoder, checkpointing)
        )

    def _prepare(self, pipe: Any, call: Mapping[str, Any], seed: int) -> None:
        """Build the runner, and find the layout of the latents in dry runs.

        The order matters: the encoder cache and the decode hook replace methods of the
        frozen parts, so both exist before the first run.
        """
        name = type(pipe).__name__
        _components.check_call(call, _components.arguments(pipe), name)
        self.probe, self.path = probe(pipe.scheduler, name)
        self.encoder_cache = EncoderCache(lambda: self.device)
        for part in self.frozen.values():
            decodes = part is self.autoencoder
            self.encoder_cache.watch(
                part, "encode" if decodes else "forward", self.offload and not decodes
            )
        self.size = _sizes.picture_size(pipe, call, _components.arguments(pipe))
        arguments = _references.with_loaded_files(call, self.size)
        self.runner = Runner(pipe, self.networks, self.probe, self.encoder_cache, arguments, seed)
        self.mixed_times = MixedTimes(self.runner)
        self.row_of_prompt: dict[Any, int] = {}
        self.dry_row, self.needs = _sizes.find_dry_row(self.runner, self.size)
        option = "backbone.options.call.max_sequence_length"
        takes_length = "max_sequence_length" in self.runner.call_parameters
        self.longer = f"Raise {option}, or shorten them" if takes_length else "Shorten them"
        self.reads = tuple(
            name for name in self.runner.call_parameters if is_file(name) or is_text(name)
        )
        every = find_layout(self.runner, self.dry_row)
        self.layout = _conditioning_frames.free_layout(
            self.runner, every, self.dry_row, self.decode_hook
        )
        # The sets of pictures for which the conditioned frames were found. A prompt with another
        # set of pictures is checked when it first comes.
        self.known_pictures = {_conditioning_frames.pictures_of_row(self.runner, self.dry_row)}
        self.shape, self.frame_map = self.layout.shape, self.layout.frame_map

    def times(self, n: int) -> list[float]:
        """Return the times of the pipeline's own schedule of n steps.

        `predict` reads the schedule that the last call of this method set: a time on that
        schedule gets its exact timestep, and another time an interpolated timestep. The
        constructor sets a first schedule of a few steps.

        Example:
            >>> Pipeline.tiny().times(2)  # shift 1 over 1000 levels
            [1.0, 0.0010000000474974513, 0.0]
        """
        if n < 1:
            raise ValueError(f"expected 1 step or more, got {n}")
        return self.runner.times(self.dry_row, n)

    def noise(self, draws: Sequence[torch.Generator]) -> Tensor:
        """Return unit Gaussian latents, float32 (B, C, L, h, w), as the pipeline draws them."""
        created = [self.layout.noise(draw) for draw in draws]
        return torch.stack(created) if created else torch.empty(0, *self.shape)

    def encode(self, prompts: Sequence[str]) -> Cond:
        """Return {"row": (B,)}: the numbers of the prompts in a table of prompts seen so far.

        The pipeline itself encodes the prompt when the row is first run, and the encoder
        cache keeps the result. A `vidrl.data.prompt.Prompt` may bring further arguments of
        the call, such as the image of image-to-video. Raises ValueError for a prompt
        without a picture that the pipeline needs, and for a reference that the pipeline
        does not take.
        """
        self.check_prompts(prompts)
        numbers = [self._row(prompt) for prompt in prompts]
        for row in numbers if self.offload or self.encoder_cache.dropped else ():
            # fills the encoder cache in this visit of the encoders, or raises
            self.runner.initial_latents(row)
        return {"row": torch.tensor(numbers, device=self.device)}

    def encoding(self, device: torch.device | None = None) -> AbstractContextManager[None]:
        """Return a context in which offloaded encoders stay on a device; contexts may nest.

        `device` None is that of the networks. On another device the autoencoder, which encodes
        the pictures of prompts, comes there too, and stays.
        """
        return self.encoder_cache.visit(device, self.autoencoder)

    def drop_encoders(self) -> None:
        """Free the text encoders; afterwards a prompt that was not encoded is an error."""
        _ = self.tokenizer_calls  # runs the encoders once, and `truncated` needs the calls later
        # the check whether rows are independent runs these texts later, beside the first batch
        for row in _row_independence.add_neighbours(self.runner, self.dry_row):
            self.runner.initial_latents(row)
        self.drops_encoders = False
        names = [name for name in self.frozen if name.startswith("text_encoder")]
        self.encoder_cache.drop([self.frozen[name] for name in names])

    def _row(self, prompt: str) -> int:
        """Return the number of a prompt in the table; a new prompt is added."""
        references = _references.load(prompt, self.size)
        key = str(prompt), _references.identity(references)
        if key not in self.row_of_prompt:
            row = len(self.runner.table)
            self.runner.table.append(Row(str(prompt), references))
            pictures = _conditioning_frames.pictures_of_row(self.runner, row)
            if pictures not in self.known_pictures:
                with _references.explained(self.runner.name, prompt, self.needs):
                    self.runner.initial_latents(row)
                    _conditioning_frames.check(self.runner, self.layout, row, self.decode_hook)
                self.known_pictures.add(pictures)
            self.row_of_prompt[key] = row
        return self.row_of_prompt[key]

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise ValueError for references that are not read, lacking, or that the call refuses.

        The first prompt of each set of references runs the pipeline, without its networks.
        """
        super().check_prompts(prompts)
        for prompt in {frozenset(of(prompt)): prompt for prompt in reversed(prompts)}.values():
            if of(prompt):
                self._row(prompt)

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return what the network and the guidance predict at x_t (B, C, L, h, w), float32.

        `t` (B,) may hold several times. `path` declares the kind of prediction.
        """
        self.attention_switch.ready(x.device)
        times, rows = t.tolist(), cond["row"].tolist()
        limit = self._rows_at_once(x, rows, times)
        mixed_times = limit > 1 and len(set(times)) > 1 and self._times_mix(x, rows[0])
        created: dict[int, Tensor] = {}
        for part in _row_independence.batches(times, limit, mixed_times):
            is_whole_batch = len(part) == len(x)  # then indexing would only copy
            with self.memory.saving(x.device):
                raw = self._predict(
                    x if is_whole_batch else x[part],
                    [times[i] for i in part],
                    [rows[i] for i in part],
                )
            if is_whole_batch:
                return raw
            created |= zip(part, raw, strict=True)
        return torch.stack([created[i] for i in range(len(x))]) if created else torch.zeros_like(x)

    def _times_mix(self, x: Tensor, row: int) -> bool:
        """Return whether rows of several times run in one batch; checked on one row, twice."""
        two = self.noise([torch.Generator().manual_seed(seed) for seed in (0, 1)])
        return self.mixed_times.supports(row, self.layout.to_pipeline(two.to(x)))

    def _predict(self, x: Tensor, times: list[float], rows: list[int]) -> Tensor:
        """Return the prediction of rows that run together, in vidrl's layout and sign."""
        scale, sign = self.probe.scale(times[0]), self.probe.sign
        pipeline_latents = self.layout.to_pipeline(x if scale == 1 else x * scale)
        several = len(set(times)) > 1
        raw = (
            self.mixed_times.predict(rows, pipeline_latents, times)
            if several
            else self.runner.predict(rows, pipeline_latents, times[0])
        )
        raw = self.layout.to_vidrl(raw.float())
        # Some pipelines add fresh noise to conditioning latents in each iteration. Then the
        # log-density of a step has no defined mean, and training would be silently wrong.
        if self.runner.draws_noise_in_loop:
            raise self.runner.refusal(
                "it draws new random numbers in each step, so that a prediction is not a function "
                "of the latents and the time",
                "switch that off in backbone.options.call, as image_cond_noise_scale = 0 does "
                "for some pipelines",
            )
        return raw if sign == 1 else sign * raw

    def _rows_at_once(self, x: Tensor, rows: Sequence[int], times: Sequence[float]) -> int:
        """Return how many rows run together: 1 if a row's prediction depends on the others."""
        limit = self.batch or _row_independence.NO_LIMIT
        if limit == 1 or len(x) < 2:
            return limit
        for row, time in zip(rows, times, strict=True):
            pictures = _conditioning_frames.pictures_of_row(self.runner, row)
            if not self._rows_depend and pictures not in self._tried_together:
                self._rows_depend = not self._rows_are_independent(x[:2], row, time)
                self._tried_together.add(pictures)
        return 1 if self._rows_depend else limit

    def _rows_are_independent(self, x: Tensor, row: int, time: float) -> bool:
        """Return whether a row has the same prediction alone and next to two other rows.

        The second of the others differs in everything: text, pictures and latents.
        """
        scaled = x * self.probe.scale(time)
        rows = [row, *_row_independence.add_neighbours(self.runner, row)]
        of_rows = (scaled[0], scaled[1], -scaled[1])
        latents = [self.layout.to_pipeline(latent[None]) for latent in of_rows]
        return _row_independence.rows_are_independent(self.runner, rows, latents, time)

    def decode(self, latents: Tensor) -> Tensor:
        """Return clips (B, F, 3, H, W) in [0, 1], float32, with gradient, as the pipeline does."""
        return self.decode_with(latents, {"row": torch.full((len(latents),), self.dry_row)})

    def decode_with(self, latents: Tensor, cond: Cond) -> Tensor:
        """Return the clips for the prompts of `cond`: some pipelines put a given frame first."""
        rows = cond["row"].tolist()
        size = self._decoded_at_once(rows)
        created = [
            self._decode(latents[a : a + size], rows[a : a + size])
            for a in range(0, len(rows), size)
        ]
        return (
            torch.cat(created)
            if created
            else torch.empty(0, *self.clip_shape, device=latents.device)
        )

    def _decoded_at_once(self, rows: Sequence[int]) -> int:
        """Return how many clips are decoded together.

        It is 1 where the rows of a batch change each other, or where no batch has yet shown
        that rows with pictures do not.
        """
        sets = {_conditioning_frames.pictures_of_row(self.runner, row) for row in rows}
        alone = self._rows_depend or any(sets - self._tried_together)
        return 1 if alone or self.batch == 1 else self.decode_chunk

    def _decode(self, latents: Tensor, rows: list[int]) -> Tensor:
        """Return the clips of one piece; latents of fewer frames give shorter clips."""
        part = self.layout.with_length(latents.shape[2])
        pipeline_latents = part.to_pipeline(latents) * self.probe.scale(0.0)
        frames = None if part is self.layout else part.frame_map[-1][1]
        return self.runner.pixels(rows, pipeline_latents, frames).float().clamp(0, 1)

    @property
    def encodes_video(self) -> bool:
        """Whether the pipeline has an autoencoder, and its latents hold pictures alone."""
        return self.autoencoder is not None and not isinstance(self.layout, JointLayout)

    def check_encodes_video(self) -> None:
        """Raise NotImplementedError if no part encodes clips, or latents hold sound as well."""
        if isinstance(self.layout, JointLayout):
            raise NotImplementedError(
                f"expected a pipeline that makes pictures alone, got {self.runner.name}, whose "
                "latents hold sound as well, which clips do not bring: train it by an algorithm "
                "that samples, or use another pipeline"
            )
        super().check_encodes_video()

    def latents_of(self, video: Tensor) -> Tensor:
        """Return the encoder's means, mapped back through the code between loop and decoder."""
        return torch.cat([self.video_encoder.latents_of(clip) for clip in video.split(1)])

    @cached_property
    def video_encoder(self) -> VideoEncoder:
        """The inverse of what the pipeline does with latents before decoding them."""
        return VideoEncoder(self)

    @classmethod
    def check_continuation(cls, options: Mapping[str, object], history: int) -> None:
        """Raise ValueError for a pipeline whose call takes no image, or no film of `history`."""
        _picture_continuation.check(options.get("model"), history)

    def continuation(self, history: int) -> Continuation:
        """Return how clips are continued: the last frames of a chunk are given to the next one."""
        return _picture_continuation.PictureContinuation(self, history)

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts whose end no text encoder of the pipeline reads.

        Example:
            >>> Pipeline.tiny().truncated(["a red circle", "a red circle " * 6])
            ['a red circle a red circle a red circle a red circle a red circle a red circle ']
        """
        return [prompt for prompt in prompts if self.tokenizer_calls.truncates(str(prompt))]

    @cached_property
    def tokenizer_calls(self) -> TokenizerCalls:
        """The texts that the pipeline gives to its tokenizers."""
        return TokenizerCalls(self.runner, self.runner.table[self.dry_row])

    def ready(self) -> None:
        """Raise if the attention kernel or gradient checkpointing cannot be used."""
        self.attention_switch.ready(self.device)
        # Several times, because a pipeline of two experts uses one network early, the other late.
        first: Any = next(iter(self.networks.values()))
        times, dtype = self.times(4)[:-1], first.dtype
        _checkpointing.prove(list(self.networks.values()), self._dry_prediction, times, dtype)

    def _dry_prediction(self, time: float, x: Tensor | None = None) -> Tensor:
        """Return the prediction for the prompt of the dry runs, by default at fixed noise."""
        x = self._fixed_noise() if x is None else x
        cond = {"row": torch.tensor([self.dry_row], device=self.device)}
        return self.predict(x, torch.tensor([time], device=self.device), cond)

    def _fixed_noise(self) -> Tensor:
        """Return the latents of one clip of fixed noise."""
        return self.noise([torch.Generator().manual_seed(0)]).to(self.device)

    def _trials(self) -> list[Trial]:
        """Return small predictions to prove an attention kernel by.

        The latents have two latent frames where the pipeline's code takes so few. A pipeline of
        several networks predicts early and late, because each network has times of its own.
        """
        times, x = self.times(4), self._fixed_noise()
        short, reason = x[:, :, :2], "another shape"
        try:
            with torch.no_grad():
                fits = self._dry_prediction(times[1], short).shape == short.shape
            reason = "" if fits else reason
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001  a pipeline may refuse short clips in any way
            reason = f"{type(error).__name__}: {error}"
        # one size on all processes, which predict together
        x = x if self.attention_switch.agreement.failures([reason])[0] else short
        steps = [0, 2] if len(self.networks) > 1 else [1]
        return [
            Trial(
                list(self.networks.values()),
                partial(self._dry_prediction, times[k]),
                x,
                self.path,
                (times[k], 0.9 * times[k]),
            )
            for k in steps
        ]

    @property
    def device(self) -> torch.device:
        """The device on which the networks compute."""
        return self.memory.device(self.network)

    def to(self, device: torch.device | str) -> Pipeline:
        """Move the networks, the autoencoder and, unless they are offloaded, the encoders."""
        for network in self.networks.values():
            self.memory.move(network, device)
        for part in self.frozen.values():
            if not self.offload or part is self.autoencoder:
                part.to(device)
        return self

    def save_lora(
        self, folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, object]
    ) -> None:
        """Write one LoRA file for each trained network; see `vidrl.backbones._adapters`."""
        _adapters.save(self.runner.pipe, self.trained, Path(folder), weights, config)

    def load_lora(
        self, folder: Path, partial: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Return float32 weights and LoraConfig arguments of a LoRA of the trained networks.

        Raises ValueError for parts that do not fit the networks; with `partial` these are
        left out, with a warning.
        """
        return _adapters.load(self.trained, Path(folder), partial)

    @classmethod
    def tiny(cls) -> Pipeline:
        """Build a pipeline of random weights: 16 x 16 x 5 frames, 16 tokens, no guidance."""
        from ._tiny import pipeline

        size = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}
        return cls(pipeline(), {**size, "guidance_scale": 1.0})
