"""The pipelines that the backbone `wan` drives: Wan 2.1, and SkyReels-V2 with diffusion forcing.

Both have the same text encoder, autoencoder and blocks. They differ in how the network gets its
times. Wan's takes one time for a clip, or one for each token. The network of SkyReels-V2
(arXiv 2504.13074) takes one time for each latent frame, as diffusion forcing trains it
(arXiv 2407.01392), and whole timesteps, to which its pipeline rounds them down.

Legend: B batch, L latent frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.lookup.extras import install

from .base import is_hub_id

WAN, FORCING = "WanPipeline", "SkyReelsV2DiffusionForcingPipeline"
NAMES = (WAN, FORCING)
# what the released checkpoints were trained for
SIZES = {
    WAN: {"height": 480, "width": 832, "frames": 81, "fps": 16.0},
    FORCING: {"height": 544, "width": 960, "frames": 97, "fps": 24.0},
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
    if forcing(pipe):
        block = pipe.transformer.config.num_frame_per_block
        if block > 1:
            raise ValueError(
                "expected a network that denoises all latent frames together, num_frame_per_block "
                f"= 1, got {block}: vidrl does not drive asynchronous blocks"
            )
    elif pipe.transformer is None or pipe.transformer_2 or pipe.config.expand_timesteps:
        raise ValueError(
            "expected a Wan 2.1 pipeline of one transformer, got a Wan 2.2 one: use a 2.1 "
            "checkpoint"
        )
    return pipe


def forcing(pipe: Any) -> bool:
    """Return whether the network takes one time for each latent frame."""
    return any(kind.__name__ == FORCING for kind in type(pipe).__mro__)


def usual_size(pipe: Any) -> dict[str, float]:
    """Return the clip size for which the released checkpoints of a pipeline were trained."""
    return SIZES[FORCING if forcing(pipe) else WAN]


def time_arguments(pipe: Any, t: Tensor, x: Tensor, fps: float) -> dict[str, Any]:
    """Return the network's arguments about time: for t (B,), or (B, L) of each latent frame."""
    if forcing(pipe):
        timestep = (1000 * t).long()
        timestep = timestep if t.dim() == 2 else timestep[:, None].expand(-1, x.shape[2])
        # The network has one embedding for 16 frames a second, and one for all other rates. One
        # number serves all rows: the network repeats what it is given for each latent frame, and
        # adds it to all rows.
        rate = [0 if fps == 16 else 1]
        return {"timestep": timestep, "enable_diffusion_forcing": True, "fps": rate}
    if t.dim() == 1:
        return {"timestep": 1000 * t}
    rows, columns = pipe.transformer.config.patch_size[1:]
    tokens = (x.shape[3] // rows) * (x.shape[4] // columns)
    return {"timestep": 1000 * t.repeat_interleave(tokens, 1)}
