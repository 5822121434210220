"""Adapters that connect rewards to other trainers, in both directions, one call each.

No trainer is imported: an adapter follows the calling convention of a trainer.

From vidrl to a trainer: `flow_grpo`, `flow_factory`, `flow_factory_groupwise`, `verl_omni`,
`videox_fun`, `fastvideo`, `unirl` and `dance_grpo` convert a `Reward` to the object that
the trainer of that name calls. `clips` converts a `Reward` to a plain function of a list of
clips or paths, for any other trainer.

From a trainer to vidrl: each `from_...` function converts a reward that was written for the
trainer of that name to a `Reward`. `from_function` converts a plain function `fn(samples)`.

A clip that cannot be scored never becomes a number silently. The option `unscored` says
what the trainer gets instead: "raise" raises `Unscored` with the reasons, "nan" returns
NaN, and a number is returned in place of the score, with a warning each time.
"""

from __future__ import annotations

from ._hosts.classes import (
    DanceGRPO,
    VideoXFun,
    dance_grpo,
    flow_factory,
    flow_factory_groupwise,
    ranks,
    unirl,
    videox_fun,
)
from ._hosts.inside import (
    Foreign,
    from_fastvideo,
    from_flow_factory,
    from_flow_grpo,
    from_trl,
    from_verl_omni,
    from_videox_fun,
)
from ._hosts.outside import clips, fastvideo, flow_grpo, verl_omni
from ._hosts.shared import Policy, Unscored
from ._scoring.plain import as_reward as from_function

__all__ = [
    "DanceGRPO",
    "Foreign",
    "Policy",
    "Unscored",
    "VideoXFun",
    "clips",
    "dance_grpo",
    "fastvideo",
    "flow_factory",
    "flow_factory_groupwise",
    "flow_grpo",
    "from_fastvideo",
    "from_flow_factory",
    "from_flow_grpo",
    "from_function",
    "from_trl",
    "from_verl_omni",
    "from_videox_fun",
    "ranks",
    "unirl",
    "verl_omni",
    "videox_fun",
]
