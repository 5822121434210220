"""A reward that learns during training: a network that tells generated clips from real ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from torch.nn.utils.parametrizations import spectral_norm

from .base import Card, Reward, Samples

GAIN = 10.0  # layers of norm 1 shrink what they pass on; without it the logits stay near 0
CHANNELS = (6, 16, 32, 48)  # two frames of three colours, and three halvings of the side


class Discriminator(Reward):
    """Score how real two neighbouring frames look to a network that learns beside the policy.

    The value is the mean over pairs of neighbouring frames of σ(logit), in (0, 1). The network
    sees both frames at `side` x `side` pixels. Its layers have spectral norm 1 (arXiv
    1802.05957), so that the slope of the logit is bounded.

    During training, `refresh` takes `steps` steps of Adam after every round, on pairs of frames
    of the round's clips and of the `real` clips, with binary cross-entropy. What is real has the
    label 1 − `smooth` (label smoothing). `r1` γ adds γ/2 ‖∇logit‖² at real pairs (1801.04406).
    Before each refresh the network judges the round's clips, which are new to it, and a fifth of
    the real clips, which it never learns from: if it is right on more than `freeze` of their pairs,
    it would soon have no slope left to give, and learns nothing in this round. Rounds log
    `accuracy`, `frozen` and `loss`.

    A network that has not learned gives no number: set `real`, a folder of clips or images, in a
    recipe that trains; or `weights`, a file that a run wrote into its folder rewards/.

    With few real clips the network learns them by heart: the loss falls, and the accuracy stays at
    ½. Values of different rounds cannot be compared, because the network changes between them:
    judge a run by guards and measures that stay the same. Adv-GRPO (2511.20256) trains on such a
    reward; there, a head on a frozen DINO learns, and here a small network from nothing.

    >>> score = Discriminator.tiny()(Samples(torch.rand(1, 9, 3, 32, 32), [""], 8.0))
    >>> score.value.shape, score.frames.shape
    (torch.Size([1]), torch.Size([1, 9]))
    """

    differentiable = True
    learned = True
    learns = True
    range = (0.0, 1.0)
    time_support = "pair"
    lookahead = 1
    card = Card(
        sees="Whatever tells generated pairs of frames from real ones, as far as it has learned "
        "it: colours, sharpness, shapes, motion from one frame to the next.",
        blind_to="What takes longer than two frames; whether the prompt is followed; whatever the "
        "generated clips do better than the real ones.",
        hacks="Whatever the network has not yet learned to see, until its next refresh. The codec "
        "of the real clips is seen first: use lossless files.",
        input="Real clips of the same kind as those that are generated.",
        cost="Below 0.1 ms a frame on one CPU thread. A refresh of 20 steps takes about 1 s.",
    )

    def __init__(
        self,
        real: str = "",
        weights: str = "",
        side: int = 32,
        steps: int = 20,
        batch: int = 32,
        learning_rate: float = 1e-3,
        smooth: float = 0.1,
        r1: float = 0.0,
        freeze: float = 0.95,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (side >= 8 and side % 8 == 0 and min(steps, batch) > 0 and learning_rate > 0):
            raise ValueError(
                "expected side a multiple of 8, and steps, batch and learning_rate above 0, got "
                f"{(side, steps, batch, learning_rate)}"
            )
        if not (0 <= smooth < 0.5 and r1 >= 0 and 0.5 < freeze <= 1):
            raise ValueError(
                "expected smooth in [0, 0.5), r1 ≥ 0 and freeze in (0.5, 1], got "
                f"{(smooth, r1, freeze)}"
            )
        self.side, self.seed = side, seed
        self.steps, self.batch = steps, batch
        self.smooth, self.r1 = smooth, r1
        self.freeze, self.rounds = freeze, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _network(side).eval().requires_grad_(False)
        self.optimiser = torch.optim.Adam(
            self.network.parameters(), lr=learning_rate, betas=(0.5, 0.99)
        )
        self.folder, self.kept = real, dict[str, Tensor]()
        if weights:
            self.load_state(_read(Path(weights)))

    @classmethod
    def tiny(cls) -> Discriminator:
        """Return the architecture with random weights, as if it had learned in one round."""
        made = cls()
        made.rounds = 1
        return made

    def terms(self, samples: Samples) -> Tensor:
        """Return how real each two neighbouring frames look, (B, F - 1)."""
        if not self.rounds:
            raise ValueError(
                "expected a discriminator that has learned, got random weights: train with it, or "
                "set weights to a file of a run's folder rewards/"
            )
        pairs = self.pairs(samples.frames)
        network = self.network
        if pairs.dtype != next(network.parameters()).dtype:
            network = copy.deepcopy(network).to(pairs.dtype)
        return network(pairs.flatten(0, 1)).sigmoid().unflatten(0, pairs.shape[:2])

    def pairs(self, video: Tensor) -> Tensor:
        """Return neighbouring frames of clips in [−1, 1], (B, F - 1, 6, side, side)."""
        frames = video.flatten(0, 1).expand(-1, 3, -1, -1)
        small = interpolate(frames, (self.side, self.side), mode="bilinear", antialias=True)
        small = small.unflatten(0, video.shape[:2])
        return 2 * torch.cat([small[:, :-1], small[:, 1:]], 2) - 1

    def check_learns(self) -> None:
        """Raise ValueError or FileNotFoundError without real clips to learn from."""
        if not self.folder:
            raise ValueError(
                "expected real clips for the reward discriminator, got none: set its option real "
                "to a folder of clips"
            )
        self._real()

    @torch.enable_grad()
    def refresh(self, samples: Samples, round: int) -> dict[str, float]:
        """Learn from the clips of a round; return accuracy, frozen and, where it learned, loss.

        The result depends on the state, the clips and the round alone.
        """
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + round)
        fake, real = self._pooled(samples.frames), self._real()
        accuracy = self.accuracy(real["judge"], fake)
        frozen = self.rounds > 0 and accuracy > self.freeze
        found = {"accuracy": accuracy, "frozen": float(frozen)}
        if not frozen:
            found["loss"] = self._learn(real["learn"], fake, draw)
            self.rounds += 1
        return found

    @torch.no_grad()
    def accuracy(self, real: Tensor, fake: Tensor) -> float:
        """Return the fraction of pairs that are judged right, real and generated ones equally."""
        right = [(self.network(real) > 0).float().mean(), (self.network(fake) <= 0).float().mean()]
        return float(torch.stack(right).mean())

    def _learn(self, real: Tensor, fake: Tensor, draw: torch.Generator) -> float:
        """Take the steps of a refresh; return their mean loss."""
        self.network.train().requires_grad_(True)
        losses = []
        for _ in range(self.steps):
            true, false = (
                pairs[torch.randint(len(pairs), (self.batch,), generator=draw).to(pairs.device)]
                for pairs in (real, fake)
            )
            loss = self._loss(true.requires_grad_(self.r1 > 0), false)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            losses.append(float(loss.detach()))
        self.network.eval().requires_grad_(False)
        self.optimiser.zero_grad()
        return sum(losses) / len(losses)

    def _loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the cross-entropy of a minibatch, and the penalty of the slope at real pairs."""
        true, false = self.network(real), self.network(fake)
        loss = binary_cross_entropy_with_logits(true, torch.full_like(true, 1 - self.smooth))
        loss = loss + binary_cross_entropy_with_logits(false, torch.zeros_like(false))
        if self.r1:
            (slope,) = torch.autograd.grad(true.sum(), real, create_graph=True)
            loss = loss + self.r1 / 2 * slope.square().flatten(1).sum(1).mean()
        return loss

    def _pooled(self, video: Tensor) -> Tensor:
        """Return all pairs of frames of clips, (N, 6, side, side), without gradient."""
        device = next(self.network.parameters()).device
        return self.pairs(video.detach().float().to(device)).flatten(0, 1)

    def _real(self) -> dict[str, Tensor]:
        """Return the real pairs to learn from and to judge, read at the first call."""
        if not self.kept:
            self.kept = _real_pairs(self, Path(self.folder))
        return self.kept

    def state(self) -> dict[str, Any]:
        """Return the network, the optimiser and the number of rounds that were learned from."""
        return {
            "network": dict(self.network.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "rounds": self.rounds,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; without an optimiser, that of a new network stays."""
        self.network.load_state_dict(state["network"])
        self.rounds = int(state["rounds"])
        if "optimiser" in state:
            self.optimiser.load_state_dict(state["optimiser"])

    def save(self, path: Path) -> None:
        """Write the network as safetensors, for the option `weights`."""
        from safetensors.torch import save_file

        tensors = {
            key: value.cpu().contiguous() for key, value in self.network.state_dict().items()
        }
        save_file(tensors, path, {"rounds": str(self.rounds)})


def _network(side: int) -> nn.Sequential:
    """Return the network, pairs (N, 6, side, side) to logits (N,)."""
    layers: list[nn.Module] = []
    for before, after in pairwise(CHANNELS):
        layers += [spectral_norm(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(0.2)]
    last = spectral_norm(nn.Linear(CHANNELS[-1] * (side // 8) ** 2, 1))
    return nn.Sequential(*layers, nn.Flatten(), last, nn.Flatten(0), _Gain())


class _Gain(nn.Module):
    def forward(self, logit: Tensor) -> Tensor:
        return GAIN * logit


def _real_pairs(reward: Discriminator, folder: Path) -> dict[str, Tensor]:
    """Return the pairs of frames of a folder's clips, of which every fifth clip is to judge.

    Raises FileNotFoundError without the folder, and ValueError for fewer than five clips.
    """
    from . import video
    from ._files.finding import clips_in

    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected a folder of real clips for the reward discriminator, got {folder}, which is "
            "none: correct its option real"
        )
    clips = [video.read(path)[0].float() / 255 for path in clips_in(folder)]
    pairs = [reward._pooled(clip[None]) for clip in clips if len(clip) > 1]
    if len(pairs) < 5:
        raise ValueError(
            f"expected at least five real clips of two frames or more in {folder}, got "
            f"{len(pairs)}: put more there"
        )
    learn = [pair for i, pair in enumerate(pairs) if i % 5]
    return {"learn": torch.cat(learn), "judge": torch.cat(pairs[::5])}


def _read(path: Path) -> dict[str, Any]:
    """Return the state in a file that `save` wrote."""
    from safetensors import safe_open

    if not path.is_file():
        raise FileNotFoundError(f"expected a file of weights, got {path}, which is none")
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        rounds = int((file.metadata() or {}).get("rounds", 0))
    return {"network": tensors, "rounds": rounds}
