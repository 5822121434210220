"""How far the noise of each latent frame, at each denoising step, moves the reward of each
frame: measured, kept, read.

With common random numbers: the noise of latent frame l at step k is drawn anew, all other
noise is kept, and both clips are finished without further noise. r, r' are then their
rewards' entries a frame, and

    M_k[l] = ½ E (r − r')(r − r')ᵀ,   T_k[l, i] = M_k[l][i, i],   I = √T.

Legend: K stochastic steps, L latent frames, F pixel frames, S segments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.backbones.base import Cond, Denoiser, rows
from vidrl.diffusion.path import exact
from vidrl.diffusion.segments import borders
from vidrl.rewards import Reward, Score
from vidrl.rewards._files import whole_file
from vidrl.training.pieces import Pieces
from vidrl.training.rollout import Plan, decoded, draws

FILE = "influence.safetensors"
WHOLE = "composite"  # the name of the reward itself among its parts


@dataclass(frozen=True)
class Influence:
    """Second moments of a change of entries, by part of the reward.

    `moment[part]` (K, L, F, F); `covariance[part]` (F, F) of the entries within a prompt;
    `decoder` (F, L), the share of each latent frame in the change of each pixel frame;
    `times` (K,), where the steps start; `meta` says of what.

    Example:
        >>> one = Influence({"a": torch.ones(1, 2, 3, 3)}, {"a": torch.eye(3)}, torch.ones(3, 2), (0.5,))
        >>> one.energy("a").shape, one.segment_moments("a", [0.5], segments=1)[0, 0, 0].tolist()
        (torch.Size([1, 2, 3]), [2.0, 2.0, 2.0])
    """

    moment: dict[str, Tensor]
    covariance: dict[str, Tensor]
    decoder: Tensor
    times: tuple[float, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def energy(self, part: str = WHOLE) -> Tensor:
        """T, (K, L, F)."""
        return self._known(part).diagonal(dim1=-2, dim2=-1)

    def segment_moments(self, part: str, times: Sequence[float], segments: int) -> Tensor:
        """M of each segment at the steps that start at `times`, (K', S, F, F): the sum over
        its latent frames."""
        moment = self._known(part)[[self._place(time) for time in times]]
        return torch.stack(
            [moment[:, a:b].sum(1) for a, b in borders(moment.shape[1], segments)], 1
        )

    def fits(self, score: Score) -> bool:
        """Whether it was measured of a reward with this score's parts: another's would be
        read as this one's."""
        return set(self.moment) == {
            WHOLE,
            *(part for part, one in score.parts.items() if one.frames is not None),
        }

    def check(self, parts: Iterable[str]) -> None:
        """Raise ValueError for a part that a reward with these parts lacks."""
        strange = set(self.moment) - {WHOLE, *parts}
        if strange:
            raise ValueError(
                f"expected an influence on {', '.join([WHOLE, *parts])}, got one on "
                f"{', '.join(sorted(strange))} too: measure it for this reward, `vidrl influence RECIPE`"
            )

    def moments(self, score: Score, times: Sequence[float], segments: int) -> dict[str, Tensor]:
        """The `segment_moments` of every part. Raises ValueError for the score of another reward."""
        if not self.fits(score):
            raise ValueError(
                f"expected an influence on {', '.join([WHOLE, *score.parts])}, got one on "
                f"{', '.join(self.moment)}: measure it for this reward with `vidrl influence RECIPE`"
            )
        return {part: self.segment_moments(part, times, segments) for part in self.moment}

    def _known(self, part: str) -> Tensor:
        if part not in self.moment:
            raise ValueError(
                f"expected an influence on {part!r}, got {', '.join(self.moment)}: measure it for this "
                "reward with `vidrl influence RECIPE`"
            )
        return self.moment[part]

    def _place(self, time: float) -> int:
        near = min(range(len(self.times)), key=lambda k: abs(self.times[k] - time))
        if abs(self.times[near] - time) > 1e-4:
            raise ValueError(
                f"expected an influence of the step at t = {time:.4f}, got those at "
                f"{', '.join(f'{t:.4f}' for t in self.times)}: measure it with `vidrl influence RECIPE`"
            )
        return near

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file."""
        from safetensors.torch import save

        tensors = {f"moment.{part}": value for part, value in self.moment.items()}
        tensors |= {f"covariance.{part}": value for part, value in self.covariance.items()}
        about = {"times": json.dumps(list(self.times)), "meta": json.dumps(self.meta)}
        made = {
            name: value.float().contiguous()
            for name, value in (tensors | {"decoder": self.decoder}).items()
        }
        # save_file would write a file that its owner alone may read
        return whole_file.write(Path(path), save(made, about))

    @classmethod
    def load(cls, path: str | Path) -> Influence:
        """Read what `save` wrote. Raises ValueError for another file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
                about = file.metadata() or {}
            moment, covariance = (
                {
                    name.removeprefix(f"{kind}."): tensor
                    for name, tensor in tensors.items()
                    if name.startswith(f"{kind}.")
                }
                for kind in ("moment", "covariance")
            )
            times, meta = tuple(json.loads(about["times"])), json.loads(about["meta"])
            return cls(moment, covariance, tensors["decoder"], times, meta)
        except (SafetensorError, KeyError, OSError) as error:
            raise ValueError(
                f"expected a file that `vidrl influence` wrote, could not read {path}: {error}"
            ) from error

    @classmethod
    def find(
        cls, path: str, backbone: Denoiser, plan: Plan, needed: bool = True
    ) -> Influence | None:
        """Read the file at `path`, or else that of the backbone's folder; None where none
        fits and none is `needed`.

        Raises ValueError where one is needed, or was named, and there is none, or one of
        another sampler or length.
        """
        file = Path(path) if path else backbone.folder / FILE if backbone.folder else None
        if file is None or not file.is_file():
            if not needed and not path:
                return None
            raise ValueError(
                f"expected a measured influence, found none at {file or 'a backbone without a folder'}: "
                "make one with `vidrl influence RECIPE`, and name it in algorithm.options.influence"
            )
        made = cls.load(file)
        had = [*(made.meta.get(k) for k in ("sampler", "eta")), made.meta.get("shape")]
        asked = [plan.sampler, plan.eta, list(backbone.shape)]
        if had != asked and (needed or path):
            raise ValueError(
                f"expected an influence of sampler, eta and latent shape {asked}, got one of {had} in "
                f"{file}: measure it with `vidrl influence RECIPE`"
            )
        return made if had == asked else None

    def summary(self, segments: int) -> dict[str, Any]:
        """I = √T, the mean over steps, of each part (S, F): what influence.json of a run
        folder holds."""
        spans = borders(self.decoder.shape[1], segments)
        parts = {
            part: torch.stack([self.energy(part).mean(0)[a:b].sum(0) for a, b in spans]).sqrt()
            for part in self.moment
        }
        return {
            "parts": {
                part: [[round(float(x), 5) for x in row] for row in one]
                for part, one in parts.items()
            },
            "steps": "mean over steps",
            "meta": self.meta,
        }


# --- measuring
# -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def measure(
    backbone: Denoiser,
    reward: Reward,
    plan: Plan,
    prompts: Sequence[str],
    members: int = 2,
    seed: int = 0,
    show: Callable[[Sequence[str]], Iterator[str] | Sequence[str]] = list,
    batch: int = 32,
) -> Influence:
    """The influence of every stochastic step of a plan, averaged over `members` clips of
    each prompt.

    Each clip costs (L + 1) completions, decodes and scores a step, `batch` of them at a
    time, fewer where memory runs out. `show` may wrap the prompts in a progress bar. Clips
    that cannot be scored are left out. Raises ValueError for fewer than 2 members, of which
    the covariance is.
    """
    if members < 2 or not prompts:
        raise ValueError(
            f"expected prompts, and 2 members or more, got {len(prompts)} and {members}"
        )
    sums, spreads, at_once = (
        _Sum(),
        _Sum(),
        Pieces(batch, "finishing and scoring one clip", "use a smaller clip"),
    )
    for number, prompt in enumerate(show(prompts)):
        names = [(number, member) for member in range(members)]
        whole = _clips(backbone, reward, plan, prompt, draws(seed, names), sums, at_once)
        for part, entries in whole.items():
            scored = entries[~entries.isnan().any(1)]
            if len(scored) > 1:
                spreads.add(part, torch.cov(scored.T.double()).unsqueeze(0))
    moment = {
        part: torch.stack([sums.mean(part, k) for k in plan.stochastic]) for part in sums.parts
    }
    times = tuple(plan.times[k] for k in plan.stochastic)
    meta = {
        "sampler": plan.sampler,
        "eta": plan.eta,
        "steps": len(plan.times) - 1,
        "prompts": len(prompts),
        "members": members,
        "seed": seed,
        "shape": list(backbone.shape),
    }
    covariance = {part: spreads.mean(part) for part in sums.parts}
    return Influence(
        moment, covariance, decoder_map(backbone, backbone.encode(prompts[:8]), seed), times, meta
    )


class _Sum:
    """Means over what comes in pieces, by name."""

    def __init__(self) -> None:
        self.total: dict[tuple[object, ...], Tensor] = {}
        self.count: dict[tuple[object, ...], int] = {}

    def add(self, *name_and_rows: Any) -> None:
        *name, values = name_and_rows
        key = tuple(name)
        self.total[key] = self.total.get(key, 0) + values.double().sum(0)
        self.count[key] = self.count.get(key, 0) + len(values)

    def mean(self, *name: object) -> Tensor:
        return (self.total[name] / self.count[name]).float()

    @property
    def parts(self) -> list[str]:
        return list(dict.fromkeys(str(key[0]) for key in self.total))


def _clips(
    backbone: Denoiser,
    reward: Reward,
    plan: Plan,
    prompt: str,
    generators: list[torch.Generator],
    sums: _Sum,
    batch: Pieces,
) -> dict[str, Tensor]:
    """Sample a prompt's clips, and at every stochastic step complete them and what each
    latent frame would change."""
    cond, latent_frames = backbone.encode([prompt] * len(generators)), backbone.shape[1]
    x = exact(backbone.noise(generators)).to(backbone.device)
    if plan.forks:
        x = x[:1].expand_as(x)
    for k in range(len(plan.times) - 1):
        step = plan.step(backbone, x, k, cond)
        x = step.mean
        if k in plan.stochastic:
            noise, other = (backbone.noise(generators).to(x) for _ in range(2))
            x = step.sample(noise)
            mixed = [
                torch.where(_only(noise, frame), other, noise) for frame in range(latent_frames)
            ]
            changed = torch.cat([x, *(step.sample(one) for one in mixed)])
            entries = _entries(backbone, reward, plan, changed, k + 1, cond, prompt, batch)
            for part, found in entries.items():
                _add(sums, part, k, found.unflatten(0, (latent_frames + 1, -1)))
    return _parts(reward(decoded(backbone, x, [prompt] * len(x), cond)))


def _only(noise: Tensor, frame: int) -> Tensor:
    chosen = torch.zeros(noise.shape[2], dtype=torch.bool, device=noise.device)
    chosen[frame] = True
    return chosen.view(1, 1, -1, *[1] * (noise.dim() - 3)).expand_as(noise)


def _add(sums: _Sum, part: str, k: int, found: Tensor) -> None:
    """`found` (1 + L, B, F): entries as they are, and with each latent frame's noise drawn
    anew."""
    change = (found[1:] - found[:1]).double().transpose(0, 1)  # (B, L, F)
    change = change[~change.isnan().any(2).any(1)]
    if len(change):
        sums.add(part, k, 0.5 * torch.einsum("blf,blg->blfg", change, change))


def _entries(
    backbone: Denoiser,
    reward: Reward,
    plan: Plan,
    x: Tensor,
    k: int,
    cond: Cond,
    prompt: str,
    batch: Pieces,
) -> dict[str, Tensor]:
    """Entries of the clips finished without noise from the start of step k, a few clips at
    a time."""
    quiet, size = replace(plan, stochastic=(), keep=()), len(next(iter(cond.values())))

    def finished(piece: slice) -> dict[str, Tensor]:
        part, many = (
            x[piece],
            rows(cond, torch.arange(piece.start, piece.stop, device=x.device) % size),
        )
        for step in range(k, len(plan.times) - 1):
            part = quiet.step(backbone, part, step, many).mean
        return _parts(reward(decoded(backbone, part, [prompt] * len(part), many)))

    found = list(batch.each(len(x), finished))
    return {part: torch.cat([one[part] for one in found]) for part in found[0]}


def _parts(score: Score) -> dict[str, Tensor]:
    """Entries (B, F) of a score and of its parts; a score without a curve has none that
    differ between frames."""
    curves = {
        part: one.frames
        for part, one in {WHOLE: score, **score.parts}.items()
        if one.frames is not None
    }
    if not curves:
        raise ValueError(
            "expected a reward with a curve over frames, got none: influence has nothing to say of it"
        )
    return {part: curve.detach().float().cpu() for part, curve in curves.items()}


@torch.no_grad()
def decoder_map(
    backbone: Denoiser, cond: Cond, seed: int = 0, size: float = 0.1, steps: int = 10
) -> Tensor:
    """W[t, l] ∝ E ‖∂frame_t/∂z_l‖², rows of sum 1, (F, L): each latent frame of generated
    clips moved a little."""
    n = len(next(iter(cond.values())))
    generators = draws(seed, [("decoder", i) for i in range(n)])
    latents = backbone.generate(backbone.noise(generators).to(backbone.device), cond, steps)
    still, found = backbone.decode_with(latents, cond).float(), []
    for frame in range(latents.shape[2]):
        moved, push = latents.clone(), backbone.noise(generators).to(latents)
        moved[:, :, frame] += size * push[:, :, frame]
        found.append(
            (backbone.decode_with(moved, cond).float() - still).square().mean((0, 2, 3, 4))
        )
    energy = torch.stack(found, 1).cpu()
    return energy / energy.sum(1, keepdim=True)
