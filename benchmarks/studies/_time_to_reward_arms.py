"""List the arms of the study time_to_reward, and the settings that all runs share.

An arm is an algorithm with its options; each arm has a learning rate of its own, found by a
sweep over `RATES`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidrl import config, plugin

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "scripts/recipes/study.toml"
# the learning rates that every arm may use; each is about 2.5 times the rate before it
RATES = (4.8e-4, 1.2e-3, 3e-3, 7.5e-3, 1.9e-2)
# indices of the rates that a sweep tries first; where the best rate lies at an end of those
# tried, the sweep tries the next rate beyond this end
FIRST_RATES = (2, 3, 1)
SWEEP_SEED = 100  # the seed of all sweeps; final runs have the seeds 0, 1, 2, ...
MOST_ROUNDS = 400  # the budget of CPU seconds ends a run, not the number of rounds
PLAIN_ROUNDS = 12  # the budget of the reference arm, from which the budget of all others follows
PLAIN = "plain"
# algorithms that are defined in two modules of this folder
VIPO, CHUNKS = "_time_to_reward_vipo:ViPO", "_time_to_reward_chunks:ChunkNFT"
COMMON = (
    "train.prompts_per_round=3",
    "train.group=8",
    "train.score_batch=16",
    'guard.action="warn"',
    "guard.bands={}",
    "train.checkpoint_every=100000",
    "train.show=1",
    # the study evaluates in a callback, so the trainer's own evaluations are kept to a minimum
    "data.held_out_n=1",
    "train.eval_steps=1",
    "train.eval_every=100000",
)


@dataclass(frozen=True)
class Arm:
    """An algorithm with its options, evaluated after each `every` rounds."""

    note: str
    algorithm: str
    options: Mapping[str, Any]
    every: int = 3
    more: tuple[str, ...] = ()  # additional overrides of the recipe

    def overrides(self, rate: float) -> tuple[str, ...]:
        """Return what a run at a rate overrides in the recipe, except seed and folder."""
        named = (f'algorithm.name="{self.algorithm}"', f"algorithm.options={inline(self.options)}")
        return (
            *COMMON,
            f"train.rounds={MOST_ROUNDS}",
            f"train.learning_rate={rate:g}",
            *named,
            *self.more,
        )


def inline(options: Mapping[str, Any]) -> str:
    """Format options as an inline table of TOML.

    >>> inline({"credit": "whole", "eta": 0.7, "per_part": True, "at": [0, 2]})
    '{credit = "whole", eta = 0.7, per_part = true, at = [0, 2]}'
    """
    return "{" + ", ".join(f"{name} = {json.dumps(value)}" for name, value in options.items()) + "}"


def missing(arm: Arm) -> str:
    """Return why the installed code cannot run an arm, or "" if it can."""
    try:
        recipe = config.load(ROOT / RECIPE, ['run="unused"', *arm.overrides(RATES[2])])
        config.check_plugins(recipe)
        plugin.load("algorithms", recipe.algorithm.name, **recipe.algorithm.options)
    except (ValueError, TypeError, KeyError, ImportError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


FLOW: dict[str, Any] = {"sampler": "flow_sde", "eta": 0.7, "steps": 10, "updates": 2}
PUBLISHED = FLOW | {
    "segments": 1,
    "credit": "whole",
    "scale": "global",
    "scale_eps": 1e-4,
    "clip_range": 1e-4,
}
# DanceGRPO's and MixGRPO's advantages
GROUP = {"scale": "unbiased", "scale_eps": 1e-8, "same_start": True}
SHIPPED = FLOW | {
    "train_steps": 4,
    "clip_range": 5e-4,
    "scale": "batch",
    "per_part": True,
    "same_start": True,
}
WHOLE: dict[str, Any] = {"segments": 1, "credit": "whole"}
SEGMENT: dict[str, Any] = {"segments": 5, "credit": "segment", "alpha": 1.0}
CONTROL: dict[str, Any] = {"segments": 5, "credit": "whole"}
EQUAL: dict[str, Any] = {"equalise": True}
DECAY = ("train.rounds=24", 'train.lr_schedule="linear"', "train.lr_end=0.1")
LARGE = ("train.prompts_per_round=6",)
FORWARD: dict[str, Any] = {
    "steps": 10,
    "noises": 4,
    "updates": 2,
    "scale": "batch",
    "per_part": True,
    "same_noise": True,
}

# The arms in the order in which they are run. Two arms may run at the same time.
ARMS: dict[str, Arm] = {
    PLAIN: Arm(
        "Flow-GRPO as published (arXiv 2505.05470), without its KL term", "grpo", PUBLISHED, 4
    ),
    "nft-5": Arm("DiffusionNFT, five segments, β 0.1", "nft", FORWARD | SEGMENT | {"beta": 0.1}, 2),
    "segment": Arm("segment GRPO as the demo ships it", "grpo", SHIPPED | SEGMENT | EQUAL),
    "control": Arm(
        "the same, five ratios a clip but whole-clip credit", "grpo", SHIPPED | CONTROL | EQUAL
    ),
    "nft-1": Arm("DiffusionNFT, whole clip, β 0.1", "nft", FORWARD | WHOLE | {"beta": 0.1}, 2),
    "awm-5": Arm("AWM, five segments", "awm", FORWARD | SEGMENT, 2),
    "awm-1": Arm("AWM (arXiv 2509.25050), whole clip", "awm", FORWARD | WHOLE, 2),
    "mix": Arm(
        "MixGRPO (arXiv 2507.21802): noise in a window of 4 steps",
        "grpo",
        FLOW | WHOLE | GROUP | {"clip_range": 1e-4, "window": 4},
    ),
    "whole": Arm(
        "the segment arm's settings with one ratio a clip", "grpo", SHIPPED | WHOLE | EQUAL
    ),
    "draft": Arm(
        "DRaFT-1 (arXiv 2309.17400) on the parts that carry gradient",
        "reward_backprop",
        {"way": "draft", "steps": 10, "last": 1, "blind_parts": True},
        every=2,
    ),
    "nft-published": Arm(
        "DiffusionNFT (arXiv 2509.16117), whole clip, β 1",
        "nft",
        {"steps": 10, "noises": 4, "updates": 2, "scale": "group"} | WHOLE | {"beta": 1.0},
        every=2,
    ),
    "segment-window": Arm(
        "segment GRPO, noise in a window of 4 steps",
        "grpo",
        SHIPPED | SEGMENT | EQUAL | {"window": 4, "train_steps": 0},
    ),
    "segment-unequal": Arm("segment without the step equaliser", "grpo", SHIPPED | SEGMENT),
    "control-unequal": Arm("control without the step equaliser", "grpo", SHIPPED | CONTROL),
    "whole-unequal": Arm("whole without the step equaliser", "grpo", SHIPPED | WHOLE),
    "dance": Arm(
        "DanceGRPO (arXiv 2505.07818), five of eight steps trained",
        "grpo",
        {
            "sampler": "dance_sde",
            "eta": 0.3,
            "steps": 10,
            "updates": 2,
            "train_steps": 5,
            "clip_range": 1e-4,
        }
        | WHOLE
        | GROUP,
    ),
    "branch": Arm("BranchGRPO (arXiv 2509.06040)", "branch", FLOW | WHOLE | {"clip_range": 5e-4}),
    "ddpo": Arm(
        "DDPO (arXiv 2305.13301), importance sampling",
        "ddpo",
        {"sampler": "flow_sde", "eta": 0.7, "steps": 10, "train_steps": 4},
    ),
    "tempflow": Arm(
        "TempFlow-GRPO (arXiv 2508.04324): one fork, noise-aware weights",
        "branch",
        FLOW
        | WHOLE
        | {"clip_range": 5e-4, "window": 1, "at": [0], "factors": [8], "step_weight": "noise"},
    ),
    "dpo": Arm(
        "Flow-DPO (arXiv 2501.13918), online, four pairs a group",
        "dpo",
        {"steps": 10, "noises": 4, "segments": 1, "pairs": 4},
        2,
    ),
    "nft-5-decay": Arm(
        "nft-5 with KL, the learning rate falling to a tenth over 24 rounds",
        "nft",
        FORWARD | SEGMENT | {"beta": 0.1, "kl_beta": 0.01},
        2,
        DECAY,
    ),
    "nft-5-reuse": Arm(
        "nft-5 with twice the noises and twice the updates on the same clips",
        "nft",
        FORWARD | SEGMENT | {"beta": 0.1, "noises": 8, "updates": 4},
        2,
    ),
    "nft-5-apart": Arm(
        "nft-5 with noises of its own for each clip of a group",
        "nft",
        FORWARD | SEGMENT | {"beta": 0.1, "same_noise": False},
        2,
    ),
    "segment-48": Arm("segment with 48 clips a round", "grpo", SHIPPED | SEGMENT | EQUAL, 2, LARGE),
    "nft-5-48": Arm(
        "nft-5 with 48 clips a round", "nft", FORWARD | SEGMENT | {"beta": 0.1}, 1, LARGE
    ),
    "vipo": Arm(
        "ViPO (arXiv 2511.18719): the settings of whole, "
        "its advantage spread by a map over space and time",
        VIPO,
        SHIPPED | WHOLE | EQUAL,
    ),
    "chunks": Arm(
        "RLinf's chunk advantages: nft-5 with the norm of a segment's step bounded",
        CHUNKS,
        FORWARD | SEGMENT | {"beta": 0.1, "max_drift": 0.5},
        2,
    ),
    "plain-wide": Arm(
        "plain with the wider clip range of the recipes, 5e-4",
        "grpo",
        PUBLISHED | {"clip_range": 5e-4},
        4,
    ),
}
