"""RAFT from torchvision, with weights from a file here; and any network of its kind as an
estimator of flow."""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

VARIABLE = "VIDRL_RAFT"  # environment variable: the file of weights that "raft" alone means
LEAST = 128  # the shorter side below which RAFT's coarsest correlations are empty
CURE = (
    "write flow='raft:/path/to/raft_large.pth', or set VIDRL_RAFT to that file (a state dict of torchvision's "
    "raft_large); any callable of two batches of frames works as flow too"
)


class Raft:
    """A network of RAFT's kind as an estimator: two batches (N, 3, H, W) in [0, 1] to flow
    (N, 2, H, W), pixels.

    `network(first, second)`, frames in [-1, 1] with sides that are multiples of 8, gives
    the flows of its iterations, the last of which counts. It follows the device of the
    frames.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[-2:]
        beyond = [max(LEAST, -(-side // 8) * 8) - side for side in (width, height)]
        edges = (
            beyond[0] // 2,
            beyond[0] - beyond[0] // 2,
            beyond[1] // 2,
            beyond[1] - beyond[1] // 2,
        )
        padded = (pad(2 * frames - 1, edges, mode="replicate") for frames in (first, second))
        flow = self.network.to(first.device)(*padded)[-1]
        return flow[..., edges[2] : edges[2] + height, edges[0] : edges[0] + width]


def load(path: str = "") -> Raft:
    """RAFT with the weights in `path`, or in the file that the environment names.

    Raises ValueError without a path or for other weights, FileNotFoundError without a file,
    ImportError without torchvision.
    """
    path = path or os.environ.get(VARIABLE, "")
    if not path:
        raise ValueError(f"flow 'raft' names no file of weights: {CURE}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected RAFT's weights at {path}, found no file: {CURE}")
    return _read(path)


@lru_cache(maxsize=1)
def _read(path: str) -> Raft:
    network = _torchvision().raft_large(weights=None, progress=False)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        raise ValueError(
            f"expected a state dict of torchvision's raft_large in {path}: {str(error)[:300]}"
        ) from error
    return Raft(network)


def _torchvision() -> Any:
    try:
        return importlib.import_module("torchvision.models.optical_flow")
    except ImportError as error:
        raise ImportError(
            "flow 'raft' needs the torchvision made for this torch: pip install torchvision"
        ) from error
