"""Turn a Reward into the objects and classes that other trainers want.

Flow-Factory and UniRL are imported when their adapter is called, because their classes are
the bases of the result.

Shapes: B clips, F frames, C channels, H W pixels.
"""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..base import Reward
from .shared import (
    Policy,
    as_clip,
    check_five_axes,
    checked_reward,
    open_clip,
    rate_of,
    reward_name,
    score_clips,
    values_for_trainer,
)


def flow_factory(reward: Reward, fps: float, unscored: Policy = "raise") -> type:
    """Return a PointwiseRewardModel class for Flow-Factory's `reward_model`.

    The recipe names the class as `my_module.MyReward`. The class takes clips as tensors (F,
    C, H, W), of any sizes, and gives RewardModelOutput(rewards (B,), extra_info). In
    Flow-Factory a NaN makes the advantages of all clips NaN, hence unscored="raise". Raises
    ImportError without Flow-Factory. Sources: X-GenGroup/Flow-Factory,
    src/flow_factory/rewards/abc.py, reward_processor.py, registry.py.
    """
    return _model("PointwiseRewardModel", reward, fps, unscored, lambda values: values)


def flow_factory_groupwise(
    reward: Reward,
    fps: float,
    within: Callable[[Tensor], Tensor] | None = None,
    unscored: Policy = "raise",
) -> type:
    """Return a GroupwiseRewardModel class for Flow-Factory, which sees all clips of one prompt.

    `within` maps the group's scores (B,) to rewards (B,); by default to ranks in [0, 1],
    with ties halved. Sources: X-GenGroup/Flow-Factory, src/flow_factory/rewards/abc.py,
    reward_processor.py.
    """
    return _model("GroupwiseRewardModel", reward, fps, unscored, within or ranks)


def videox_fun(
    reward: Reward,
    fps: float,
    best: float | None = None,
    scale: float = 1.0,
    unscored: Policy = "raise",
) -> VideoXFun:
    """Return VideoX-Fun's `loss_fn(frames, prompts) -> (loss, reward)`, with gradients.

    `frames` (B, C, F, H, W) in [0, 1]. loss = -scale * mean reward, or scale * mean |reward
    - best|, as VideoX-Fun's own rewards have with `max_reward`. `fps` is the rate of the
    frames that VideoX-Fun passes (`num_sampled_frames` thins them out). Raises ValueError
    for a reward without gradients. Sources: aigc-apps/VideoX-Fun,
    videox_fun/reward/reward_fn.py, scripts/wan2.1_fun/train_reward_lora.py.

    >>> from vidrl.rewards.flicker import Flicker
    >>> frames = torch.rand(2, 3, 5, 32, 32, requires_grad=True)
    >>> loss, value = videox_fun(Flicker(), fps=16)(frames, ["noise", "noise"])
    >>> loss.backward()
    >>> bool((frames.grad != 0).any())
    True
    """
    reward = checked_reward(reward, unscored, fps)
    if not getattr(reward, "differentiable", False):  # a plain function has no gradients either
        raise ValueError(
            f"expected a reward with gradients, got {reward_name(reward)}, which says "
            "differentiable = False: `vidrl list rewards --json` names those that have them"
        )
    return VideoXFun(reward, fps, best, scale, unscored)


@dataclass(frozen=True)
class VideoXFun:
    """A loss function that `videox_fun` returns; `get_reward` gives one value a clip."""

    reward: Reward
    fps: float
    best: float | None
    scale: float
    unscored: Policy

    def __call__(
        self, batch_frames: Tensor, batch_prompt: Sequence[str] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss to minimise, and the mean reward."""
        values = self.get_reward(batch_frames, batch_prompt)
        away = -values if self.best is None else (values - self.best).abs()
        return self.scale * away.mean(), values.mean()

    def get_reward(self, batch_frames: Tensor, batch_prompt: Sequence[str] | None = None) -> Tensor:
        """Return the reward of each clip, (B,)."""
        clips = check_five_axes(batch_frames, "(batch, channels, frames, height, width)").transpose(
            1, 2
        )
        prompts = batch_prompt if batch_prompt is not None else [""] * len(clips)
        found = score_clips(
            self.reward, [as_clip(clip) for clip in clips], prompts, self.fps, gradients=True
        )
        return values_for_trainer(found, self.unscored)


def unirl(reward: Reward, fps: float, unscored: Policy = "raise") -> type:
    """Return a RewardBackend class of videos for UniRL.

    The recipe names the class as `_target_: my_module.MyReward` under `reward.backend`. The
    class reads the request's `videos`, tensors (C, F, H, W) in [0, 1], and its prompts. A
    clip that cannot be scored is a failure of its sample, with the reason, at which UniRL's
    RewardService stops the run; if `unscored` is a number, this number replaces the score,
    with a warning. Raises ImportError without UniRL. Sources: Tencent-Hunyuan/UniRL,
    unirl/reward/base.py, service.py, unirl/types/reward.py.
    """
    reward = checked_reward(reward, unscored, fps, ("raise",))
    base = _imported("unirl.reward.base", "UniRL").RewardBackend
    answer = _imported("unirl.types.reward", "UniRL").RewardResponse

    def init(self: Any, base_device: str = "", batch_size: int = 8) -> None:
        base.__init__(
            self, model_name=f"vidrl_{reward_name(reward).lower()}", batch_size=batch_size
        )

    def compute_rewards(self: Any, request: Any) -> Any:
        start, clips = time.monotonic(), request.videos
        if clips is None:
            raise ValueError(
                "expected a request with videos, got none: this reward's input_kind is 'video'"
            )
        found = score_clips(
            reward, [as_clip(clip.transpose(0, 1)) for clip in clips], request.prompts, fps
        )
        values = values_for_trainer(found, "nan" if unscored == "raise" else unscored).tolist()
        lost = [
            why if math.isnan(value) else None for value, why in zip(values, found.why, strict=True)
        ]
        return answer(
            rewards=values,
            component_rewards={name: part.tolist() for name, part in found.parts.items()},
            successes=[why is None for why in lost],
            errors=lost,
            compute_time=time.monotonic() - start,
        )

    facts = {
        "__init__": init,
        "compute_rewards": compute_rewards,
        "is_available": lambda self: True,
        "input_kind": "video",
        "__doc__": f"vidrl's {reward_name(reward)}.",
    }
    return type(f"Vidrl{reward_name(reward)}", (base,), facts)


def dance_grpo(reward: Reward, unscored: Policy = "raise") -> DanceGRPO:
    """Return a replacement of DanceGRPO's `inferencer`.

    DanceGRPO calls `inferencer.reward(video_paths, prompts, use_norm=True)`. The result is
    one dict a clip: "VQ", "MQ" and "TA" are the reward, "Overall" is their sum, as in
    VideoAlign, so that vq_coef + mq_coef weighs the reward. The rate is that of each file.
    DanceGRPO silently turns every Exception of a reward into the reward -1; so an error,
    and a clip that cannot be scored, raises SystemExit, which ends the process with the
    reason. `unscored` is "raise", or a number that replaces the score, with a warning.
    Sources: XueZeyue/DanceGRPO, fastvideo/train_grpo_hunyuan.py,
    train_grpo_skyreels_i2v.py, fastvideo/models/videoalign/inference.py.
    """
    reward = checked_reward(reward, unscored, None, ("raise",))
    return DanceGRPO(reward, unscored)


@dataclass(frozen=True)
class DanceGRPO:
    """An object that `dance_grpo` returns; `reward(video_paths, prompts)` gives dicts."""

    scorer: Reward
    unscored: Policy

    def reward(
        self,
        video_paths: Sequence[str | os.PathLike[str]],
        prompts: Sequence[str],
        fps: float | None = None,
        num_frames: int | None = None,
        max_pixels: int | None = None,
        use_norm: bool = True,
    ) -> list[dict[str, float]]:
        """Return the reward of each file; ignore `use_norm` and refuse VideoAlign's options."""
        try:
            if (fps, num_frames, max_pixels) != (None, None, None):
                raise ValueError(
                    "expected no fps, num_frames or max_pixels: every frame of a file is read, at "
                    "the "
                    "rate and size of the file"
                )
            values = self._values(video_paths, prompts)
        except Exception as error:
            raise SystemExit(f"vidrl: {error}") from error
        return [{"VQ": value, "MQ": value, "TA": value, "Overall": 3 * value} for value in values]

    def _values(
        self, paths: Sequence[str | os.PathLike[str]], prompts: Sequence[str]
    ) -> list[float]:
        """Read and score the files."""
        if isinstance(paths, str | os.PathLike):
            raise ValueError(
                f"expected a list of paths of video files, got {paths!r}: one clip is [path]"
            )
        clips, own = zip(*map(open_clip, paths), strict=True) if len(paths) else ((), ())
        found = score_clips(self.scorer, clips, prompts, [rate_of(rate, 0) for rate in own])
        return [float(value) for value in values_for_trainer(found, self.unscored)]


def ranks(values: Tensor) -> Tensor:
    """Return ranks in [0, 1] among the scored values, ties halved; NaN stays.

    >>> ranks(torch.tensor([0.3, 5.0, float("nan"), 0.3]))
    tensor([0.2500, 1.0000,    nan, 0.2500])
    """
    scored = values[~values.isnan()]
    below = (scored[None] < values[:, None]).sum(1) + (
        (scored[None] == values[:, None]).sum(1) - 1
    ) / 2
    return torch.where(values.isnan(), values, below / max(len(scored) - 1, 1))


def _model(
    base: str, reward: Reward, fps: float, unscored: Policy, within: Callable[[Tensor], Tensor]
) -> type:
    """Build a reward model class of Flow-Factory, which passes arguments by name."""
    reward = checked_reward(reward, unscored, fps)
    host = _imported("flow_factory.rewards.abc", "Flow-Factory")

    def call(
        self: Any, prompt: list[str], video: list[Any] | None = None, image: list[Any] | None = None
    ) -> Any:
        clips = video if video is not None else image
        if clips is None:
            raise ValueError(
                "expected video or image, got neither: this recipe's samples have no pictures"
            )
        found = score_clips(reward, [as_clip(clip) for clip in clips], prompt, fps)
        return host.RewardModelOutput(
            rewards=within(values_for_trainer(found, unscored)), extra_info={"why": found.why}
        )

    facts = {
        "__call__": call,
        "required_fields": ("prompt", "video"),
        "use_tensor_inputs": True,
        "__doc__": f"vidrl's {reward_name(reward)}.",
    }
    return type(f"Vidrl{reward_name(reward)}", (getattr(host, base),), facts)


def _imported(module: str, host: str) -> ModuleType:
    """Import a module of another trainer, or raise ImportError with the cure."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{host} is needed here: install it as its README says") from error
