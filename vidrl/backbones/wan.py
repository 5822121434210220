"""Text to video by Wan 2.1 (arXiv 2503.20314), SkyReels-V2 and Helios, in diffusers format.

Legend: B batch, C latent channels, L latent frames, h w latent height and width, F pixel
frames, H W pixels, N text tokens, D their width. The path is straight: t = 1 is noise, the
network predicts ε − x0, and its time input is 1000 t.

The backbone `pipeline` drives Wan too, without a file for the family. This file exists
because its predictions take less time if the network is tiny, as those of the embedded
models are (benchmarks/studies/drive_overhead.py), because both guidance branches are one
batch here, and because `vidrl cost` reads sizes from it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vidrl import lora
from vidrl.attention import Trial
from vidrl.diffusion.path import flow
from vidrl.diffusion.segments import Span
from vidrl.lora import writing

from . import _options, _quantization, _wan_pipelines
from ._attention import AttentionSwitch
from ._encoder_cache import dropped
from ._helios_continuation import HeliosContinuation
from ._memory import Memory
from ._wan_continuation import WanContinuation
from .base import Cond, Continuation, Denoiser


class Wan(Denoiser):
    """A pipeline of Wan 2.1 or its kin as a denoiser; "ode" sampling equals the pipeline's own.

    All weights come frozen and in eval mode; the policy decides which are trained. The
    options are:

    - `model`: a diffusers folder, a hub id, or a pipeline in memory: a WanPipeline, a
      SkyReelsV2DiffusionForcingPipeline or a HeliosPipeline.
    - `height`, `width`, `frames` (4 k + 1), `fps`: None takes the value of the folder's
      `vidrl.json`, else 480 x 832 x 81 at 16; for SkyReels-V2 544 x 960 x 97 at 24, and for
      Helios 384 x 640 x 33 at 24, which is one chunk.
    - `guidance` g: v = v_neg + g (v_text − v_neg) against `negative_prompt`; 1 is off.
    - `detach_negative`: let v_neg carry no gradient.
    - `text_length`: number of text tokens, padded with zeros (512 as in WanPipeline).
    - `flow_shift`: the shift of the schedule; None takes the checkpoint's.
    - `dtype`: precision of the transformer and the text encoder; the autoencoder stays
      float32.
    - `decode_chunk`: the number of clips that are decoded at once.
    - `gradient_checkpointing`: recompute activations of the transformer, and of decodes
      that carry gradient, in the backward pass.
    - `attention`: the kernel that computes attention, such as "sdpa", "flash3" or "auto"
      (docs/guides/attention.md); it is proven in the transformer at first use.
    - `rollout_attention`: another kernel for rollouts alone, which may be of low precision;
      log-densities, where the algorithm keeps any, are then computed again by `attention`.
    - `text_encoder`: "offload" keeps the text encoder on the CPU, and moves it to the device
      only to encode; "drop" frees it as well, once a run has encoded all its prompts.
      `offload_text = true` is the former name of "offload".
    - `quantization`, `activation_offload`, `group_offload`, `vae_tiling`, `vae_slicing` and
      `compile`: see `vidrl.backbones._memory.Memory`.

    Raises ValueError for a folder that is not a Wan 2.1 text-to-video pipeline, or a size
    that it cannot make.

    Example:
        >>> wan = Wan.tiny()
        >>> wan.shape, wan.frame_map
        ((4, 2, 2, 2), [(0, 1), (1, 5)])
    """

    calls_depend_on = "rows"

    def __init__(
        self,
        model: object,
        height: int | None = None,
        width: int | None = None,
        frames: int | None = None,
        fps: float | None = None,
        guidance: float = 1.0,
        negative_prompt: str = "",
        text_length: int = 512,
        flow_shift: float | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        decode_chunk: int = 4,
        gradient_checkpointing: bool = False,
        attention: str = "sdpa",
        offload_text: bool = False,
        detach_negative: bool = False,
        quantization: _quantization.Kind = "none",
        activation_offload: bool = False,
        group_offload: bool = False,
        vae_tiling: bool = False,
        vae_slicing: bool = False,
        compile: bool = False,
        text_encoder: Literal["keep", "offload", "drop"] = "keep",
        rollout_attention: str = "",
    ):
        given = {"height": height, "width": width, "frames": frames, "dtype": dtype}
        kernels = {"attention": attention, "rollout_attention": rollout_attention}
        _options.check({**given, **kernels}, training=False)
        if guidance < 1 or decode_chunk < 1 or text_length < 1:
            raise ValueError(
                "expected guidance ≥ 1 (1 is off), decode_chunk ≥ 1 and text_length ≥ 1, "
                f"got {guidance}, {decode_chunk} and {text_length}"
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
        self.pipe = (
            _wan_pipelines.load(model, dtype)
            if isinstance(model, (str, Path))
            else _wan_pipelines.check(model)
        )
        self.folder = (
            Path(model) if isinstance(model, (str, Path)) and Path(model).is_dir() else None
        )
        for part in (self.pipe.transformer, self.pipe.vae, self.pipe.text_encoder):
            part.requires_grad_(False).eval()
        self.network, self.path = self.pipe.transformer, flow()
        self.guidance = guidance
        self.negative_prompt = negative_prompt
        self.text_length = text_length
        self.detach_negative = detach_negative
        self.decode_chunk = decode_chunk
        self.checkpointing = gradient_checkpointing
        self.offload_text = offload_text or text_encoder != "keep"
        self.drops_encoders = text_encoder == "drop"
        self._dropped = False
        self._warned_truncated = False
        # where the text encoder is while `encoding` keeps it there; None outside of it
        self._encodes_on: torch.device | None = None
        self._negatives: dict[tuple[str, int], Tensor] = {}
        self._dtype: torch.dtype = self.pipe.transformer.dtype
        self.scheduler = _wan_pipelines.scheduler(self.pipe, flow_shift)
        usual = _wan_pipelines.usual_size(self.pipe)
        self._resize(_size(model, usual, height=height, width=width, frames=frames, fps=fps))
        self.attention_switch: AttentionSwitch = AttentionSwitch(
            [self.network],
            attention,
            rollout_attention,
            trials=lambda: [self._trial()],
            predict=lambda: self._predict_noise(self.shape),
            enforced=True,
        )
        if gradient_checkpointing:
            self.pipe.transformer.enable_gradient_checkpointing()
        self.memory.apply([self.network], self.pipe.vae)
        self.notes = (
            *_wan_pipelines.scheduler_notes(self.pipe, self.scheduler),
            *self.memory.notes([self.network]),
        )
        self.only_lora = self.memory.only_lora

    @classmethod
    def check_options(cls, options: Mapping[str, object]) -> None:
        """Raise for a kernel, a size or a dtype that cannot work, before a model is read."""
        _options.check(options, training=True)

    def _resize(self, size: Mapping[str, float]) -> None:
        """Set the shapes and the frame map of a clip size.

        The causal autoencoder encodes the first pixel frame alone, and then 4 pixel frames
        to a latent frame.
        """
        space, time = self.pipe.vae_scale_factor_spatial, self.pipe.vae_scale_factor_temporal
        config = self.pipe.transformer.config
        height, width, frames = (int(size[k]) for k in ("height", "width", "frames"))
        _check_size(
            height, width, frames, space * config.patch_size[1], space * config.patch_size[2], time
        )
        latent_frames = (frames - 1) // time + 1
        self.shape = (config.in_channels, latent_frames, height // space, width // space)
        self.clip_shape = (frames, 3, height, width)
        self.frame_map: list[Span] = [(0, 1)] + [
            (time * (k - 1) + 1, time * k + 1) for k in range(1, latent_frames)
        ]
        self.fps = float(size["fps"])

    def encode(self, prompts: Sequence[str]) -> Cond:
        """Return text embeddings {"text": (B, N, D)}, and with guidance {"negative": (B, N, D)}.

        Embeddings are zero after the last token, as WanPipeline's are.
        """
        self.check_prompts(prompts)
        self._warn_truncated([*prompts, *([self.negative_prompt] if self.guidance != 1 else [])])
        with self.encoding():
            cond = {"text": self._embed(list(prompts))}
            if self.guidance != 1:
                cond["negative"] = self._negative().expand_as(cond["text"])
        return cond

    longer = (
        "Raise backbone.options.text_length (the released checkpoints read up to 512 tokens), "
        "or shorten them"
    )

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts of more than `text_length` tokens, the end token included.

        Example:
            >>> Wan.tiny().truncated(["a red circle", "a red circle " * 6])
            ['a red circle a red circle a red circle a red circle a red circle a red circle ']
        """
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        texts = [prompt_clean(prompt) for prompt in prompts]
        tokens = (
            self.pipe.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
            if texts
            else []
        )
        return [
            prompt
            for prompt, token_ids in zip(prompts, tokens, strict=True)
            if len(token_ids) > self.text_length
        ]

    def _warn_truncated(self, texts: Sequence[str]) -> None:
        """Warn, once for each backbone, if the text encoder does not read the end of a text."""
        truncated = [] if self._warned_truncated else self.truncated(texts)
        if truncated:
            self._warned_truncated = True
            warnings.warn(
                f"the text encoder reads {self.text_length} tokens, and does not see the end of "
                f"{truncated[0][:60]!r}. {self.longer}",
                stacklevel=3,
            )

    @contextmanager
    def encoding(self, device: torch.device | None = None) -> Iterator[None]:
        """Keep an offloaded text encoder on a device within this context; contexts may nest.

        `device` None is the network's.
        """
        if not self.offload_text or self._encodes_on is not None or self._dropped:
            yield
            return
        self._encodes_on = device or self.device
        try:
            self.pipe.text_encoder.to(self._encodes_on)
            yield
        finally:
            self._encodes_on = None
            if not self._dropped:
                self.pipe.text_encoder.to("cpu")

    def drop_encoders(self) -> None:
        """Free the text encoder; afterwards a prompt that was not encoded is an error."""
        self._dropped = True
        self.pipe.text_encoder.to("meta")

    def _negative(self) -> Tensor:
        """Return the embedding (1, N, D) of the negative prompt, which is encoded once."""
        key = self.negative_prompt, self.text_length
        if key not in self._negatives:
            self._negatives = {key: self._embed([self.negative_prompt]).cpu()}
        return self._negatives[key].to(self._encodes_on or self.device)

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> Tensor:
        """Return the embeddings of texts, as WanPipeline computes them."""
        if self._dropped:
            raise dropped(texts)
        length, device = self.text_length, self._encodes_on or self.device
        return self.pipe.encode_prompt(
            texts, None, False, max_sequence_length=length, device=device
        )[0]

    def times(self, n: int) -> list[float]:
        """Return the n + 1 times of the scheduler, which are its sigmas.

        With Wan it is FlowMatchEulerDiscreteScheduler, which shifts its sigmas twice, and whose
        last step before 0 is at sigma_min.

        Example:
            >>> Wan.tiny().times(2)  # shift 1 over 1000 levels
            [1.0, 0.0010000000474974513, 0.0]
        """
        if n < 1:
            raise ValueError(f"expected 1 step or more, got {n}")
        return _wan_pipelines.times(self.pipe, self.scheduler, n, self.shape)

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the velocity ε − x0 at x_t (B, C, L, h, w) for t (B,), float32.

        `t` may be (B, L) as well, one time for each latent frame. With guidance, both texts run
        in one batch of 2 B rows.
        """
        self.attention_switch.ready(x.device)
        text, guided = cond["text"], self.guidance != 1
        if guided:
            x = torch.cat([x, x])
            t = torch.cat([t, t])
            text = torch.cat([text, cond["negative"]])
        x, text = x.to(self._dtype), text.to(self._dtype)
        more = _wan_pipelines.arguments(self.pipe, t, x, self.fps, cond)
        with self.memory.saving(x.device):
            raw = self.network(
                hidden_states=x, encoder_hidden_states=text, return_dict=False, **more
            )[0].float()
        if not guided:
            return raw
        with_text, without = raw.chunk(2)
        without = without.detach() if self.detach_negative else without
        return without + self.guidance * (with_text - without)

    def ready(self) -> None:
        """Raise `AttentionError` if the attention kernel cannot be used."""
        self.attention_switch.ready(self.device)

    @classmethod
    def check_continuation(cls, options: Mapping[str, object], history: int) -> None:
        """Raise ValueError for a history that the pipeline does not take; its index is read."""
        _wan_pipelines.check_continuation(options.get("model"), history)

    def continuation(self, history: int) -> Continuation:
        """Return how clips are continued: the last latent frames are given, at time 0."""
        if _wan_pipelines.kind(self.pipe) == _wan_pipelines.HELIOS:
            return HeliosContinuation(self, history)
        return WanContinuation(self, history)

    def _trial(self) -> Trial:
        """Return a small prediction, two latent frames of a few tokens, to prove a kernel by."""
        channels, frames, height, width = self.shape
        size = (channels, min(frames, 2), min(height, 16), min(width, 16))
        x = torch.randn(1, *size, generator=torch.Generator().manual_seed(0)).to(self.device)
        return Trial([self.network], lambda x: self._predict_at(x, 0.5), x, self.path, (0.5, 0.4))

    def _predict_noise(self, size: tuple[int, ...]) -> Tensor:
        """Return the prediction at a latent (C, L, h, w) of zeros and random text."""
        return self._predict_at(torch.zeros(1, *size, device=self.device), 0.5)

    def _predict_at(self, x: Tensor, time: float) -> Tensor:
        """Return the prediction for random text, which needs no text encoder."""
        size = (1, self.text_length, int(self.pipe.transformer.config.text_dim))
        text = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(x.device)
        cond = {"text": text, "negative": 0 * text}
        return self.predict(x, torch.full((1,), time, device=x.device), cond)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each latent channel, both (1, C, 1, 1, 1)."""
        config, shape = self.pipe.vae.config, (1, -1, 1, 1, 1)
        mean, std = (
            torch.tensor(getattr(config, k)).to(like).view(shape)
            for k in ("latents_mean", "latents_std")
        )
        return mean, std

    def latents_of(self, video: Tensor) -> Tensor:
        """Return the encoder's means, standardised as in WanVideoToVideoPipeline.

        Clips are encoded one by one, so that a clip's last bits do not depend on its batch.
        """
        vae = self.pipe.vae
        clips = 2 * video.to(vae.device, vae.dtype).transpose(1, 2) - 1
        means = torch.cat(
            [vae.encode(clip, return_dict=False)[0].mode() for clip in clips.split(1)]
        )
        mean, std = self._statistics(means)
        return (means - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """Return clips (B, F, 3, H, W) in [0, 1], float32, with gradient."""
        latents = latents.to(self.pipe.vae.dtype)
        mean, std = self._statistics(latents)
        pieces = (latents * std + mean).split(self.decode_chunk)
        video = torch.cat([self._decode_piece(piece) for piece in pieces]).transpose(1, 2)
        return (video.float() / 2 + 0.5).clamp(0, 1)

    def _decode_piece(self, latents: Tensor) -> Tensor:
        """Decode a few clips; with checkpointing, recompute activations in the backward pass."""
        decode = self.pipe.vae.decode
        if self.checkpointing and latents.requires_grad:
            return checkpoint(
                lambda z: decode(z, return_dict=False)[0], latents, use_reentrant=False
            )
        return decode(latents, return_dict=False)[0]

    @property
    def device(self) -> torch.device:
        """The device on which the transformer computes."""
        return self.memory.device(self.network)

    def to(self, device: torch.device | str) -> Wan:
        """Move transformer, autoencoder and, unless it is offloaded, the text encoder."""
        self.memory.move(self.network, device)
        self.pipe.vae.to(device)
        if not self.offload_text:
            self.pipe.text_encoder.to(device)
        return self

    def save_lora(
        self, folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, object]
    ) -> None:
        """Write `pytorch_lora_weights.safetensors` for plain `pipe.load_lora_weights(folder)`.

        `weights`: a peft state dict of the transformer
        ("blocks.0.attn1.to_q.lora_A.weight": ...); `config`: keyword arguments of its
        peft.LoraConfig, which are stored in the file, since no weight holds alpha.
        """
        writing.folder(weights, config, "diffusers", Path(folder))

    def load_lora(
        self, folder: Path, partial: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Return float32 weights and LoraConfig arguments of a LoRA, in any format of `vidrl.lora`.

        Raises ValueError for parts that do not fit the transformer; with `partial` these
        are left out, with a warning.
        """
        found = lora.fitted(lora.read(folder), self.network, partial)
        return found.weights, found.config()

    @classmethod
    def tiny(cls) -> Wan:
        """Build a model of random weights: 16 x 16 x 5 frames, text of 16 tokens."""
        from ._tiny import pipeline

        return cls(pipeline(), height=16, width=16, frames=5, fps=8.0, text_length=16)


def _size(model: object, usual: Mapping[str, float], **wanted: float | None) -> dict[str, float]:
    """Return the clip size: the wanted values, else those of vidrl.json, else the usual ones."""
    file = Path(model) / "vidrl.json" if isinstance(model, (str, Path)) else None
    token_ids = json.loads(file.read_text()) if file and file.exists() else {}
    return {
        key: token_ids.get(key, usual[key]) if value is None else value
        for key, value in wanted.items()
    }


def _check_size(height: int, width: int, frames: int, rows: int, columns: int, time: int) -> None:
    """Raise ValueError for a size that WanPipeline would refuse or silently change."""
    for name, value, unit in (("height", height, rows), ("width", width, columns)):
        unit = max(unit, 16)  # WanPipeline demands multiples of 16 for every patch size
        if value < unit or value % unit:
            nearest = max(unit, value // unit * unit)
            raise ValueError(
                f"expected {name} to be a multiple of {unit}, got {value}: take {nearest}"
            )
    if frames < 1 or frames % time != 1 % time:
        nearest = max(0, frames - 1) // time * time + 1
        raise ValueError(f"expected frames to be {time} k + 1, got {frames}: take {nearest}")
