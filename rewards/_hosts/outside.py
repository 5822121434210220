"""Turn a Reward into the functions that other trainers call; no trainer is imported.

Shapes: B clips, F frames, C channels, H W pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..base import Reward
from .shared import (
    Policy,
    as_clip,
    channels_second,
    check_five_axes,
    checked_reward,
    clips_of_batch,
    name_function,
    open_clip,
    prompt_text,
    rate_of,
    score_clips,
    values_for_trainer,
)


def flow_grpo(
    reward: Reward, fps: float, whole: bool = False, unscored: Policy = "raise"
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return Flow-GRPO's `fn(images, prompts, metadata) -> (scores, info)` of a reward.

    The function is an entry of `multi_score`'s `score_functions`. `images` are tensors (B,
    F, C, H, W) or (B, C, H, W) float in [0, 1], or arrays (B, F, H, W, C) or (B, H, W, C)
    uint8. `scores` is an array (B,), `info["why"]` the reasons. With `whole` the function
    replaces `multi_score(...)` itself: scores are then {"avg": ..., part: ...}. In
    Flow-GRPO a NaN makes the advantages of all clips of its prompt NaN, hence
    unscored="raise". Sources: yifan123/flow_grpo, flow_grpo/rewards.py,
    scripts/train_wan2_1.py, flow_grpo/stat_tracking.py.

    >>> import torch
    >>> from vidrl.rewards.frame_quality import FrameQuality
    >>> fn = flow_grpo(FrameQuality(), fps=16)
    >>> fn(torch.full((2, 5, 3, 32, 32), 0.5), ["a still", "a still"], [{}, {}])
    (array([0., 0.]), {'why': [None, None]})
    """
    reward = checked_reward(reward, unscored, fps)

    def score(
        images: Any, prompts: Sequence[str], metadata: Any = None, **rest: Any
    ) -> tuple[Any, dict[str, Any]]:
        found = score_clips(reward, clips_of_batch(images), prompts, fps)
        values = values_for_trainer(found, unscored).double().numpy()
        if not whole:
            return values, {"why": found.why}
        return {
            "avg": values,
            **{name: part.double().numpy() for name, part in found.parts.items()},
        }, {}

    return name_function(score, reward)


def verl_omni(
    reward: Reward, fps: float | None = None, prompt_key: str = "", unscored: Policy = "raise"
) -> Callable[..., dict[str, Any]]:
    """Return VeRL-Omni's `compute_score(...) -> {"score": ..., ...}` of a reward.

    Its arguments are `data_source`, `solution_image`, `ground_truth` and `extra_info`. A
    call has one clip, uint8, with any of the axes that VeRL-Omni's pipelines give: (F, C,
    H, W), (C, F, H, W), (F, H, W, C), with an axis of size 1 before, or an image (C, H, W).
    The prompt is `extra_info[prompt_key]`, or `ground_truth`. The rate is the option `fps`
    of its entry, else `fps` here, else `extra_info["fps"]`. Every call gives the same keys:
    score, the parts' names, why. Among several reward functions VeRL-Omni counts an error
    as 0, and logs it, unless the entry says `required: true`. Sources:
    verl-project/verl-omni, verl_omni/reward_loop/reward_manager/visual.py, multi.py,
    verl_omni/utils/reward_score/genrm_ocr.py.

    >>> import torch
    >>> from vidrl.rewards.frame_quality import FrameQuality
    >>> clip = torch.full((5, 3, 32, 32), 128, dtype=torch.uint8)
    >>> verl_omni(FrameQuality())("any", clip, "a still", {}, fps=16)["score"]
    0.0
    """
    reward = checked_reward(reward, unscored, fps)
    usual = fps

    def compute_score(
        data_source: Any = None,
        solution_image: Any = None,
        ground_truth: Any = None,
        extra_info: Mapping[str, Any] | None = None,
        fps: float | None = None,
        **rest: Any,
    ) -> dict[str, Any]:
        info = extra_info or {}
        prompt = info[prompt_key] if prompt_key else ground_truth or ""
        rate = next((one for one in (fps, usual) if one is not None), info.get("fps"))
        clip = (
            channels_second(solution_image)
            if isinstance(solution_image, Tensor)
            else as_clip(solution_image)
        )
        found = score_clips(reward, [clip], [str(prompt)], rate)
        parts = {name: float(part[0]) for name, part in found.parts.items()}
        return {
            "score": float(values_for_trainer(found, unscored)[0]),
            **parts,
            "why": found.why[0] or "",
        }

    return compute_score


def clips(
    reward: Reward, fps: float | None = None, unscored: Policy = "none"
) -> Callable[..., list[float | None]]:
    """Return `fn(clips, prompts) -> list of float or None`, one a clip, for any trainer.

    Each clip is the path of a video file, a tensor (C, F, H, W), (F, C, H, W) or (F, H, W,
    C), an array (F, H, W, C), or a list of PIL images; floats are in [0, 1], integers
    uint8. Prompts are strings or conversations, whose last text is taken; without prompts
    each is "". The rate is that of the file, else `fps`, else the argument `fps` of the
    call, one number or one a clip. A clip that cannot be scored gives None, or what
    `unscored` says.

    The function also accepts the call of TRL, `fn(prompts=..., completions=...,
    **columns)`. Raises ValueError for anything else than a list of clips, and for clips
    whose channel axis is ambiguous.

    >>> import torch
    >>> from vidrl.rewards.frame_quality import FrameQuality
    >>> still, small = torch.full((3, 5, 32, 32), 0.5), torch.full((3, 5, 4, 4), 0.5)
    >>> clips(FrameQuality(), fps=16)([still, small], ["a still", "too small"])
    [0.0, None]
    """
    reward = checked_reward(reward, unscored, fps, ("raise", "nan", "none"))

    def score(
        clips: Sequence[Any] | None = None,
        prompts: Sequence[Any] | None = None,
        *,
        completions: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        pairs = [open_clip(clip) for clip in _list_of_clips(clips, completions)]
        rates = columns.get("fps") if fps is None else fps
        each = [own or rate_of(rates, i) for i, (_, own) in enumerate(pairs)]
        asked = (
            prompts
            if prompts is None or isinstance(prompts, str)
            else [prompt_text(prompt) for prompt in prompts]
        )
        found = score_clips(
            reward, [clip for clip, _ in pairs], [""] * len(pairs) if asked is None else asked, each
        )
        values = values_for_trainer(found, "nan" if unscored == "none" else unscored).tolist()
        return [None if unscored == "none" and math.isnan(value) else value for value in values]

    return name_function(score, reward)


def _list_of_clips(clips: Any, completions: Any) -> Sequence[Any]:
    """Return the clips of a call; raise ValueError unless it gives one list of them."""
    given = completions if clips is None else clips
    one = isinstance(given, str | os.PathLike) or (hasattr(given, "ndim") and given.ndim != 5)
    if given is None or (clips is not None and completions is not None) or one:
        got = (
            "nothing"
            if given is None
            else "both clips and completions"
            if not one
            else f"shape {tuple(given.shape)}"
            if hasattr(given, "ndim")
            else repr(given)
        )
        raise ValueError(
            f"expected a list of clips or of paths of video files, got {got}: one clip is [clip]"
        )
    return given


def fastvideo(
    reward: Reward, fps: float, unscored: Policy = "raise"
) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """Return FastVideo's `scorer(media, prompts) -> tensor (B,)` on the media's device.

    The function is an entry of `MultiRewardScorer`. `media` is (B, C, F, H, W) or (B, C, H,
    W), float in [0, 1]. Sources: hao-ai-lab/FastVideo,
    fastvideo/train/methods/rl/rewards/media.py, dynamic_tracking.py.

    >>> import torch
    >>> from vidrl.rewards.frame_quality import FrameQuality
    >>> fastvideo(FrameQuality(), fps=16)(torch.full((1, 3, 5, 32, 32), 0.5), ["a still"])
    tensor([0.])
    """
    reward = checked_reward(reward, unscored, fps)

    def scorer(media: Tensor, prompts: Sequence[str]) -> Tensor:
        if isinstance(media, Tensor) and media.dim() == 4:
            media = media.unsqueeze(2)
        clips = check_five_axes(media, "(batch, channels, frames, height, width)").transpose(1, 2)
        found = score_clips(reward, [as_clip(clip) for clip in clips], prompts, fps)
        return values_for_trainer(found, unscored).to(media.device)

    return name_function(scorer, reward)
