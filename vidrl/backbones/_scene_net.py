"""This module has the transformer of scenes, which reads blobs and the words of a caption.

Legend: B batch, C numbers of a blob, L arcs, N blobs, W words, D width.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a normalisation that the time scales."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.first = nn.LayerNorm(width, elementwise_affine=False)
        self.second = nn.LayerNorm(width, elementwise_affine=False)
        self.to_q, self.to_k = nn.Linear(width, width), nn.Linear(width, width)
        self.to_v, self.to_out = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.time = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return tokens (B, T, D) after the block; `time` (B, D) is the embedded time."""
        scale, shift, wider, lift = self.time(time)[:, None].chunk(4, -1)
        x = x + self.attend(self.first(x) * (1 + scale) + shift)
        return x + self.down(gelu(self.up(self.second(x) * (1 + wider) + lift)))

    def attend(self, x: Tensor) -> Tensor:
        """Return what each token reads of all tokens, (B, T, D)."""
        q, k, v = (
            to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for to in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class SceneNet(nn.Module):
    """Predicts the velocity of a scene's tokens from the time and the words.

    One token of the network is one blob in all arcs, C L numbers: what is equal in all arcs is
    then easy to say, and attention costs N + W tokens and not L N.
    """

    def __init__(
        self,
        channels: int,
        arcs: int,
        blobs: int,
        words: int,
        vocabulary: int,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
    ):
        super().__init__()
        self.into = nn.Linear(channels * arcs, width)
        self.place = nn.Parameter(torch.randn(blobs, width) * 0.5)
        self.word = nn.Embedding(vocabulary, width)
        self.order = nn.Parameter(torch.randn(words, width) * 0.5)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.last = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels * arcs)

    def forward(self, x: Tensor, t: Tensor, words: Tensor) -> Tensor:
        """Return the velocity (B, C, L, N, 1) of tokens x (B, C, L, N, 1) at times t (B,).

        `words` (B, W) are numbers of words.
        """
        arcs, blobs = x.shape[2], x.shape[3]
        scene = self.into(x[..., 0].permute(0, 3, 1, 2).flatten(2)) + self.place
        text = self.word(words) + self.order
        time = self.time(waves(t, self.place.shape[1]).to(x.dtype))
        tokens = torch.cat([scene, text], 1)
        for block in self.blocks:
            tokens = block(tokens, time)
        found = self.out(self.last(tokens[:, :blobs]))
        return found.unflatten(2, (-1, arcs)).permute(0, 2, 3, 1)[..., None]


def waves(t: Tensor, width: int) -> Tensor:
    """Return sines and cosines of times in [0, 1], (B, width), at frequencies of 1 to 1000.

    >>> waves(torch.zeros(2), 4)
    tensor([[0., 0., 1., 1.],
            [0., 0., 1., 1.]])
    """
    rates = torch.exp(torch.linspace(0, log(1000), width // 2, device=t.device))
    angles = t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
