"""A small video generator of two layers: a picture of one object moves over grey ground.

The convolutions run once a clip, not once a frame, so that the generator trains on one CPU core.

Legend: B clips, C codes, L latent frames, F = 2 L pixel frames, D numbers of the text; clips are
32 x 32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

from ._hashed_words import WIDTH

PER_LATENT = 2  # pixel frames of a latent frame
SIZE = 32  # pixels a side
# what moves: the object's place (2), its log-size, the light, and the background's place (2)
MOVES = 6
UNIT = 0.45  # half the side of the object's picture at log-size 0, in half-widths of the clip


class LayeredGan(nn.Module):
    """A generator from a latent (B, C, L) and a text (B, D) to clips (B, F, 3, 32, 32) in [0, 1].

    Of the C codes, the first `content` are one code of the whole clip: their sum over the latent
    frames divided by √L, which is a unit Gaussian where the latent is one. The others are the
    motion codes of their own frames. So every number of the latent belongs to one latent frame,
    and a log-density of the latent splits exactly over the frames.

    Example:
        >>> gan = LayeredGan(width=16)
        >>> gan(torch.zeros(1, *gan.latent), torch.zeros(1, 96)).shape
        torch.Size([1, 16, 3, 32, 32])
    """

    def __init__(
        self,
        content: int = 12,
        motion: int = 4,
        frames: int = 8,
        width: int = 96,
        text: int = WIDTH,
    ):
        super().__init__()
        self.content, self.latent = content, (content + motion, frames)
        self.joint = nn.Sequential(
            nn.Linear(content + text, 2 * width), nn.SiLU(), nn.Linear(2 * width, width), nn.SiLU()
        )
        self.object = _picture(width, 4)
        self.ground = _picture(width, 1)
        self.place = nn.Parameter(0.1 * torch.randn(width, frames))
        self.motion = nn.Conv1d(motion, width, 1)
        self.whole = nn.Linear(width, width)
        self.path = nn.Sequential(
            nn.SiLU(),
            nn.Conv1d(width, width, 5, padding=2),
            nn.SiLU(),
            nn.Conv1d(width, width, 5, padding=2),
            nn.SiLU(),
            nn.Conv1d(width, MOVES * PER_LATENT, 1),
        )

    def forward(self, z: Tensor, text: Tensor) -> Tensor:
        """Return clips (B, F, 3, 32, 32) of latents (B, C, L) and texts (B, D)."""
        return self.with_moves(z, text)[0]

    def with_moves(self, z: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clips, and the numbers of each frame that move their layers, (B, F, 6).

        They are the object's place (x, y) in half-widths from the centre, the log of its size
        over `UNIT`, its light, and the place of the background.
        """
        code = z[:, : self.content].sum(2) / z.shape[2] ** 0.5
        joint = self.joint(torch.cat([code, text.to(code)], 1))
        moves = self._moves(joint, z[:, self.content :])
        clip = _shown(self.object(joint), self.ground(joint), moves)
        return clip.clamp(0, 1), moves

    def _moves(self, joint: Tensor, motion: Tensor) -> Tensor:
        """Return the numbers of every pixel frame, (B, F, MOVES)."""
        hidden = self.motion(motion) + self.whole(joint)[:, :, None] + self.place
        found = self.path(hidden)  # (B, MOVES · PER_LATENT, L)
        return found.unflatten(1, (PER_LATENT, MOVES)).permute(0, 3, 1, 2).flatten(1, 2)


def _picture(width: int, channels: int) -> nn.Sequential:
    """Return a network from a vector (B, width) to a picture (B, channels, 16, 16)."""
    return nn.Sequential(
        nn.Linear(width, 48 * 16),
        nn.Unflatten(1, (48, 4, 4)),
        nn.SiLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(48, 32, 3, padding=1),
        nn.SiLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(32, 24, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(24, channels, 3, padding=1),
    )


def _shown(layer: Tensor, ground: Tensor, moves: Tensor) -> Tensor:
    """Return the clips (B, F, 3, 32, 32) of an object (B, 4, 16, 16) over a background."""
    frames = moves.shape[1]
    colour = torch.cat([layer[:, :3].sigmoid(), (layer[:, 3:] - 1).sigmoid()], 1)
    size = UNIT * moves[..., 2].clamp(-1.5, 1.2).exp()
    front = _moved(colour, moves[..., :2], 1 / size)
    wide = interpolate(ground.sigmoid(), scale_factor=2, mode="bilinear").expand(-1, 3, -1, -1)
    behind = _moved(wide, 0.1 * moves[..., 4:6], torch.ones_like(size), "border")
    alpha = front[:, 3:]
    light = (0.3 * moves[..., 3]).exp().flatten()[:, None, None, None]
    return ((alpha * front[:, :3] + (1 - alpha) * behind) * light).unflatten(0, (-1, frames))


def _moved(picture: Tensor, shift: Tensor, zoom: Tensor, padding: str = "zeros") -> Tensor:
    """Return each frame's view of a picture, (B · F, channels, 32, 32).

    `shift` (B, F, 2) moves the picture, in half-widths; `zoom` (B, F) divides its size.
    """
    frames = shift.shape[1]
    none = torch.zeros_like(zoom)
    rows = [torch.stack([zoom, none, -shift[..., 0] * zoom], -1)]
    rows += [torch.stack([none, zoom, -shift[..., 1] * zoom], -1)]
    matrix = torch.stack(rows, 2).flatten(0, 1)  # (B · F, 2, 3)
    repeated = picture.repeat_interleave(frames, 0)
    grid = affine_grid(matrix, [len(matrix), picture.shape[1], SIZE, SIZE], align_corners=False)
    return grid_sample(repeated, grid, padding_mode=padding, align_corners=False)
