"""Load a pipeline, and find which of its modules are trained, frozen, encode and decode."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidrl.lookup.extras import install
from vidrl.plugin import nearest

from ._runner import FRAMES
from .base import is_hub_id

NETWORK_NAME = re.compile(
    r"(transformer|unet|prior|decoder)(_\d+)?"
)  # what denoises, by its name in a pipeline
# Arguments of a pipeline's call that vidrl sets itself.
RESERVED = (
    "prompt",
    "generator",
    "latents",
    "output_type",
    "return_dict",
    "num_inference_steps",
    "timesteps",
    "sigmas",
    "num_images_per_prompt",
    "num_videos_per_prompt",
    "callback_on_step_end",
    "eta",
)


def diffusers() -> Any:
    """Return the library; raise ImportError with the command that installs it."""
    try:
        import diffusers
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"a diffusers pipeline needs diffusers and transformers ({error}): {install('train')}"
        ) from error
    return diffusers


def load(model: str | Path, dtype: str) -> Any:
    """Load the pipeline of a folder or hub id.

    The index is read first, so that a wrong model fails without a download. Raises
    ValueError for a class that the installed diffusers does not have, and for missing
    components.
    """
    entries = index(model)
    name, version = entries.get("_class_name"), entries.get("_diffusers_version", "another version")
    if not isinstance(name, str) or not hasattr(diffusers(), name):
        raise ValueError(
            f"expected a pipeline of diffusers {diffusers().__version__} in {model}, got {name}, "
            f"which was saved by {version}: install a newer diffusers, or write a backbone for "
            "it (CONTRIBUTING.md, 'A backbone')"
        )
    _check_pictures(getattr(diffusers(), name))
    _check_complete(Path(model), entries)
    dtypes = {"default": getattr(torch, dtype), "vae": torch.float32}
    try:
        with warnings.catch_warnings():
            # diffusers 0.38 warns of `torch_dtype`, but knows no other name of the option
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated")
            return diffusers().DiffusionPipeline.from_pretrained(
                str(model), torch_dtype=dtypes, use_safetensors=True
            )
    except (OSError, ValueError, AttributeError, ImportError) as error:
        cure = (
            newer_version_note(entries)
            or "complete the folder, or load it once and write it again with save_pretrained"
        )
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"expected every component that {model}/model_index.json names, with weights as "
            f"safetensors, got: {reason}: {cure}"
        ) from error


def _check_complete(folder: Path, index: Mapping[str, Any]) -> None:
    """Raise ValueError if a local folder lacks a component that its index names."""
    named = [
        name for name, part in index.items() if isinstance(part, list) and part[-1] is not None
    ]
    missing = [name for name in named if not (folder / name).is_dir()] if folder.is_dir() else []
    if missing:
        raise ValueError(
            f"expected every component that {folder}/model_index.json names, got no folder "
            f"{', '.join(missing)} there: copy the whole model again"
        )


def newer_version_note(index: Mapping[str, Any]) -> str:
    """Return the advice if a newer diffusers than the installed one saved a pipeline, else "".

    >>> newer_version_note({"_diffusers_version": "99.0"}).partition(":")[0]
    'diffusers 99.0 saved the model, which is newer than the installed one'
    >>> newer_version_note({"_diffusers_version": "0.1.0"})
    ''
    """
    saved, own = str(index.get("_diffusers_version", "0")), diffusers().__version__
    if _numbers(saved) <= _numbers(own):
        return ""
    return (
        f"diffusers {saved} saved the model, which is newer than the installed one: install "
        f"diffusers {saved}, because {own} does not know, or leaves out, what came later"
    )


def _numbers(version: str) -> list[int]:
    """Return major and minor number of a version: 0 and 39 of 0.39.0.dev0."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def index(model: str | Path) -> Mapping[str, Any]:
    """Return the content of model_index.json; raise ValueError if there is none."""
    folder, wanted = Path(model), "expected a diffusers folder or hub id of a pipeline"
    cure = "name a folder that save_pretrained of a pipeline wrote, with a model_index.json"
    if folder.is_file():
        raise ValueError(
            f"{wanted}, got the file {folder}: load it with from_single_file of its pipeline and "
            "write a folder with save_pretrained"
        )
    if folder.is_dir() and not (folder / "model_index.json").exists():
        raise ValueError(f"{wanted}, got {folder}, which {_describe_folder(folder)}: {cure}")
    if not folder.exists() and not is_hub_id(model):
        raise ValueError(f"{wanted}, got {str(model)!r}, and there is no such folder: {cure}")
    try:
        return diffusers().DiffusionPipeline.load_config(str(model))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{wanted}, got {str(model)!r} ({str(error).strip().splitlines()[0]}): {cure}"
        ) from error


def _describe_folder(folder: Path) -> str:
    """Say what a folder without an index is."""
    inside = {file.name for file in folder.iterdir()}
    if "metrics.jsonl" in inside:
        return "is a run of vidrl: name the model that it trained"
    if "adapter_config.json" in inside or any("lora" in name for name in inside):
        return "holds a LoRA: name the model that it is for, and the LoRA in policy.lora"
    if "config.json" in inside:
        return "holds one component of a pipeline"
    return "has no model_index.json"


def check(pipe: Any) -> Any:
    """Return the pipeline; raise ValueError for another object or a missing component."""
    if not isinstance(pipe, diffusers().DiffusionPipeline):
        raise ValueError(
            f"expected model to be a folder, a hub id or a pipeline in memory, got "
            f"{type(pipe).__name__}"
        )
    _check_pictures(type(pipe))
    optional = set(getattr(pipe, "_optional_components", ()))
    missing = [
        name for name, part in pipe.components.items() if part is None and name not in optional
    ]
    if missing:
        raise ValueError(
            f"expected every component of {type(pipe).__name__}, got None as "
            f"{', '.join(missing)}: load the whole pipeline"
        )
    return pipe


def _check_pictures(kind: type) -> None:
    """Raise ValueError for the class of a pipeline that makes sound or shapes, and no pictures.

    The call of a pipeline of sound has arguments of sound, and none of the size of a picture. A
    pipeline of shapes has a renderer, which draws views without gradient, after the loop.
    """
    if any("renderer" in name for name in inspect.signature(kind).parameters):
        raise ValueError(
            f"expected a pipeline that makes pictures or films, got {kind.__name__}, which makes "
            "3D shapes: its renderer returns no tensor and carries no gradient; name a model of "
            "images or of video, or train the backbone scene (docs/modalities.md)"
        )
    names = inspect.signature(inspect.unwrap(kind.__call__)).parameters
    sound = [name for name in names if re.search("audio|waveform", name)]
    if sound and not {"height", "width", "image", "video", *FRAMES} & set(names):
        raise ValueError(
            f"expected a pipeline that makes pictures or films, got {kind.__name__}, which makes "
            "sound alone: name a model of images or of video"
        )


def networks(pipe: Any) -> dict[str, nn.Module]:
    """Return the networks that denoise, by their name in the pipeline."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    found = {name: part for name, part in parts.items() if NETWORK_NAME.fullmatch(name)}
    if not found:
        raise ValueError(
            f"expected a pipeline with a transformer or a unet, got {type(pipe).__name__} with "
            f"{', '.join(parts) or 'no network'}: write a backbone for it (CONTRIBUTING.md, 'A "
            f"backbone')"
        )
    return found


def select_trained(
    found: Mapping[str, nn.Module], train: Sequence[str], pipeline: str
) -> dict[str, nn.Module]:
    """Return the networks that are trained: all, or those that `train` names."""
    wrong = [name for name in train if name not in found]
    if wrong:
        raise ValueError(
            f"expected backbone.options.train to name networks of {pipeline}, got {wrong[0]!r}: "
            f"{nearest(wrong[0], found)}"
        )
    return {name: part for name, part in found.items() if not train or name in train}


def frozen(pipe: Any) -> dict[str, nn.Module]:
    """Return the modules of a pipeline that do not denoise."""
    return {
        name: part
        for name, part in pipe.components.items()
        if isinstance(part, nn.Module) and not NETWORK_NAME.fullmatch(name)
    }


def autoencoder(parts: Mapping[str, nn.Module]) -> nn.Module | None:
    """Return the module that decodes latents to pixels, None if there is none."""
    return next(
        (part for part in parts.values() if hasattr(part, "decode") and hasattr(part, "encode")),
        None,
    )


def check_call(call: Mapping[str, Any], call_parameters: Mapping[str, Any], pipeline: str) -> None:
    """Raise ValueError for a keyword that the pipeline does not take, or that vidrl sets."""
    for name in call:
        if name in RESERVED:
            raise ValueError(
                f"expected backbone.options.call without {name!r}, which vidrl gives the "
                f"pipeline itself"
            )
        if name not in call_parameters:
            known = [key for key in call_parameters if key not in (*RESERVED, "self")]
            raise ValueError(
                f"expected backbone.options.call to hold arguments of {pipeline}, got {name!r}: "
                f"{nearest(name, known)}"
            )


def arguments(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a pipeline's call."""
    return inspect.signature(inspect.unwrap(type(pipe).__call__)).parameters


def enable_checkpointing(found: Mapping[str, nn.Module]) -> None:
    """Turn on gradient checkpointing: less memory for a second computation of the layers.

    Raises ValueError for a network that does not support it.
    """
    for name, network in found.items():
        if not getattr(network, "_supports_gradient_checkpointing", False):
            raise ValueError(
                f"expected networks that can checkpoint their gradient, got {name}, a "
                f"{type(network).__name__}: set gradient_checkpointing = false"
            )
        enable: Any = network.enable_gradient_checkpointing
        enable()


def scheduler_notes(pipeline_scheduler: Any, vidrl_scheduler: Any) -> tuple[str, ...]:
    """Return the note to show if `pipe()` samples with another scheduler than vidrl does."""
    kind = type(vidrl_scheduler).__bases__[1]  # a probe stands over the class
    if type(pipeline_scheduler) is kind:
        return ()
    flow = "shift" in vidrl_scheduler.config
    assignment = kind.__name__ + (
        f"(shift={vidrl_scheduler.config.shift:g})" if flow else ".from_config(...)"
    )
    return (
        f"the model carries {type(pipeline_scheduler).__name__}, and vidrl samples with "
        f"{kind.__name__}, so pipe() makes other clips of the same noise until pipe.scheduler = "
        f"{assignment}",
    )
