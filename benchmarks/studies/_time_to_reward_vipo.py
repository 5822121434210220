"""Define the arm "vipo": a clip's advantage, distributed over space and time by a map.

ViPO (arXiv 2511.18719) computes the map from DINOv2's features of each frame. Here the
features need no weights: colour, contrast and motion of each cell of the latent grid. The
rest follows the paper: principal components, weighted by the variance that they explain.
The sign of a principal component is arbitrary; here the sign is chosen so that few cells
lie far above the mean, as the cells of an object do before a background. The public code
that was read is TeleBoost's, teleboost/algorithms/vipo.py.

Legend: B clips, F frames, L latent frames of h x w cells, P = L h w, n rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod, sqrt

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from vidrl.algorithms.base import Batch, Experience, Loss, clipped
from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.base import Denoiser
from vidrl.diffusion import transition
from vidrl.diffusion.segments import Span
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, decoded_pieces

COMPONENTS = 3
LEAST = 1e-3  # a quarter of a grey level: a feature that varies less is constant


def features(video: Tensor, frame_map: Sequence[Span], size: Span) -> Tensor:
    """Return red, green, blue, contrast and motion of each cell, (B, P, 5).

    `video` is clips (B, F, 3, H, W), and `size` is (h, w). Contrast is the standard
    deviation of the brightness within a cell, motion the mean absolute change of brightness
    between frames.
    """
    light = video.mean(2, keepdim=True)
    change = torch.diff(light, dim=1, prepend=light[:, :1]).abs()
    planes = torch.cat([video, light.square(), change], 2)
    frames = adaptive_avg_pool2d(planes.flatten(0, 1), size).unflatten(0, video.shape[:2])
    cells = torch.stack([frames[:, a:b].mean(1) for a, b in frame_map], 1)  # (B, L, 5, h, w)
    # plane 3 holds the mean of the squared brightness: its std is √(E x² − (E x)²)
    contrast = (cells[:, :, 3] - cells[:, :, :3].mean(2).square()).clamp(min=0).sqrt()
    found = torch.cat([cells[:, :, :3], contrast[:, :, None], cells[:, :, 4:]], 2)
    return found.permute(0, 1, 3, 4, 2).flatten(1, 3)


def importance(cells: Tensor) -> Tensor:
    """Return the importance S = Σ_j λ_j z'_j of each cell, (B, P), in [0, 1].

    The sum runs over the first principal components of features (B, P, K). z'_j is a
    component scaled to [0, 1] within its clip, λ_j the fraction of the variance that the
    component explains among these components.

    Example:
        >>> importance(torch.tensor([[[0.0, 0.1], [0.0, 0.1], [0.0, 0.1], [1.0, 0.1]]]))
        tensor([[0., 0., 0., 1.]])
    """
    centred = (cells - cells.mean(1, keepdim=True)).double()
    size = centred.square().mean(1, keepdim=True).sqrt()
    u, s, _ = torch.linalg.svd(centred / size.clamp(min=LEAST), full_matrices=False)
    z = (u * s[:, None])[..., :COMPONENTS]
    z = torch.where(z.pow(3).sum(1, keepdim=True) < 0, -z, z)  # the sign with positive skewness
    low, high = z.amin(1, keepdim=True), z.amax(1, keepdim=True)
    variance = s[:, None, :COMPONENTS].square()
    share = variance / variance.sum(2, keepdim=True).clamp(min=LEAST)
    return (share * (z - low) / (high - low).clamp(min=LEAST)).sum(2).to(cells)


def allocation(video: Tensor, frame_map: Sequence[Span], size: Span) -> Tensor:
    """Return the map M of each clip, (B, L, h, w), non-negative with mean 1.

    The map of a clip whose cells are all alike is 1.
    """
    found = importance(features(video, frame_map, size))
    found = found - found.amin(1, keepdim=True)
    mean = found.mean(1, keepdim=True)
    maps = torch.where(mean > LEAST, found / mean.clamp(min=LEAST), torch.ones_like(found))
    return maps.unflatten(1, (len(frame_map), *size))


@dataclass(eq=False, kw_only=True)
class ViPO(GRPO):
    """GRPO that gives each cell p of the latent grid an advantage A_p = M_p A and a ratio.

    L = mean over rows and cells of −min(ρ_p A_p, clip(ρ_p, 1 ± ε√P) A_p) + β KL, with ρ_p =
    exp(log p_p − log p_p,old), where log p_p is the mean over the channels of cell p. The
    clip range widens with √P, as it does with √S in GRPO. While the live weights equal the
    old ones, the gradient is that of −Σ_p M_p A log p_p / P, which is GRPO's gradient where
    M is 1 everywhere. The clips are decoded a second time to compute the map.

    Example:
        >>> ViPO(sampler="flow_sde", eta=0.7).segments
        1
    """

    maps: tuple[Experience, Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segments != 1 or self.ratio_norm or self.max_divergence:
            raise ValueError(
                "expected segments = 1, ratio_norm = false and max_divergence = 0, because the "
                "map distributes the credit and each cell's ratio is clipped, got "
                f"{(self.segments, self.ratio_norm, self.max_divergence)}"
            )

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        # `loss` needs the old mean of each step to compute the density of each cell
        return replace(super().plan(backbone, round, draw), means=True)

    def gated(self, seen: Experience, sample: Tensor) -> dict[str, Tensor]:
        row = seen.here[sample].to(seen.rollout.latents.device)
        return super().gated(seen, sample) | {"map": self.allocated(seen)[row]}

    def allocated(self, seen: Experience) -> Tensor:
        """Return the maps of this process's clips, (B, L, h, w), once a round."""
        if self.maps is None or self.maps[0] is not seen:
            latents, size = seen.rollout.latents, self.backbone.shape[-2:]
            prompts = [seen.prompts[i] for i in seen.index.tolist()]
            clips = decoded_pieces(self.backbone, latents, prompts)
            maps = [
                allocation(piece.frames, self.backbone.frame_map, (size[0], size[1]))
                for piece in clips
            ]
            self.maps = seen, torch.cat(maps).to(latents.device)
        return self.maps[1]

    def after(self, policy: Policy, round: int) -> None:
        super().after(policy, round)
        self.maps = None  # the rollout's latents need not stay in memory until the next round

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step, where = self.step(policy, batch), batch["map"]
        old = transition.Step(batch["mean"], step.std)
        now, then = (transition.log_density(one, batch["after"]) for one in (step, old))
        ratio = (now - then).mean(1).exp()  # (n, L, h, w)
        dense = batch["advantage"].reshape(-1, 1, 1, 1).to(ratio) * where.to(ratio)
        limit = self.clip_range * sqrt(prod(where.shape[1:]))
        value = clipped(ratio, dense, limit).mean() + self.penalty(policy, batch, step)
        stopped = (ratio.detach() - 1).abs() > limit
        return Loss(value, {"ratio": ratio.detach(), "clip_share": stopped.float()})
