"""Loads the weights of an embedded model from a file of safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def load(network: nn.Module, file: Path, kind: str) -> None:
    """Load weights into a network.

    `kind`: what the file holds, such as "a model of scenes", for the message. Raises ValueError
    for a file that is not there, and for weights of other names or shapes than the network's.
    """
    from safetensors.torch import load_file

    if not file.is_file():
        raise ValueError(f"expected the weights of {kind} in {file}, found no file")
    found, own = load_file(file), network.state_dict()
    wrong = [k for k in sorted({*own, *found}) if _shape(own, k) != _shape(found, k)]
    if wrong:
        raise ValueError(
            f"expected the {len(own)} tensors of the network in {file}, got {len(found)}, of "
            f"which {wrong[0]} differs: the configuration and {file.name} must be of one model"
        )
    network.load_state_dict(found)


def _shape(tensors: Mapping[str, Tensor], key: str) -> torch.Size | None:
    return tensors[key].shape if key in tensors else None
