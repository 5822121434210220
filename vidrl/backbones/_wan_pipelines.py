"""The pipelines that the backbone `wan` drives: Wan 2.1, and SkyReels-V2 and Helios, made of it.

All have the same text encoder, autoencoder and blocks. They differ in what the network gets beside
the latents and the text. Wan's takes one time for a clip, or one for each token. The network of
SkyReels-V2 (arXiv 2504.13074) takes one time for each latent frame, as diffusion forcing trains it
(arXiv 2407.01392), and whole timesteps, to which its pipeline rounds them down. The network of
Helios takes one time, and the latent frames of earlier chunks (`_helios_continuation`).

Legend: B batch, L latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.lookup.extras import install

from . import _helios_continuation
from .base import Cond, is_hub_id

WAN, FORCING = "WanPipeline", "SkyReelsV2DiffusionForcingPipeline"
HELIOS = "HeliosPipeline"
NAMES = (WAN, FORCING, HELIOS)
# what the released checkpoints were trained for
SIZES = {
    WAN: {"height": 480, "width": 832, "frames": 81, "fps": 16.0},
    FORCING: {"height": 544, "width": 960, "frames": 97, "fps": 24.0},
    HELIOS: {"height": 384, "width": 640, "frames": 33, "fps": 24.0},
}


def diffusers() -> Any:
    """Return the library; raise ImportError with the command that installs it."""
    try:
        import diffusers
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Wan needs diffusers and transformers ({error}): {install('train')}"
        ) from error
    return diffusers


def load(model: str | Path, dtype: str) -> Any:
    """Load the pipeline of a folder or hub id.

    The index is read first, so that a wrong model fails without downloading gigabytes.
    """
    folder, wanted = Path(model), "expected a diffusers folder of a Wan text-to-video pipeline"
    cure = (
        "name a folder that WanPipeline.save_pretrained wrote, or a hub id such as "
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    )
    library = diffusers()
    if folder.is_dir() and not (folder / "model_index.json").exists():
        raise ValueError(f"{wanted}, got {folder}, which has no model_index.json: {cure}")
    if not folder.exists() and not is_hub_id(model):
        raise ValueError(f"{wanted}, got {str(model)!r}, and there is no such folder: {cure}")
    try:
        index = library.WanPipeline.load_config(str(model))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{wanted}, got {str(model)!r} ({str(error).splitlines()[0]}): {cure}"
        ) from error
    name = index.get("_class_name")
    if name not in NAMES:
        raise ValueError(f"{wanted}, got a {name} in {model}: {cure}")
    dtypes = {"default": getattr(torch, dtype), "vae": torch.float32}
    return check(getattr(library, name).from_pretrained(str(model), torch_dtype=dtypes))


def check(pipe: Any) -> Any:
    """Return the pipeline; raise ValueError if the backbone cannot drive it."""
    kinds: Any = tuple(getattr(diffusers(), name) for name in NAMES)
    if not isinstance(pipe, kinds):
        raise ValueError(
            f"expected model to be a folder, a hub id or a {' or a '.join(NAMES)}, got "
            f"{type(pipe).__name__}"
        )
    CHECKS[kind(pipe)](pipe)
    return pipe


def kind(pipe: Any) -> str:
    """Return which of the pipelines it is."""
    return next(each.__name__ for each in type(pipe).__mro__ if each.__name__ in NAMES)


def _check_wan(pipe: Any) -> None:
    """Raise ValueError for Wan 2.2, whose pipelines have other times or two networks."""
    if pipe.transformer is None or pipe.transformer_2 or pipe.config.expand_timesteps:
        raise ValueError(
            "expected a Wan 2.1 pipeline of one transformer, got a Wan 2.2 one: use a 2.1 "
            "checkpoint"
        )


def _check_forcing(pipe: Any) -> None:
    """Raise ValueError for a network that denoises block after block."""
    block = pipe.transformer.config.num_frame_per_block
    if block > 1:
        raise ValueError(
            "expected a network that denoises all latent frames together, num_frame_per_block "
            f"= 1, got {block}: vidrl does not drive asynchronous blocks"
        )


def _check_helios(pipe: Any) -> None:
    """Raise ValueError for a schedule whose path is not straight, or has several stages."""
    config = pipe.scheduler.config
    found = {name: config.get(name) for name in ("stages", "prediction_type", "scheduler_type")}
    straight = found["scheduler_type"] in ("euler", "unipc")
    if found["stages"] != 1 or found["prediction_type"] != "flow_prediction" or not straight:
        raise ValueError(
            "expected a scheduler of one stage, prediction_type flow_prediction and scheduler_type "
            f"euler or unipc, as that of the base model of Helios, got {found}: use the base model"
        )


CHECKS = {WAN: _check_wan, FORCING: _check_forcing, HELIOS: _check_helios}


def usual_size(pipe: Any) -> dict[str, float]:
    """Return the clip size for which the released checkpoints of a pipeline were trained."""
    return SIZES[kind(pipe)]


def scheduler(pipe: Any, shift: float | None) -> Any:
    """Return a scheduler of the checkpoint's own schedule, whose steps are of first order.

    Wan's releases come with UniPC, a multistep scheduler, whose shift is named `flow_shift`.
    """
    own, euler = pipe.scheduler, diffusers().FlowMatchEulerDiscreteScheduler
    if kind(pipe) == HELIOS:
        if shift is not None:
            raise ValueError(
                f"expected no flow_shift with Helios, whose schedule is fixed, got {shift}: leave "
                "it out"
            )
        return type(own).from_config(own.config, scheduler_type="euler")
    if isinstance(own, euler):
        return euler.from_config(own.config, **({} if shift is None else {"shift": shift}))
    if own.config.get("prediction_type") != "flow_prediction":
        raise ValueError(
            f"expected a scheduler of flow prediction, got {type(own).__name__} of "
            f"{own.config.get('prediction_type')}: save the pipeline with "
            f"FlowMatchEulerDiscreteScheduler"
        )
    return euler(shift=own.config.get("flow_shift", 1.0) if shift is None else shift)


def scheduler_notes(pipe: Any, ours: Any) -> tuple[str, ...]:
    """Return the note to show if `pipe()` samples with another scheduler than vidrl does."""
    own, name = pipe.scheduler, type(ours).__name__
    solver = ours.config.get("scheduler_type")
    if type(own) is type(ours) and own.config.get("scheduler_type") == solver:
        return ()
    shift = f"{name}(shift={ours.config.shift:g})"
    other = f'{name}.from_config(pipe.scheduler.config, scheduler_type="{solver}")'
    made = other if solver else shift
    return (
        f"the model's folder carries {type(own).__name__}, and vidrl samples with {made}, so "
        f"pipe() makes other clips of the same noise until pipe.scheduler = {made}",
    )


def times(pipe: Any, schedule: Any, steps: int, shape: Sequence[int]) -> list[float]:
    """Return the times of a schedule for latents of a shape (C, L, h, w); they are its sigmas."""
    if kind(pipe) != HELIOS:
        schedule.set_timesteps(steps)
        return [float(sigma) for sigma in schedule.sigmas.tolist()]
    import numpy
    from diffusers.pipelines.helios.pipeline_helios import calculate_shift

    config = schedule.config
    tokens = prod(shape[1:]) // prod(pipe.transformer.config.patch_size)
    usual: dict[str, float] = {"base_image_seq_len": 256, "max_image_seq_len": 4096}
    usual |= {"base_shift": 0.5, "max_shift": 1.15}
    mu = calculate_shift(tokens, *(config.get(name, value) for name, value in usual.items()))
    sigmas = numpy.linspace(0.999, 0.0, steps + 1)[:-1]  # as the pipeline's call has them
    schedule.set_timesteps(steps, sigmas=sigmas, mu=mu)
    return [float(sigma) for sigma in schedule.sigmas.tolist()]


def arguments(pipe: Any, t: Tensor, x: Tensor, fps: float, cond: Cond) -> dict[str, Any]:
    """Return the network's arguments beside latents and text.

    t is (B,), or (B, L) with one time for each latent frame, which Helios does not take.
    """
    if kind(pipe) == FORCING:
        return _forcing_arguments(t, x, fps)
    if kind(pipe) == HELIOS:
        return {"timestep": 1000 * t, **_helios_continuation.arguments(x, cond)}
    if t.dim() == 1:
        return {"timestep": 1000 * t}
    rows, columns = pipe.transformer.config.patch_size[1:]
    tokens = (x.shape[3] // rows) * (x.shape[4] // columns)
    return {"timestep": 1000 * t.repeat_interleave(tokens, 1)}


def _forcing_arguments(t: Tensor, x: Tensor, fps: float) -> dict[str, Any]:
    """Return the arguments of the network of SkyReels-V2."""
    timestep = (1000 * t).long()
    timestep = timestep if t.dim() == 2 else timestep[:, None].expand(-1, x.shape[2])
    # The network has one embedding for 16 frames a second, and one for all other rates. One
    # number serves all rows: the network repeats what it is given for each latent frame, and
    # adds it to all rows.
    rate = [0 if fps == 16 else 1]
    return {"timestep": timestep, "enable_diffusion_forcing": True, "fps": rate}
