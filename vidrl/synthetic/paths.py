"""Paths of things that move up and down while the camera goes round the scene.

The time of an orbit is the number of the view: 0 is its begin and 1 its end. A path has the
mean 0 over the orbit, so that the place of a moving thing is its mean place.

Legend: T times; heights are in scene units, y up.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOTIONS = ("rising", "sinking", "bouncing")


def times(n: int) -> Tensor:
    """Return the middles of n equal parts of an orbit, which are views or arcs, (n,) in (0, 1).

    >>> times(4)
    tensor([0.1250, 0.3750, 0.6250, 0.8750])
    """
    return (torch.arange(n) + 0.5) / n


def profile(motion: str, at: Tensor) -> Tensor:
    """Return the height of a thing of travel 1 at times (T,), above its mean height, (T,).

    rising: t − 1/2. sinking: 1/2 − t. bouncing, up and down once: 4 t (1 − t) − 2/3. A thing
    without a motion ("") has 0. Raises ValueError for another motion.

    >>> profile("rising", torch.tensor([0.0, 0.5, 1.0]))
    tensor([-0.5000,  0.0000,  0.5000])
    >>> profile("bouncing", torch.tensor([0.0, 0.5, 1.0]))
    tensor([-0.6667,  0.3333, -0.6667])
    """
    if motion == "bouncing":
        return 4 * at * (1 - at) - 2 / 3
    if motion not in ("", *MOTIONS):
        raise ValueError(f"expected a motion of {', '.join(MOTIONS)}, or none, got {motion!r}")
    return {"": 0.0, "rising": 1.0, "sinking": -1.0}[motion] * (at - 0.5)
