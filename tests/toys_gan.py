"""Generators of a user, right and wrong, as `toys_gan:NAME` in a recipe."""

import torch
from torch import nn
from toys import Brightness


class Light(Brightness):
    """Mean light, which carries gradient."""

    differentiable = True


class Image(nn.Module):
    """A DCGAN-like generator of images in [−1, 1] from 8 codes, without a condition."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 3 * 16 * 16), nn.Tanh())

    def forward(self, z):
        return self.net(z).unflatten(1, (3, 16, 16))


class Clip(nn.Module):
    """Clips of 8 frames from a latent (4, 4) under an encoding of the prompt's length."""

    latent = (4, 4)

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4 + 1, 3 * 8 * 8)

    def encode(self, prompts):
        return torch.tensor([[len(str(prompt)) / 50] for prompt in prompts])

    def forward(self, z, condition):
        frames = z.transpose(1, 2).repeat_interleave(2, 1)
        given = torch.cat([frames, condition[:, None].expand(-1, frames.shape[1], -1)], 2)
        return self.net(given).sigmoid().unflatten(2, (3, 8, 8))


class NoLatent(Image):
    def forward(self, z):
        return super().forward(torch.zeros_like(z))


class Grey(Image):
    def forward(self, z):
        return super().forward(z)[:, :1]


class Odd(Clip):
    def forward(self, z, condition):
        return super().forward(z, condition)[:, :7]


class Mixed(Image):
    def forward(self, z):
        return super().forward(z - z.mean(0))


class Loud(Clip):
    def forward(self, z, condition):
        return 255 * super().forward(z, condition)


def number():
    return 3
