"""Rewards in other trainers, and other trainers' rewards here: one call each way, no
trainer is imported.

Out: `flow_grpo`, `flow_factory`, `flow_factory_groupwise`, `verl_omni`, `videox_fun`,
`fastvideo`, `unirl` and `dance_grpo` make of a Reward what that trainer calls, and `clips`
what any other calls with a list of clips or paths. In: `from_...` makes a Reward of what
was written for one; `from_function` makes a Reward of a plain function `fn(samples)`.

A clip that cannot be scored never becomes a number by itself. `unscored` says what the
trainer sees instead: "raise" (Unscored, with the reasons), "nan", or a number of yours,
with a warning each time.
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
