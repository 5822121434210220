"""This module checks, before any clip is sampled, that a reward has a gradient, and takes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vidrl.backbones.base import Denoiser, without_autocast
from vidrl.rewards import Reward, Samples, Score
from vidrl.rewards.compose import leaves


def parts_without_gradient(reward: Reward) -> list[str]:
    """Return the names of a reward's parts that carry no gradient.

    A reward without parts is its own part, with the name of its class.

    Example:
        >>> from vidrl.rewards import load
        >>> [parts_without_gradient(load(name)) for name in ("flicker", "freeze", "default")]
        [[], ['Freeze'], ['motion_consistency', 'dynamic_degree', 'freeze']]
    """
    parts = leaves("", reward)
    return [
        name.partition("/")[2] or type(part).__name__
        for name, part in parts.items()
        if not part.differentiable
    ]


def check(reward: Reward, blind_parts: bool) -> None:
    """Raise ValueError for a reward without gradient.

    A composite of which only some parts have a gradient is refused too, unless `blind_parts`.
    """
    blind = parts_without_gradient(reward)
    if len(blind) == len(leaves("", reward)):
        raise ValueError(
            f"expected a reward that carries gradient, got {', '.join(blind)}, which says "
            "differentiable = False: take a reward that has gradients in the tables of "
            "docs/reference/rewards.md, or an algorithm that needs none, such as grpo or nft"
        )
    if blind and not blind_parts:
        raise ValueError(
            f"expected parts that all carry gradient, but {', '.join(blind)} do not, and training "
            "would lower them unseen: leave them out of [reward.parts], or set "
            "algorithm.options.blind_parts = true and hold them by [guard.bands]"
        )
    if getattr(reward, "normalise", "fixed") == "batch":
        raise ValueError(
            "expected a composite with normalise = 'fixed', got 'batch': what a clip is worth must "
            "not depend on the clips of its micro-batch; set normalise to 'fixed'"
        )


def score(reward: Reward, samples: Samples) -> Score:
    """Score clips, with the gradient of those parts that carry one."""
    # Calling a reward that is not differentiable disables gradients; its forward() does not.
    # This is the case of a composite with `blind_parts`.
    return reward(samples) if reward.differentiable else reward.forward(samples)


def value_and_gradient(reward: Reward, samples: Samples) -> tuple[Tensor, Tensor]:
    """Return the values (n,) of clips, and the gradient of each value by the clip's pixels.

    A clip whose value or gradient is not finite, for example because the reward divides by a
    std of 0, is unscored: its value is NaN and its gradient 0. If the backward pass of the loss
    computed this gradient, a factor 0 would not help, because 0 · NaN = NaN would reach all
    weights. The gradient is therefore taken here, and cleaned before the decoder sees it.
    """
    with torch.enable_grad():
        clips = samples.video.detach().requires_grad_()
        value = score(reward, replace(samples, video=clips)).value
        # Each value depends on its own clip only, so that the sum has every clip's gradient.
        total, slope = value[value.isfinite()].sum(), None
        if total.requires_grad:
            (slope,) = torch.autograd.grad(total, clips, allow_unused=True)
    slope = torch.zeros_like(clips) if slope is None else slope
    good = value.detach().isfinite() & slope.isfinite().flatten(1).all(1)
    mask = good.reshape(-1, *[1] * (slope.dim() - 1))
    return value.detach().masked_fill(~good, torch.nan), torch.where(mask, slope, 0.0)


class Attached(torch.autograd.Function):
    """A function that is 0 for each clip (n,) and has a given gradient by the clips' pixels.

    Added to the values of `value_and_gradient`, it connects them to the decoder's graph.
    """

    @staticmethod
    def forward(ctx: Any, clips: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return clips.new_zeros(len(clips))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad.reshape(-1, *[1] * (slope.dim() - 1)), None


def probe(reward: Reward, frames: int, fps: float, device: torch.device) -> None:
    """Score one synthetic clip as training will; raise ValueError if no gradient comes back.

    The clip is `moving_wave`, 64 x 64 pixels, on the device of the training. A reward that
    leaves it unscored is refused only if the clip has too few frames: real clips may be scored.
    """
    clip = moving_wave(frames).to(device).requires_grad_()
    try:
        found = score(reward, Samples(clip, ["a wave moves"], fps, clip[:, :1].detach()))
    except Exception as error:
        raise ValueError(
            f"expected a reward that scores clips on {device} with gradient, got an error "
            f"({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}): a reward that turns "
            "clips into numpy arrays or files, or that needs the CPU, cannot be differentiated; "
            "leave it out of [reward.parts], or use another algorithm"
        ) from error
    if bool(found.value.isnan().any()):
        if "frames, got" in str(found.why[0]):
            raise ValueError(
                f"expected clips long enough for the reward, got {frames} frames "
                f"({found.why[0]}): decode longer segments (fewer "
                "algorithm.options.decode_segments), or longer clips"
            )
        return
    if not found.value.requires_grad:
        raise ValueError(
            f"expected a gradient of {type(reward).__name__}, which says differentiable = True, "
            "got none: its forward() cuts it, by detach(), item(), numpy() or torch.no_grad()"
        )


def check_decodes(backbone: Denoiser, lengths: Iterable[int]) -> None:
    """Raise ValueError if the backbone cannot decode pieces of these numbers of latent frames.

    Zeros are decoded; the number of pixel frames must be that of the frame map.
    """
    channels, most, *space = backbone.shape
    for length in sorted(lengths):
        frames = backbone.frame_map[length - 1][1]
        try:
            with torch.no_grad(), without_autocast(backbone.device):
                zero = torch.zeros(1, channels, length, *space, device=backbone.device)
                found = backbone.decode(zero).shape[1]
        except torch.OutOfMemoryError:
            raise
        # a decoder may fail in any way at a length that it does not know
        except Exception as error:
            raise _no_pieces(
                length, most, f"{type(error).__name__}: {str(error)[:200] or 'no message'}"
            ) from error
        if found != frames:
            raise _no_pieces(length, most, f"{found} pixel frames in place of {frames}")


def _no_pieces(length: int, most: int, got: str) -> ValueError:
    """Return the error of a backbone that decodes whole clips only."""
    return ValueError(
        f"expected a backbone that decodes {length} of its {most} latent frames alone, as "
        f"way = 'vader' does, got {got}: set algorithm.options.decode_segments = 1 to decode "
        "whole clips, or way = 'draft'"
    )


def moving_wave(frames: int) -> Tensor:
    """Return a clip of a moving wave with grain, (1, F, 3, 64, 64) in [0, 1].

    It has motion and texture, so that rewards of either kind have a gradient.
    """
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    t = torch.arange(float(frames))[:, None, None]
    wave = 0.5 + 0.2 * torch.sin((x - t) / 5) + 0.1 * torch.cos(y / 4)
    grain = torch.rand(1, frames, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return wave[None, :, None] + 0.05 * grain
