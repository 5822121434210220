"""Load UMT, the classifier of actions that VBench uses, as transformers' VideoMAE.

Both are the same network with different names.

Legend: N clips, T frames, P patches a frame, E width, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .._networks.hub import build_model, import_package, read_state, weights_file

WEIGHTS = "OpenGVLab/VBench_Used_Models/l16_ptk710_ftk710_ftk400_f16_res224.pth"
FRAMES, SIDE = 16, 224
TRAINED = 8  # frames for which the position codes are computed before they are stretched
EPS = 1e-6  # of every norm
HEAD = 64  # width of an attention head in L/16
BLOCK = re.compile(r"blocks\.(\d+)\.(.*)")
WHOLE = {
    "patch_embed.proj": "videomae.embeddings.patch_embeddings.projection",
    "fc_norm": "fc_norm",
    "head": "classifier",
}
PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


class Umt(nn.Module):
    """A network that maps prepared clips (N, 16, 3, 224, 224) to logits (N, K)."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, video: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(pixel_values=video).logits


def load(weights: str = WEIGHTS) -> Umt:
    """Load the UMT of a file: a local path, or owner/name/file of the hub.

    Li et al. 2023, arXiv 2303.16058; its code is under MIT. VBench keeps its copy of the
    weights on the hub.
    """
    return build_network(read_state(weights_file(weights)))


def build_network(state: Mapping[str, Tensor], head: int = HEAD) -> Umt:
    """Build the UMT with the published weights `state`, whose sizes are read from the weights.

    Raises ValueError if `state` is not that of a UMT.
    """
    if "patch_embed.proj.weight" not in state or "head.weight" not in state:
        raise ValueError(
            f"expected the weights of a UMT, as {WEIGHTS}, got "
            f"{', '.join(list(state)[:3]) or 'none'}"
        )
    config = configuration(state, head)
    model = build_model("VideoMAEForVideoClassification", config, rename_tensors(state))
    model.fc_norm.eps = EPS
    patches = (SIDE // config.patch_size) ** 2
    codes = state.get("pos_embed")
    model.videomae.embeddings.position_embeddings = (
        positions(patches, config.hidden_size) if codes is None else codes
    )
    return Umt(model)


def configuration(state: Mapping[str, Tensor], head: int) -> Any:
    """Return the VideoMAEConfig with the sizes of a UMT's state."""
    width, _, together, patch, _ = state["patch_embed.proj.weight"].shape
    depth = 1 + max((int(found[1]) for found in map(BLOCK.fullmatch, state) if found), default=-1)
    return import_package("transformers").VideoMAEConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // head,
        image_size=SIDE,
        intermediate_size=len(state["blocks.0.mlp.fc1.bias"]),
        patch_size=patch,
        num_frames=FRAMES,
        tubelet_size=together,
        num_labels=len(state["head.weight"]),
        layer_norm_eps=EPS,
        use_mean_pooling=True,
    )


def rename_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a UMT's state to VideoMAE's names; raise ValueError for others."""
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        block, (part, _, kind) = BLOCK.fullmatch(name), name.rpartition(".")
        if block:
            made |= _block(f"videomae.encoder.layer.{block[1]}.", block[2], value)
        elif part in WHOLE:
            made[f"{WHOLE[part]}.{kind}"] = value
        elif name != "pos_embed":
            raise ValueError(f"expected UMT's names, got {name!r}")
    return made


def _block(start: str, rest: str, value: Tensor) -> dict[str, Tensor]:
    """Rename one tensor of a layer; query, key and value are split from one tensor."""
    attention, (part, _, kind) = f"{start}attention.attention.", rest.rpartition(".")
    if rest == "attn.qkv.weight":
        of = ("query", "key", "value")
        return {
            f"{attention}{one}.weight": rows.clone()
            for one, rows in zip(of, value.chunk(3), strict=True)
        }
    if rest in ("attn.q_bias", "attn.v_bias"):
        return {f"{attention}{'query' if rest == 'attn.q_bias' else 'value'}.bias": value}
    if part not in PARTS:
        raise ValueError(f"expected UMT's names, got {rest!r} in a layer")
    return {f"{start}{PARTS[part]}.{kind}": value}


def positions(patches: int, width: int) -> Tensor:
    """Return sine and cosine codes of 8 frames, stretched linearly to 16 frames, (1, 16 P, E)."""
    place = torch.arange(TRAINED * patches, dtype=torch.float64)[:, None]
    angle = place / 10000 ** (torch.arange(width, dtype=torch.float64) // 2 * 2 / width)
    codes = torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos()).float()
    along = codes.view(TRAINED, patches * width).T[None]  # (1, P E, 8)
    return interpolate(along, size=FRAMES, mode="linear")[0].T.reshape(1, FRAMES * patches, width)


def tiny() -> Umt:
    """Return a UMT of one layer with random weights."""
    from .._networks.tiny import seeded
    from .kinetics import ACTIONS

    made = seeded(lambda: _Shapes(width=16, patch=112, classes=len(ACTIONS)))
    return build_network(dict(made.state_dict()), head=8)


class _Shapes(nn.Module):
    """A module that has the tensors of a UMT of one layer under their published names."""

    def __init__(self, width: int, patch: int, classes: int) -> None:
        super().__init__()
        part = nn.Module
        self.patch_embed = part()
        self.head, self.fc_norm = nn.Linear(width, classes), nn.LayerNorm(width)
        self.patch_embed.proj = nn.Conv3d(3, width, (1, patch, patch))
        one, self.blocks = part(), nn.ModuleList()
        self.blocks.append(one)
        one.norm1, one.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        one.attn, one.mlp = part(), part()
        one.attn.qkv, one.attn.proj = (
            nn.Linear(width, 3 * width, bias=False),
            nn.Linear(width, width),
        )
        one.attn.q_bias, one.attn.v_bias = (
            nn.Parameter(torch.zeros(width)),
            nn.Parameter(torch.zeros(width)),
        )
        one.mlp.fc1, one.mlp.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
