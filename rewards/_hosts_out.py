"""Rewards in other trainers: what each of them calls, made of a Reward; no trainer is imported.

Shapes: B clips, F frames, C channels, H W pixels.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._hosts import Policy, as_clip, batch, five, known, named, opened, rate_of, score_clips, settled, text
from .base import Reward


def flow_grpo(
    reward: Reward, fps: float, whole: bool = False, unscored: Policy = "raise"
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """For Flow-GRPO: `fn(images, prompts, metadata) -> (scores, info)`, an entry of `multi_score`'s `score_functions`.

    `images`: tensors (B, F, C, H, W) or (B, C, H, W) float in [0, 1], or arrays (B, F, H, W, C) or (B, H, W, C) uint8.
    `scores` is an array (B,), `info["why"]` the reasons. `whole` stands for `multi_score(...)` itself: scores are then
    {"avg": ..., part: ...}. A NaN would make the advantages of its whole prompt NaN there, hence unscored="raise".
    Read: yifan123/flow_grpo, flow_grpo/rewards.py, scripts/train_wan2_1.py, flow_grpo/stat_tracking.py.

    >>> from vidrl.rewards.frame_quality import FrameQuality
    >>> fn = flow_grpo(FrameQuality(), fps=16)
    >>> fn(torch.full((2, 5, 3, 32, 32), 0.5), ["a still", "a still"], [{}, {}])
    (array([0., 0.]), {'why': [None, None]})
    """
    known(unscored, fps)

    def score(images: Any, prompts: Sequence[str], metadata: Any = None, **rest: Any) -> tuple[Any, dict[str, Any]]:
        found = score_clips(reward, batch(images), prompts, fps)
        values = settled(found, unscored).double().numpy()
        if not whole:
            return values, {"why": found.why}
        return {"avg": values, **{name: part.double().numpy() for name, part in found.parts.items()}}, {}

    return named(score, reward)


def flow_factory(reward: Reward, fps: float, unscored: Policy = "raise") -> type:
    """For Flow-Factory: a PointwiseRewardModel class, to be named `my_module.MyReward` in the recipe's `reward_model`.

    It takes clips as tensors (F, C, H, W), of any sizes, and gives RewardModelOutput(rewards (B,), extra_info).
    Raises ImportError without Flow-Factory.
    Read: X-GenGroup/Flow-Factory, src/flow_factory/rewards/abc.py, reward_processor.py, registry.py.
    """
    return _model("PointwiseRewardModel", reward, fps, unscored, lambda values: values)


def flow_factory_groupwise(
    reward: Reward, fps: float, within: Callable[[Tensor], Tensor] | None = None, unscored: Policy = "raise"
) -> type:
    """For Flow-Factory: a GroupwiseRewardModel class, which sees all clips of one prompt.

    `within` makes the group's rewards (B,) of its scores (B,); by default their ranks in [0, 1], ties halved.
    Read: X-GenGroup/Flow-Factory, src/flow_factory/rewards/abc.py, reward_processor.py.
    """
    return _model("GroupwiseRewardModel", reward, fps, unscored, within or ranks)


def verl_omni(
    reward: Reward, fps: float | None = None, prompt_key: str = "", unscored: Policy = "raise"
) -> Callable[..., dict[str, Any]]:
    """For VeRL-Omni: `compute_score(data_source, solution_image, ground_truth, extra_info) -> {"score": ..., ...}`.

    One clip a call, (F, C, H, W) or (C, H, W) uint8. The prompt is `extra_info[prompt_key]`, or `ground_truth`; the
    rate `extra_info["fps"]` where `fps` is None. Every call gives the same keys: score, the parts' names, why. Among
    several reward functions an error counts as 0 unless the configuration says `required: true`: say it.
    Read: verl-project/verl-omni, verl_omni/reward_loop/reward_manager/visual.py, multi.py,
    verl_omni/utils/reward_score/videoalign.py.

    >>> from vidrl.rewards.frame_quality import FrameQuality
    >>> clip = torch.full((5, 3, 32, 32), 128, dtype=torch.uint8)
    >>> verl_omni(FrameQuality(), fps=16)("any", clip, "a still", {})["score"]
    0.0
    """
    known(unscored, fps)

    def compute_score(
        data_source: Any = None, solution_image: Any = None, ground_truth: Any = None,
        extra_info: Mapping[str, Any] | None = None, **rest: Any,
    ) -> dict[str, Any]:
        info = extra_info or {}
        prompt = info[prompt_key] if prompt_key else ground_truth or ""
        rate = fps if fps is not None else info.get("fps")
        found = score_clips(reward, [as_clip(solution_image)], [str(prompt)], rate)
        parts = {name: float(part[0]) for name, part in found.parts.items()}
        return {"score": float(settled(found, unscored)[0]), **parts, "why": found.why[0] or ""}

    return compute_score


def trl(reward: Reward, fps: float | None = None, unscored: Policy = "none") -> Callable[..., list[float | None]]:
    """For TRL and what calls rewards as it does: `fn(prompts, completions, **columns) -> list of float or None`.

    Completions are clips: tensors (F, C, H, W), arrays, lists of PIL images, or paths of video files. Prompts are
    strings or conversations, whose last text is taken. The rate is that of the file, `fps`, or the column `fps`.
    None is TRL's word for a sample that a reward has nothing to say about. TRL sums what the other rewards say, which
    is 0, with a warning, where there is no other: `unscored="raise"` if this is the only one.
    Read: huggingface/trl, trl/trainer/grpo_trainer.py.

    >>> from vidrl.rewards.frame_quality import FrameQuality
    >>> clips = [torch.full((5, 3, 32, 32), 0.5), torch.full((5, 3, 4, 4), 0.5)]
    >>> trl(FrameQuality(), fps=16)(prompts=["a still", "too small"], completions=clips)
    [0.0, None]
    """
    known(unscored, fps, ("raise", "nan", "none"))

    def score(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        rates = columns.get("fps") if fps is None else fps
        clips, given = zip(*(opened(c) for c in completions), strict=True) if len(completions) else ((), ())
        each = [own or rate_of(rates, i) for i, own in enumerate(given)]
        found = score_clips(reward, clips, [text(prompt) for prompt in prompts], each)
        values = settled(found, "nan" if unscored == "none" else unscored).tolist()
        return [None if unscored == "none" and math.isnan(value) else value for value in values]

    return named(score, reward)


def videox_fun(
    reward: Reward, fps: float, best: float | None = None, scale: float = 1.0, unscored: Policy = "raise"
) -> VideoXFun:
    """For VideoX-Fun's reward backpropagation: `loss_fn(frames, prompts) -> (loss, reward)`, gradients to the frames.

    `frames` (B, C, F, H, W) in [0, 1]. loss = -scale * mean reward, or scale * mean |reward - best|, as its own
    rewards have with `max_reward`. `fps` is that of the frames it hands over (`num_sampled_frames` thins them out).
    Raises ValueError for a reward without gradients.
    Read: aigc-apps/VideoX-Fun, videox_fun/reward/reward_fn.py, scripts/wan2.1_fun/train_reward_lora.py.

    >>> from vidrl.rewards.flicker import Flicker
    >>> frames = torch.rand(2, 3, 5, 32, 32, requires_grad=True)
    >>> loss, value = videox_fun(Flicker(), fps=16)(frames, ["noise", "noise"])
    >>> loss.backward()
    >>> bool((frames.grad != 0).any())
    True
    """
    known(unscored, fps)
    if not reward.differentiable:
        raise ValueError(f"expected a reward with gradients, got {type(reward).__name__}, which says "
                         "differentiable = False: `vidrl list rewards --json` names those that have them")
    return VideoXFun(reward, fps, best, scale, unscored)


@dataclass(frozen=True)
class VideoXFun:
    """What `videox_fun` gives: called, (loss, mean reward); `get_reward`, one a clip."""

    reward: Reward
    fps: float
    best: float | None
    scale: float
    unscored: Policy

    def __call__(self, batch_frames: Tensor, batch_prompt: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """The loss to go down, and the mean reward."""
        values = self.get_reward(batch_frames, batch_prompt)
        away = -values if self.best is None else (values - self.best).abs()
        return self.scale * away.mean(), values.mean()

    def get_reward(self, batch_frames: Tensor, batch_prompt: Sequence[str] | None = None) -> Tensor:
        """The reward of each clip, (B,)."""
        clips = five(batch_frames, "(batch, channels, frames, height, width)").transpose(1, 2)
        prompts = batch_prompt if batch_prompt is not None else [""] * len(clips)
        found = score_clips(self.reward, [as_clip(clip) for clip in clips], prompts, self.fps, gradients=True)
        return settled(found, self.unscored)


def fastvideo(reward: Reward, fps: float, unscored: Policy = "raise") -> Callable[[Tensor, Sequence[str]], Tensor]:
    """For FastVideo's `MultiRewardScorer`: `scorer(media, prompts) -> tensor (B,)` on the media's device.

    `media` (B, C, F, H, W) or (B, C, H, W), float in [0, 1].
    Read: hao-ai-lab/FastVideo, fastvideo/train/methods/rl/rewards/media.py, dynamic_tracking.py.

    >>> from vidrl.rewards.frame_quality import FrameQuality
    >>> fastvideo(FrameQuality(), fps=16)(torch.full((1, 3, 5, 32, 32), 0.5), ["a still"])
    tensor([0.])
    """
    known(unscored, fps)

    def scorer(media: Tensor, prompts: Sequence[str]) -> Tensor:
        if isinstance(media, Tensor) and media.dim() == 4:
            media = media.unsqueeze(2)
        clips = five(media, "(batch, channels, frames, height, width)").transpose(1, 2)
        found = score_clips(reward, [as_clip(clip) for clip in clips], prompts, fps)
        return settled(found, unscored).to(media.device)

    return named(scorer, reward)


def ranks(values: Tensor) -> Tensor:
    """Ranks in [0, 1] among those that are scored, ties halved; NaN stays.

    >>> ranks(torch.tensor([0.3, 5.0, float("nan"), 0.3]))
    tensor([0.2500, 1.0000,    nan, 0.2500])
    """
    scored = values[~values.isnan()]
    below = (scored[None] < values[:, None]).sum(1) + ((scored[None] == values[:, None]).sum(1) - 1) / 2
    return torch.where(values.isnan(), values, below / max(len(scored) - 1, 1))


def _model(base: str, reward: Reward, fps: float, unscored: Policy, within: Callable[[Tensor], Tensor]) -> type:
    """A reward model class of Flow-Factory; it asks for what `__call__` names."""
    known(unscored, fps)
    try:
        host = importlib.import_module("flow_factory.rewards.abc")
    except ImportError as error:
        raise ImportError("Flow-Factory is needed here: install it as its README says") from error

    def call(self: Any, prompt: list[str], video: list[Any] | None = None, image: list[Any] | None = None) -> Any:
        clips = video if video is not None else image
        if clips is None:
            raise ValueError("expected video or image, got neither: this recipe's samples have no pictures")
        found = score_clips(reward, [as_clip(clip) for clip in clips], prompt, fps)
        return host.RewardModelOutput(rewards=within(settled(found, unscored)), extra_info={"why": found.why})

    facts = {"__call__": call, "required_fields": ("prompt", "video"), "use_tensor_inputs": True,
             "__doc__": f"vidrl's {type(reward).__name__}."}
    return type(f"Vidrl{type(reward).__name__}", (getattr(host, base),), facts)
