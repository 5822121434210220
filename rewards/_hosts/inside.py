"""Turn rewards of other trainers into a Reward; no trainer is imported.

Shapes: B clips, F frames, C channels, H W pixels.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..base import Reward, Samples, Score, refusals


def from_flow_grpo(fn: Callable[..., Any], frames: int = 0, errors: str = "raise") -> Foreign:
    """Return a Reward of a Flow-GRPO function or of its `multi_score`.

    The function is `fn(images, prompts, metadata) -> (scores, info)`. It gets clips as (B,
    F, C, H, W) float in [0, 1]. With `frames` > 0, for functions of images, it gets that
    many frames of each clip as (B, C, H, W), and their mean is the value.
    """

    def call(samples: Samples) -> Any:
        scores = fn(
            samples.frames if not frames else samples.frames[:, 0],
            list(samples.prompts),
            _meta(samples),
        )
        scores = scores[0] if isinstance(scores, tuple) else scores
        return scores["avg"] if isinstance(scores, Mapping) else scores

    return Foreign(call, frames, errors, _name(fn))


def from_flow_factory(model: Any, errors: str = "raise") -> Foreign:
    """Return a Reward of a Flow-Factory reward model, which gets tensors or PIL images."""

    def call(samples: Samples) -> Any:
        tensors = getattr(model, "use_tensor_inputs", False)
        videos = [clip if tensors else _pictures(clip) for clip in samples.frames]
        output = model(prompt=list(samples.prompts), video=videos)
        return getattr(output, "rewards", output)

    return Foreign(call, 0, errors, _name(model))


def from_verl_omni(
    compute_score: Callable[..., Any], data_source: str = "vidrl", errors: str = "raise"
) -> Foreign:
    """Return a Reward of a VeRL-Omni `compute_score`, plain or async, for uint8 clips."""

    def one(samples: Samples, i: int) -> float:
        clip = (
            samples.video[i] if samples.video.dtype == torch.uint8 else as_bytes(samples.frames[i])
        )
        info = {"fps": samples.fps, "prompt": samples.prompts[i], **_meta(samples)[i]}
        found = compute_score(
            data_source=data_source,
            solution_image=clip,
            ground_truth=samples.prompts[i],
            extra_info=info,
        )
        found = asyncio.run(found) if inspect.iscoroutine(found) else found
        return found["score"] if isinstance(found, Mapping) else found

    return Foreign(
        lambda samples: [one(samples, i) for i in range(len(samples))],
        0,
        errors,
        _name(compute_score),
    )


def from_trl(fn: Callable[..., Any], errors: str = "raise") -> Foreign:
    """Return a Reward of TRL's `fn(prompts, completions, **columns)`; None becomes NaN.

    Completions are tensors (F, C, H, W) in [0, 1]; columns are `fps` and what each clip's
    meta holds.
    """

    def call(samples: Samples) -> Any:
        meta = _meta(samples)
        columns = {
            key: [one.get(key) for one in meta]
            for key in dict.fromkeys(k for one in meta for k in one)
        }
        columns["fps"] = [samples.fps] * len(samples)
        return fn(prompts=list(samples.prompts), completions=list(samples.frames), **columns)

    return Foreign(call, 0, errors, _name(fn))


def from_videox_fun(reward: Any, errors: str = "raise") -> Foreign:
    """Return a Reward, with gradients, of a VideoX-Fun reward's `get_reward(frames, prompts)`.

    The frames are (B, C, F, H, W).
    """

    def call(samples: Samples) -> Any:
        frames, prompts = samples.frames.transpose(1, 2), list(samples.prompts)
        if hasattr(reward, "get_reward"):
            return reward.get_reward(frames, prompts)
        return torch.stack(
            [reward(frames[i : i + 1], prompts[i : i + 1])[1] for i in range(len(samples))]
        )

    return Foreign(call, 0, errors, _name(reward), differentiable=True)


def from_fastvideo(scorer: Callable[..., Any], errors: str = "raise") -> Foreign:
    """Return a Reward of a FastVideo scorer `(media, prompts) -> tensor (B,)`.

    Of a MultiRewardScorer the entry "avg" is the value.
    """

    def call(samples: Samples) -> Any:
        scores = scorer(samples.frames.transpose(1, 2), list(samples.prompts))
        return scores["avg"] if isinstance(scores, Mapping) else scores

    return Foreign(call, 0, errors, _name(scorer))


class Foreign(Reward):
    """A reward that another trainer's function computes; its curve is the value at every frame.

    NaN or None of the function means an unscored clip. `errors="raise"` lets the function's
    exceptions through; "nan" turns each into the reason of its clip. Raises ValueError if
    the function gives another number of scores than clips.
    """

    time_support = "clip"

    def __init__(
        self,
        call: Callable[[Samples], Any],
        frames: int,
        errors: str,
        name: str,
        differentiable: bool = False,
    ) -> None:
        super().__init__()
        if errors not in ("raise", "nan") or frames < 0:
            raise ValueError(
                f"expected errors 'raise' or 'nan' and frames >= 0, got {errors!r} and {frames}"
            )
        self.call, self.looks = call, frames
        self.errors, self.name = errors, name
        self.differentiable = differentiable  # type: ignore[misc]

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips."""
        why = refusals(samples, 1, 1)
        rows = [i for i, reason in enumerate(why) if reason is None]
        value = samples.frames.new_full((len(why),), math.nan)
        if rows:
            found, reasons = self._safely(samples.pick(rows))
            value = value.index_copy(0, torch.tensor(rows, device=value.device), found)
            why = [reasons[rows.index(i)] if i in rows else reason for i, reason in enumerate(why)]
        return Score(
            value, value[:, None].expand(samples.video.shape[:2]), self.time_support, why=why
        )

    def _safely(self, samples: Samples) -> tuple[Tensor, list[str | None]]:
        """Return values and reasons; after an error, score one by one to find its clip."""
        try:
            value = self._looked(samples)
        except Exception as error:
            if self.errors == "raise":
                raise
            if len(samples) > 1:
                each = [self._safely(samples.pick([i])) for i in range(len(samples))]
                return torch.cat([value for value, _ in each]), [
                    reason for _, why in each for reason in why
                ]
            return samples.frames.new_full((1,), math.nan), [
                f"unscored: {type(error).__name__}: {error}"
            ]
        lost = f"unscored: {self.name} gave no finite number"
        finite = torch.isfinite(value)
        return value.masked_fill(~finite, math.nan), [
            None if sound else lost for sound in finite.tolist()
        ]

    def _looked(self, samples: Samples) -> Tensor:
        """Return the value of whole clips, or the mean over the chosen frames."""
        if not self.looks:
            return self._called(samples)
        total = samples.video.shape[1]
        chosen = [(2 * k + 1) * total // (2 * self.looks) for k in range(self.looks)]
        parts = [
            Samples(
                samples.frames[:, t : t + 1],
                samples.prompts,
                samples.fps,
                samples.reference,
                samples.meta,
            )
            for t in chosen
        ]
        return torch.stack([self._called(part) for part in parts]).mean(0)

    def _called(self, samples: Samples) -> Tensor:
        """Call the function and check the number of its scores."""
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            scores = self.call(samples)
        if not isinstance(scores, Tensor):
            scores = torch.tensor([math.nan if score is None else float(score) for score in scores])
        if scores.shape != (len(samples),):
            raise ValueError(
                f"expected {len(samples)} scores of {self.name}, one a clip, got shape "
                f"{tuple(scores.shape)}"
            )
        return scores.to(samples.frames)


def _pictures(clip: Tensor) -> list[Any]:
    """Return the frames of a clip as PIL images."""
    image = importlib.import_module("PIL.Image")
    return [
        image.fromarray(frame)
        for frame in as_bytes(clip).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
    ]


def as_bytes(clip: Tensor) -> Tensor:
    """Convert a clip in [0, 1] to uint8."""
    return (clip.detach() * 255).round().clamp(0, 255).to(torch.uint8)


def _meta(samples: Samples) -> list[dict[str, Any]]:
    """Return a dict for each clip, empty if the samples have no meta."""
    return [dict(one) for one in samples.meta] or [{} for _ in range(len(samples))]


def _name(fn: Any) -> str:
    """Return the name of a function or of an object's class."""
    return getattr(fn, "__name__", type(fn).__name__)
