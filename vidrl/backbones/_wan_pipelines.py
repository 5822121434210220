"""The pipelines that the backbone `wan` drives: Wan 2.1, and SkyReels-V2 and Helios, made of it.

All have the same text encoder, autoencoder and blocks. They differ in what the network gets beside
the latents and the text. Wan's takes one time for a clip, or one for each token. The network of
SkyReels-V2 (arXiv 2504.13074) takes one time for each latent frame, as diffusion forcing trains it
(arXiv 2407.01392), and whole timesteps, to which its pipeline rounds them down. The network of
Helios takes one time, and the latent frames of earlier chunks (`_helios_continuation`).

Legend: B batch, L latent frames.
"""

from __future__ import annotations

import json
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
UNIPC = "UniPCMultistepScheduler"
NAMES = (WAN, FORCING, HELIOS)
# the settings of schedulers that `scheduler` may change
CHANGES = (
    "scheduler_type",
    "shift",
    "flow_shift",
    "use_flow_sigmas",
    "solver_order",
    "disable_corrector",
)
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
    pipeline = getattr(diffusers(), read_name(model))
    dtypes = {"default": getattr(torch, dtype), "vae": torch.float32}
    return check(pipeline.from_pretrained(str(model), torch_dtype=dtypes))


def read_name(model: str | Path) -> str:
    """Return which of the pipelines a folder or hub id has; only its index is read.

    Raises ValueError for another pipeline, or none.
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
    name = str(index.get("_class_name"))
    if name not in NAMES:
        raise ValueError(
            f"{wanted}, or one of {', '.join(NAMES[1:])}, got a {name} in {model}: the backbone "
            'pipeline drives other pipelines, as backbone.name = "pipeline", or as '
            'backbone.options.base = "pipeline" of the backbone long'
        )
    return name


def check_continuation(model: object, history: int) -> None:
    """Raise ValueError for a history that a model does not take, before its weights are read."""
    name = read_name(model) if isinstance(model, (str, Path)) else kind(check(model))
    if name == HELIOS:
        _helios_continuation.check(history)


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
    if isinstance(own, euler) and kind(pipe) == WAN:
        return euler.from_config(own.config, **({} if shift is None else {"shift": shift}))
    if own.config.get("prediction_type") != "flow_prediction":
        wanted = {WAN: "FlowMatchEulerDiscreteScheduler", FORCING: UNIPC}[kind(pipe)]
        raise ValueError(
            f"expected a scheduler of flow prediction, got {type(own).__name__} of "
            f"{own.config.get('prediction_type')}: save the pipeline with {wanted}"
        )
    own_shift = own.config.get("flow_shift", 1.0) if shift is None else shift
    return _first_order(own, own_shift) if kind(pipe) == FORCING else euler(shift=own_shift)


def _first_order(own: Any, shift: float) -> Any:
    """Return UniPC with steps of first order, which are those of Euler.

    The pipeline of SkyReels-V2 steps each latent frame at a whole timestep, which the Euler
    scheduler of diffusers refuses.
    """
    steps = list(range(own.config.num_train_timesteps))
    options: dict[str, Any] = {"flow_shift": shift, "use_flow_sigmas": True}
    options |= {"solver_order": 1, "disable_corrector": steps}
    unipc = getattr(diffusers(), UNIPC)
    return unipc.from_config(own.config, **options)


def scheduler_notes(pipe: Any, ours: Any) -> tuple[str, ...]:
    """Return the note to show if `pipe()` samples with another scheduler than vidrl does."""
    own = pipe.scheduler
    if type(own) is type(ours) and not _changed(own, ours):
        return ()
    made = _source(own, ours)
    return (
        f"the model's folder carries {type(own).__name__}, and vidrl samples with {made}, so "
        f"pipe() makes other clips of the same noise until pipe.scheduler = {made}",
    )


def _changed(own: Any, ours: Any) -> dict[str, Any]:
    """Return the settings in which vidrl's scheduler differs from the pipeline's."""
    return {
        key: value
        for key in CHANGES
        if key in ours.config and (value := ours.config[key]) != own.config.get(key)
    }


def _source(own: Any, ours: Any) -> str:
    """Return the Python code that makes vidrl's scheduler."""
    name = type(ours).__name__
    if name == "FlowMatchEulerDiscreteScheduler":
        return f"{name}(shift={ours.config.shift:g})"
    changed = {key: json.dumps(value) for key, value in _changed(own, ours).items()}
    if "disable_corrector" in changed:  # a list of all steps
        changed["disable_corrector"] = f"list(range({len(ours.config.disable_corrector)}))"
    options = ", ".join(f"{key}={value}" for key, value in changed.items())
    return f"{name}.from_config(pipe.scheduler.config, {options})"


def times(pipe: Any, schedule: Any, steps: int, shape: Sequence[int]) -> list[float]:
    """Return the times of a schedule for latents of a shape (C, L, h, w); they are its sigmas."""
    if kind(pipe) != HELIOS:
        schedule.set_timesteps(steps)
        first, *others = (float(sigma) for sigma in schedule.sigmas.tolist())
        # UniPC begins a millionth below 1, where some samplers would divide by 1 - t
        return [1.0 if first > 1 - 1e-5 else first, *others]
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
    timestep = (1000 * t).long().clamp(max=999)  # the pipeline rounds the first one down, too
    timestep = timestep if t.dim() == 2 else timestep[:, None].expand(-1, x.shape[2])
    # The network has one embedding for 16 frames a second, and one for all other rates. One
    # number serves all rows: the network repeats what it is given for each latent frame, and
    # adds it to all rows.
    rate = [0 if fps == 16 else 1]
    return {"timestep": timestep, "enable_diffusion_forcing": True, "fps": rate}
