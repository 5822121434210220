"""This module has the network of worlds, which reads the last frame and the actions.

Legend: B batch, C colours times the frames of an action, L actions, H side in pixels, D width,
h side in patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, pixel_shuffle, pixel_unshuffle

from ._scene_net import waves

# The noise has many times the power of the few pixels of the given frame that matter. So the frame
# is enlarged and the noise reduced: without these factors, 200 steps of training learned nothing.
CONTRAST, NOISE = 3.0, 0.3


class Block(nn.Module):
    """Reads the patches around each patch, during its own action and the one before.

    What happens is local, and the same everywhere in the picture; so the block is a convolution,
    which time and action scale.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.scale = nn.Linear(width, 2 * width)
        self.before = nn.Linear(2 * width, width)
        self.around = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, asked: Tensor) -> Tensor:
        """Return features (B, L, h, h, D) after the block.

        `asked` (B, L, 1, 1, D) are the embedded time and action.
        """
        scale, shift = self.scale(gelu(asked)).chunk(2, -1)
        y = self.norm(x) * (1 + scale) + shift
        earlier = pad(y, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1]
        y = self.before(torch.cat([y, earlier], -1)).flatten(0, 1).movedim(-1, 1)
        y = gelu(self.around(y)).movedim(1, -1).unflatten(0, x.shape[:2])
        return x + self.out(y)


class WorldNet(nn.Module):
    """Predicts the clean frames of L actions from noisy ones, the last frame and the actions.

    The frames of an action depend on earlier actions, and on no later one: the frames of the first
    action are the same whether or not further actions follow. The output is added to the last
    frame, so that things that do not move need no learning.
    """

    def __init__(self, patch: int, frames: int, words: int, width: int = 48, depth: int = 5):
        super().__init__()
        self.patch, self.frames = patch, frames
        area = 3 * patch**2
        self.into = nn.Linear(frames * area, width)
        self.see = nn.Linear(area + 1, width)
        self.action = nn.Embedding(words, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.last = nn.LayerNorm(width)
        self.out = nn.Linear(width, frames * area)

    def forward(self, x: Tensor, t: Tensor, frame: Tensor, actions: Tensor) -> Tensor:
        """Return the clean frames (B, C, L, H, H), of noisy ones `x` of that shape.

        `t` (B,) are times, `frame` (B, 3, H, H) is the last frame, and `actions` (B, L) are
        numbers of actions.
        """
        length = x.shape[2]
        noisy = self.patches(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, length))
        background = frame.flatten(2).median(2).values[:, :, None, None]
        seen = CONTRAST * self.patches(frame - background)[:, None]
        # marks the first action: before it there is the given frame and no noisy one
        first = torch.zeros_like(noisy[..., :1])
        first[:, 0] = 1
        seen = torch.cat([seen.expand(-1, length, -1, -1, -1), first], -1)
        features = self.into(NOISE * noisy) + self.see(seen)
        time = self.time(waves(t, self.action.embedding_dim).to(x.dtype))
        asked = (self.action(actions) + time[:, None])[:, :, None, None]
        for block in self.blocks:
            features = block(features, asked)
        change = self.out(self.last(features)).flatten(0, 1).movedim(-1, 1)
        clean = pixel_shuffle(change, self.patch).unflatten(0, (-1, length)).transpose(1, 2)
        return clean + frame.repeat(1, self.frames, 1, 1)[:, :, None]

    def patches(self, pictures: Tensor) -> Tensor:
        """Return pictures (N, c, H, H) as patches (N, h, h, c · patch²)."""
        return pixel_unshuffle(pictures, self.patch).movedim(1, -1)
