"""An estimator of flow that runs torchvision's RAFT with weights from a local file."""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

VARIABLE = "VIDRL_RAFT"  # environment variable that names the file of weights
LEAST_SIDE = 128  # below it RAFT's coarsest correlation volume is empty
CURE = (
    "write flow='raft:/path/to/raft_large.pth', or set VIDRL_RAFT to that file (a state dict of "
    "torchvision's raft_large); any callable of two batches of frames works as flow too"
)


class Raft:
    """An estimator of flow that wraps RAFT or a network with the same interface.

    A call maps two batches of frames (N, 3, H, W) in [0, 1] to flow (N, 2, H, W), pixels.
    `network(first, second)` gets frames in [-1, 1] whose sides are multiples of 8, and
    returns the flows of its iterations; the last flow is used. The network is moved to the
    device of the frames.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[-2:]
        # the pixels that are missing up to the next multiple of 8, or up to LEAST_SIDE
        margins = [max(LEAST_SIDE, -(-side // 8) * 8) - side for side in (width, height)]
        # left, right, top, bottom: the picture lies in the middle of the padded one
        edges = [side for margin in margins for side in (margin // 2, margin - margin // 2)]
        padded = (pad(2 * frames - 1, edges, mode="replicate") for frames in (first, second))
        flow = self.network.to(first.device)(*padded)[-1]
        return flow[..., edges[2] : edges[2] + height, edges[0] : edges[0] + width]


def load(path: str = "") -> Raft:
    """Load RAFT with the weights in `path`, or in the file that VIDRL_RAFT names.

    Raises ValueError without a path or for other weights, FileNotFoundError where there is
    no file, ImportError without torchvision.
    """
    path = path or os.environ.get(VARIABLE, "")
    if not path:
        raise ValueError(f"flow 'raft' names no file of weights: {CURE}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected RAFT's weights at {path}, found no file: {CURE}")
    return _read(path)


@lru_cache(maxsize=1)
def _read(path: str) -> Raft:
    """Read the weights into torchvision's raft_large."""
    network = _torchvision().raft_large(weights=None, progress=False)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        raise ValueError(
            f"expected a state dict of torchvision's raft_large in {path}: {str(error)[:300]}"
        ) from error
    return Raft(network)


def _torchvision() -> Any:
    """Import torchvision's flow networks, or raise ImportError with the cure."""
    try:
        return importlib.import_module("torchvision.models.optical_flow")
    except ImportError as error:
        raise ImportError(
            "flow 'raft' needs the torchvision made for this torch: pip install torchvision"
        ) from error
