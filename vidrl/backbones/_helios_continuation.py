"""Continue a clip of Helios: the network sees the latent frames of all chunks before, in a pyramid.

The network of Helios gets the clip's first latent frame, and its last ones in three sizes: the
last one as it is, the two before in patches twice as large, and the sixteen before these in patches
four times as large, all at time 0. Where a clip has fewer frames, zeros stand in their places. The
frames before are given: they are no part of a chunk's latents, and have no log-density. Each chunk
is decoded alone, as the pipeline of Helios does.

Legend: B batch, C latent channels, L latent frames of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import FOLLOWS, Cond, Continuation

# the latent frames that the network sees in patches of four, two and one times the size
SIZES = {"far": 16, "middle": 2, "last": 1}
SEEN = sum(SIZES.values())
HISTORY, FIRST = "history", "first_frame"


def check(history: int) -> None:
    """Raise ValueError for a history, which the network of Helios fixes."""
    if history != 1:
        raise ValueError(
            f"expected no history with Helios, which sees the last {SEEN} latent frames and "
            f"the first one, got history = {history}: leave it out"
        )


def arguments(x: Tensor, cond: Cond) -> dict[str, Tensor]:
    """Return the network's arguments about what comes before the chunks x (B, C, L, h, w).

    `cond` has the condition of a chunk, for each row or for some that are repeated in x. Without
    entries about earlier frames nothing comes before.
    """
    before = {
        name: cond[name].to(x).repeat(len(x) // len(cond[name]), 1, 1, 1, 1)
        if name in cond
        else x.new_zeros(*x.shape[:2], frames, *x.shape[3:])
        for name, frames in ((FIRST, 1), (HISTORY, SEEN))
    }
    frames = dict(zip(SIZES, before[HISTORY].split([*SIZES.values()], 2), strict=True))
    sizes = {"first": 1, **SIZES, "own": x.shape[2]}
    places = torch.arange(sum(sizes.values()), device=x.device)[None]
    at = dict(zip(sizes, places.split([*sizes.values()], 1), strict=True))
    return {
        "latents_history_short": torch.cat([before[FIRST], frames["last"]], 2),
        "latents_history_mid": frames["middle"],
        "latents_history_long": frames["far"],
        "indices_hidden_states": at["own"],
        "indices_latents_history_short": torch.cat([at["first"], at["last"]], 1),
        "indices_latents_history_mid": at["middle"],
        "indices_latents_history_long": at["far"],
    }


class HeliosContinuation(Continuation):
    """A continuation of a `Wan` that drives Helios: it sees the first and the last 19 frames."""

    def __init__(self, wan: Any, history: int):
        check(history)
        self.wan, self.frame_map = wan, list(wan.frame_map)

    def condition(self, cond: Cond, before: Tensor) -> Cond:
        """Return the last latent frames of the clip so far, and its first one."""
        follows = cond[FOLLOWS].to(before).view(-1, 1, 1, 1, 1) > 0
        first = torch.where(follows, cond[FIRST].to(before), before[:, :, :1])
        return {
            HISTORY: torch.cat([cond[HISTORY].to(before), before], 2)[:, :, -SEEN:],
            FIRST: first,
        }

    def absent(self, count: int) -> Cond:
        """Return zeros, which the network sees where nothing comes before."""
        channels, _, *size = self.wan.shape
        zeros = torch.zeros(count, channels, SEEN, *size, device=self.wan.device)
        return {HISTORY: zeros, FIRST: zeros[:, :, :1]}

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the prediction of the chunk, which reads the entries of its condition."""
        raw: Tensor = self.wan.predict(x, t, cond)
        return raw

    def decode(self, chunks: Sequence[Tensor], cond: Cond | None) -> Tensor:
        """Return the clips; each chunk is decoded as a clip of its own."""
        return torch.cat([self.wan.decode(chunk) for chunk in chunks], 1)
