"""The networks that VBench asks, in the formats of transformers and torchvision; imported
at first use."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vidrl.lookup.extras import install

from .._networks.hub import explain_load_errors
from ..flow import estimate

Network = Callable[..., Tensor]


def flow_network(name: str, asked_by: str) -> Network:
    """The flow network behind "raft:PATH", torchvision's, for pictures of 0..255."""
    if not is_raft(name):
        raise RuntimeError(
            f"{asked_by} needs an optical flow, got flow={name!r}: network=... (RAFT with raft-things.pth and 20 "
            f"iterations as published), flow='raft:PATH' (torchvision's raft_large) or flow='dis', whose numbers do "
            f"not compare with published ones"
        )
    raft = importlib.import_module("vidrl.rewards._flow.raft").load(name.partition(":")[2])
    return lambda first, second: raft(first / 255, second / 255)


def is_raft(name: str) -> bool:
    return name.partition(":")[0] == "raft"


def classical_flow(first: Tensor, second: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """OpenCV's flow there and back between pictures of 0..255, at their own size."""
    motion = estimate(torch.stack([first, second], 1) / 255, method, min(first.shape[-2:]))
    return motion.forward[:, 0], motion.backward[:, 0]


def transformers() -> Any:
    """The module, or an ImportError that says how to get it."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f"this reward's network needs transformers: {install('learned')}"
        ) from error


class Dino(nn.Module):
    """DINO's ViT (N, 3, H, W) -> (N, D), the class token after the last norm; any size of
    picture."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit
        vit.embeddings.interpolate_pos_encoding = self._positions  # type: ignore[union-attr]

    def forward(self, pixels: Tensor) -> Tensor:
        """The class token."""
        return self.vit(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]

    def _positions(self, embedded: Tensor, height: int, width: int) -> Tensor:
        inside: Any = self.vit.embeddings
        patch = (
            inside.patch_size[0] if isinstance(inside.patch_size, Sequence) else inside.patch_size
        )
        return dino_positions(inside.position_embeddings, height // patch, width // patch)


def dino_positions(codes: Tensor, rows: int, columns: int) -> Tensor:
    """Position codes (1, 1 + n n, D) for a grid of another shape, as DINO's own code
    interpolates them.

    Its scale is a tenth of a patch too large, along both sides, which transformers leaves
    out.
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
    """CLIP's image tower (N, 3, 224, 224) -> (N, D), projected."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        """The projected embedding."""
        return self.tower(pixel_values=pixels).image_embeds


def dino(weights: str) -> Dino:
    """DINO from a folder or a hub id in the format of transformers, "facebook/dino-vitb16"
    as published."""
    with explain_load_errors(weights):
        return Dino(transformers().ViTModel.from_pretrained(weights, add_pooling_layer=False))


def clip(weights: str) -> ClipImage:
    """CLIP's image tower from a folder or a hub id in the format of transformers."""
    with explain_load_errors(weights):
        return ClipImage(transformers().CLIPVisionModelWithProjection.from_pretrained(weights))


def tiny_dino(seed: int = 0) -> Dino:
    """DINO's architecture, small, with seeded random weights."""
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
    """The architecture of CLIP's image tower, small, with seeded random weights."""
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
