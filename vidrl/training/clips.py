"""Generate clips of prompts with a policy, without learning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from vidrl.backbones.base import Cond, Denoiser
from vidrl.data import references
from vidrl.rewards import Samples

from .chunks import sample
from .pieces import Pieces, pieces
from .policy import Policy
from .rollout import SCORE_BATCH, Plan, backbone_of, copied, decoded_pieces


def clips(
    policy: Policy | Denoiser,
    prompts: Sequence[str],
    generators: Sequence[torch.Generator],
    steps: int = 20,
    batch: Pieces | int = 32,
    decode_batch: Pieces | int = SCORE_BATCH,
    encode: Callable[[Sequence[str]], Cond] | None = None,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Samples]:
    """Generate clips of prompts by the deterministic sampler, in order, a few at a time.

    The clips are on the latents' device. `batch` clips are sampled and `decode_batch` clips
    are decoded at once, fewer where memory runs out. `autocast` is the context of the
    sampling alone.
    """
    backbone = backbone_of(policy)
    plan, encode = Plan(backbone.times(steps)), encode or backbone.encode

    def sampled(part: slice) -> tuple[Tensor, Sequence[str], Cond]:
        cond = encode(prompts[part])
        with autocast():
            # copies: where memory runs out, this piece begins again with the same noise
            noise = copied(generators[part])
            return sample(policy, cond, noise, plan).latents, prompts[part], cond

    for latents, part_prompts, cond in pieces(batch).each(len(prompts), sampled):
        yield from decoded_pieces(backbone, latents, part_prompts, cond, decode_batch)


def generate(
    policy: Policy | Denoiser,
    prompts: Sequence[str],
    generators: Sequence[torch.Generator],
    steps: int = 20,
    batch: Pieces | int = 32,
    encode: Callable[[Sequence[str]], Cond] | None = None,
) -> Samples:
    """Generate clips of prompts by the deterministic sampler, as one batch on the CPU.

    `clips` yields the same clips a few at a time.

    Example:
        >>> from vidrl.backbones.toy import Toy
        >>> from vidrl.training.rollout import draws
        >>> generate(Toy.tiny(), ["a cat"], draws(0, [("cat",)]), steps=2).video.shape
        torch.Size([1, 9, 3, 32, 32])
    """
    videos = torch.cat(
        [
            samples.video.cpu()
            for samples in clips(policy, prompts, generators, steps, batch, encode=encode)
        ]
    )
    images = references.images(prompts, *videos.shape[-2:])
    return Samples(videos, list(prompts), backbone_of(policy).fps, images)
