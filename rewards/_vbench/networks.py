"""Load the networks that VBench uses, in the formats of transformers and torchvision.

The libraries are imported at first use.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vidrl.lookup.extras import install

from .._flow import raft
from .._networks.hub import explain_load_errors
from ..flow import estimate

Network = Callable[..., Tensor]


def flow_network(name: str, asked_by: str) -> Network:
    """Return the flow network behind "raft:PATH", torchvision's, for pictures of 0..255."""
    if not is_raft(name):
        raise RuntimeError(
            f"{asked_by} needs an optical flow, got flow={name!r}: network=... (RAFT with "
            "raft-things.pth and 20 iterations as published), flow='raft:PATH' (torchvision's "
            "raft_large) or flow='dis', whose numbers do not compare with published ones"
        )
    network = raft.load(name.partition(":")[2])
    return lambda first, second: network(first / 255, second / 255)


def is_raft(name: str) -> bool:
    """Return whether the name of a flow means RAFT."""
    return name.partition(":")[0] == "raft"


def classical_flow(first: Tensor, second: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """Return OpenCV's flow both ways between pictures of 0..255, at their own size."""
    motion = estimate(torch.stack([first, second], 1) / 255, method, min(first.shape[-2:]))
    return motion.forward[:, 0], motion.backward[:, 0]


def transformers() -> Any:
    """Return the module transformers, or raise ImportError with the command that installs it."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f"this reward's network needs transformers: {install('learned')}"
        ) from error


class Dino(nn.Module):
    """A network that maps pictures (N, 3, H, W) of any size to DINO's class token (N, D)."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit
        vit.embeddings.interpolate_pos_encoding = self._positions  # type: ignore[union-attr]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the class token after the last norm."""
        return self.vit(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]

    def _positions(self, embedded: Tensor, height: int, width: int) -> Tensor:
        """Return position codes for the size of the present picture."""
        inside: Any = self.vit.embeddings
        patch = (
            inside.patch_size[0] if isinstance(inside.patch_size, Sequence) else inside.patch_size
        )
        return dino_positions(inside.position_embeddings, height // patch, width // patch)


def dino_positions(codes: Tensor, rows: int, columns: int) -> Tensor:
    """Interpolate position codes (1, 1 + n n, D) to another grid as DINO's own code does.

    DINO's scale is a tenth of a patch too large along both sides; transformers omits this.
    """
    side = math.isqrt(codes.shape[1] - 1)
    if rows == columns == side:
        return codes
    grid = codes[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    grid = interpolate(
        grid, scale_factor=scale, mode="bicubic", align_corners=False, recompute_scale_factor=False
    )
    return torch.cat([codes[:, :1], grid.flatten(2).transpose(1, 2)], 1)


class ClipImage(nn.Module):
    """A network that maps pictures (N, 3, 224, 224) to CLIP's projected features (N, D)."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the projected embedding."""
        return self.tower(pixel_values=pixels).image_embeds


def dino(weights: str) -> Dino:
    """Load DINO from a folder or a hub id; "facebook/dino-vitb16" is the published one."""
    with explain_load_errors(weights):
        return Dino(transformers().ViTModel.from_pretrained(weights, add_pooling_layer=False))


def clip(weights: str) -> ClipImage:
    """Load CLIP's image tower from a folder or a hub id in the format of transformers."""
    with explain_load_errors(weights):
        return ClipImage(transformers().CLIPVisionModelWithProjection.from_pretrained(weights))


def tiny_dino(seed: int = 0) -> Dino:
    """Return DINO's architecture, small, with seeded random weights."""
    library = transformers()
    size = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Dino(
            library.ViTModel(
                library.ViTConfig(image_size=224, patch_size=16, **size), add_pooling_layer=False
            )
        )


def tiny_clip(seed: int = 0, dimension: int = 16) -> ClipImage:
    """Return the architecture of CLIP's image tower, small, with seeded random weights."""
    library = transformers()
    size = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = library.CLIPVisionConfig(
            image_size=224, patch_size=32, projection_dim=dimension, **size
        )
        return ClipImage(library.CLIPVisionModelWithProjection(config))
