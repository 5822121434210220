"""Influence says how far the noise of each latent frame, at each step, moves each frame's reward.

It is measured with common random numbers: the noise of latent frame l at step k is drawn anew,
all other noise is kept, and both clips are finished without further noise. With r and r' the
rewards' entries (one a frame) of the two clips,

    M_k[l] = ½ E (r − r')(r − r')ᵀ,   T_k[l, i] = M_k[l][i, i],   I = √T.

M is the second moment, T the energy, I the influence. Legend: K stochastic steps, L latent
frames, F pixel frames, S segments.
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
from vidrl.rewards._files import atomic_file
from vidrl.training.chunks import check_one_piece
from vidrl.training.pieces import Pieces
from vidrl.training.rollout import Plan, decoded, draws

FILE = "influence.safetensors"
# Eight prompts are enough for the mean of the decoder's map, and each clip costs L + 1 decodes.
DECODER_PROMPTS, DECODER_STEPS = 8, 10
WHOLE = "composite"  # the name of the whole reward in `moment` and `covariance`


@dataclass(frozen=True)
class Influence:
    """Measured second moments of the change of a reward's entries, which `save` and `load` keep.

    - `moment[part]` (K, L, F, F): M of each part of the reward, and of the "composite".
    - `covariance[part]` (F, F): the covariance of the entries over the clips of one prompt,
      averaged over prompts.
    - `decoder` (F, L): the fraction of each latent frame in the change of each pixel frame.
    - `times` (K,): the times t at which the measured steps start.
    - `meta`: sampler, eta, latent shape, and how many clips were measured.

    Example:
        >>> moment, covariance = {"a": torch.ones(1, 2, 3, 3)}, {"a": torch.eye(3)}
        >>> influence = Influence(moment, covariance, torch.ones(3, 2), (0.5,))
        >>> influence.energy("a").shape
        torch.Size([1, 2, 3])
        >>> influence.segment_moments("a", [0.5], segments=1)[0, 0, 0].tolist()
        [2.0, 2.0, 2.0]
    """

    moment: dict[str, Tensor]
    covariance: dict[str, Tensor]
    decoder: Tensor
    times: tuple[float, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def energy(self, part: str = WHOLE) -> Tensor:
        """Return T, the mean square change of each entry, (K, L, F)."""
        return self._moment(part).diagonal(dim1=-2, dim2=-1)

    def segment_moments(self, part: str, times: Sequence[float], segments: int) -> Tensor:
        """Return M of each segment at the steps that start at `times`, (K', S, F, F).

        The M of a segment is the sum of the M of its latent frames, because the noises of
        different latent frames are independent.
        """
        moment = self._moment(part)[[self._step_at(time) for time in times]]
        return torch.stack(
            [moment[:, a:b].sum(1) for a, b in borders(moment.shape[1], segments)], 1
        )

    def fits(self, score: Score) -> bool:
        """Return whether the influence is of a reward with the parts of this score.

        Parts are compared by their names; parts without a curve have no influence.
        """
        curves = [name for name, part in score.parts.items() if part.frames is not None]
        return set(self.moment) == {WHOLE, *curves}

    def check(self, parts: Iterable[str]) -> None:
        """Raise ValueError if the influence has a part that is not among these parts."""
        unexpected = set(self.moment) - {WHOLE, *parts}
        if unexpected:
            raise ValueError(
                f"expected an influence on {', '.join([WHOLE, *parts])}, got one on "
                f"{', '.join(sorted(unexpected))} too: measure it for this reward, "
                "`vidrl influence RECIPE`"
            )

    def moments(self, score: Score, times: Sequence[float], segments: int) -> dict[str, Tensor]:
        """Return the `segment_moments` of every part; raise ValueError for another reward."""
        if not self.fits(score):
            raise ValueError(
                f"expected an influence on {', '.join([WHOLE, *score.parts])}, got one on "
                f"{', '.join(self.moment)}: measure it for this reward with "
                "`vidrl influence RECIPE`"
            )
        return {part: self.segment_moments(part, times, segments) for part in self.moment}

    def _moment(self, part: str) -> Tensor:
        """Return M of a part, (K, L, F, F); raise ValueError if it was not measured."""
        if part not in self.moment:
            raise ValueError(
                f"expected an influence on {part!r}, got {', '.join(self.moment)}: measure it for "
                "this reward with `vidrl influence RECIPE`"
            )
        return self.moment[part]

    def _step_at(self, time: float) -> int:
        """Return which measured step starts at `time`; raise ValueError if none does."""
        nearest = min(range(len(self.times)), key=lambda k: abs(self.times[k] - time))
        if abs(self.times[nearest] - time) > 1e-4:  # more than the rounding of float32 times
            raise ValueError(
                f"expected an influence of the step at t = {time:.4f}, got those at "
                f"{', '.join(f'{t:.4f}' for t in self.times)}: measure it with "
                "`vidrl influence RECIPE`"
            )
        return nearest

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file."""
        from safetensors.torch import save

        tensors = {f"moment.{part}": value for part, value in self.moment.items()}
        tensors |= {f"covariance.{part}": value for part, value in self.covariance.items()}
        about = {"times": json.dumps(list(self.times)), "meta": json.dumps(self.meta)}
        tensors |= {"decoder": self.decoder}
        rows = {name: value.float().contiguous() for name, value in tensors.items()}
        # safetensors' own save_file would write a file that only its owner may read
        return atomic_file.write_bytes(Path(path), save(rows, about))

    @classmethod
    def load(cls, path: str | Path) -> Influence:
        """Read a file that `save` wrote; raise ValueError for any other file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
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
        """Read the file at `path`, or if `path` is "", the file in the backbone's folder.

        The file must be of the plan's sampler and eta, and of the backbone's latent shape.
        If there is none that fits, returns None; raises ValueError if an influence is `needed`
        or a path was named.
        """
        file = Path(path) if path else backbone.folder / FILE if backbone.folder else None
        if file is None or not file.is_file():
            if not needed and not path:
                return None
            raise ValueError(
                "expected a measured influence, found none at "
                f"{file or 'a backbone without a folder'}: make one with `vidrl influence RECIPE`, "
                "and name it in algorithm.options.influence"
            )
        found = cls.load(file)
        measured = [found.meta.get(key) for key in ("sampler", "eta", "shape")]
        wanted = [plan.sampler, plan.eta, list(backbone.shape)]
        if measured != wanted and (needed or path):
            raise ValueError(
                f"expected an influence of sampler, eta and latent shape {wanted}, got one of "
                f"{measured} in {file}: measure it with `vidrl influence RECIPE`"
            )
        return found if measured == wanted else None

    def summary(self, segments: int) -> dict[str, Any]:
        """Return the content of influence.json of a run folder: I of each part, (S, F).

        I is the root of T's mean over steps, summed over the latent frames of a segment.
        """
        spans = borders(self.decoder.shape[1], segments)
        parts = {
            part: torch.stack([self.energy(part).mean(0)[a:b].sum(0) for a, b in spans]).sqrt()
            for part in self.moment
        }
        return {
            "parts": {
                part: [[round(float(x), 5) for x in row] for row in rows]
                for part, rows in parts.items()
            },
            "steps": "mean over steps",
            "meta": self.meta,
        }


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
    """Measure the influence of every stochastic step of a plan.

    The moments are means over `members` clips of each prompt. A clip costs (L + 1) completions,
    decodes and scores for each step; `batch` of them run at a time, fewer if memory runs out.
    `show` may wrap the prompts in a progress bar. Clips that cannot be scored are left out.
    Raises ValueError for fewer than 2 members, because their covariance is measured too.
    """
    if members < 2 or not prompts:
        raise ValueError(
            f"expected prompts, and 2 members or more, got {len(prompts)} and {members}"
        )
    check_one_piece(backbone, "a measured influence", 'use credit = "segment" with a discount')
    moments, covariances = _Means(), _Means()
    pieces = Pieces(batch, "finishing and scoring one clip", "use a smaller clip")
    for number, prompt in enumerate(show(prompts)):
        names = [(number, member) for member in range(members)]
        finished = _clips(backbone, reward, plan, prompt, draws(seed, names), moments, pieces)
        for part, entries in finished.items():
            scored = entries[~entries.isnan().any(1)]
            if len(scored) > 1:
                covariances.add(part, torch.cov(scored.T.double()).unsqueeze(0))
    moment = {
        part: torch.stack([moments.mean(part, k) for k in plan.stochastic])
        for part in moments.parts
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
    covariance = {part: covariances.mean(part) for part in moments.parts}
    decoder = decoder_map(backbone, backbone.encode(prompts[:DECODER_PROMPTS]), seed)
    return Influence(moment, covariance, decoder, times, meta)


class _Means:
    """Running means, each with a name, of tensors that arrive in pieces; sums are float64."""

    def __init__(self) -> None:
        self.total: dict[tuple[object, ...], Tensor] = {}
        self.count: dict[tuple[object, ...], int] = {}

    def add(self, *name_and_rows: Any) -> None:
        """Add rows (n, ...), the last argument, to the mean that the other arguments name."""
        *name, values = name_and_rows
        key = tuple(name)
        self.total[key] = self.total.get(key, 0) + values.double().sum(0)
        self.count[key] = self.count.get(key, 0) + len(values)

    def mean(self, *name: object) -> Tensor:
        """Return the mean over all rows that were added under this name, float32."""
        return (self.total[name] / self.count[name]).float()

    @property
    def parts(self) -> list[str]:
        """Return the first words of the names: the parts of the reward, in order of arrival."""
        return list(dict.fromkeys(str(key[0]) for key in self.total))


def _clips(
    backbone: Denoiser,
    reward: Reward,
    plan: Plan,
    prompt: str,
    generators: list[torch.Generator],
    moments: _Means,
    pieces: Pieces,
) -> dict[str, Tensor]:
    """Sample a prompt's clips and return their entries; add the moments of each stochastic step.

    At each stochastic step the clips are finished L + 1 times: as they are, and with the noise
    of each latent frame drawn anew.
    """
    cond, latent_frames = backbone.encode([prompt] * len(generators)), backbone.shape[1]
    x = exact(backbone.noise(generators)).to(backbone.device)
    if plan.forks:  # the group's clips start from one noise
        x = x[:1].expand_as(x)
    for k in range(len(plan.times) - 1):
        step = plan.step(backbone, x, k, cond)
        x = step.mean
        if k in plan.stochastic:
            noise, fresh = (backbone.noise(generators).to(x) for _ in range(2))
            x = step.sample(noise)
            # one variant for each latent frame, in which only this frame has other noise
            noises = [
                torch.where(_frame_mask(noise, frame), fresh, noise)
                for frame in range(latent_frames)
            ]
            changed = torch.cat([x, *(step.sample(mixed) for mixed in noises)])
            entries = _entries(backbone, reward, plan, changed, k + 1, cond, prompt, pieces)
            for part, values in entries.items():
                _add(moments, part, k, values.unflatten(0, (latent_frames + 1, -1)))
    return _parts(reward(decoded(backbone, x, [prompt] * len(x), cond)))


def _frame_mask(noise: Tensor, frame: int) -> Tensor:
    """Return a mask of the shape of the noise (B, C, L, ...) that is true in one latent frame."""
    chosen = torch.zeros(noise.shape[2], dtype=torch.bool, device=noise.device)
    chosen[frame] = True
    return chosen.view(1, 1, -1, *[1] * (noise.dim() - 3)).expand_as(noise)


def _add(moments: _Means, part: str, k: int, entries: Tensor) -> None:
    """Add the moments of a step, ½ (r − r')(r − r')ᵀ of each clip.

    `entries` (1 + L, B, F) are those of the clips as they are, r, and then, for each latent
    frame, those of the clips with its noise drawn anew, r'.
    """
    change = (entries[1:] - entries[:1]).double().transpose(0, 1)  # (B, L, F)
    change = change[~change.isnan().any(2).any(1)]
    if len(change):
        moments.add(part, k, 0.5 * torch.einsum("blf,blg->blfg", change, change))


def _entries(
    backbone: Denoiser,
    reward: Reward,
    plan: Plan,
    x: Tensor,
    k: int,
    cond: Cond,
    prompt: str,
    pieces: Pieces,
) -> dict[str, Tensor]:
    """Finish clips without noise from the start of step k, and return their entries by part."""
    noiseless, clips = replace(plan, stochastic=(), keep=()), len(next(iter(cond.values())))

    def finished(piece: slice) -> dict[str, Tensor]:
        latents = x[piece]
        # x holds the same clips L + 1 times, one after the other: row i is of clip i mod clips
        owner = torch.arange(piece.start, piece.stop, device=x.device) % clips
        piece_cond = rows(cond, owner)
        for step in range(k, len(plan.times) - 1):
            latents = noiseless.step(backbone, latents, step, piece_cond).mean
        return _parts(reward(decoded(backbone, latents, [prompt] * len(latents), piece_cond)))

    found = list(pieces.each(len(x), finished))
    return {part: torch.cat([piece[part] for piece in found]) for part in found[0]}


def _parts(score: Score) -> dict[str, Tensor]:
    """Return the curves (B, F) of a score and of its parts; raise ValueError if there is none."""
    curves = {
        name: part.frames
        for name, part in {WHOLE: score, **score.parts}.items()
        if part.frames is not None
    }
    if not curves:
        raise ValueError(
            "expected a reward with a curve over frames, got one without: all its frames have "
            'the same influence, so use credit = "whole" or another reward'
        )
    return {part: curve.detach().float().cpu() for part, curve in curves.items()}


@torch.no_grad()
def decoder_map(
    backbone: Denoiser, cond: Cond, seed: int = 0, size: float = 0.1, steps: int = DECODER_STEPS
) -> Tensor:
    """Return W[t, l] ∝ E ‖∂frame_t/∂z_l‖², with rows of sum 1, (F, L).

    W is measured by finite differences: each latent frame of generated clips is moved by `size`
    times unit noise, and the clips are decoded before and after. `steps` is the number of
    denoising steps of the clips.
    """
    n = len(next(iter(cond.values())))
    generators = draws(seed, [("decoder", i) for i in range(n)])
    latents = backbone.generate(backbone.noise(generators).to(backbone.device), cond, steps)
    before, changes = backbone.decode_with(latents, cond).float(), []
    for frame in range(latents.shape[2]):
        moved, noise = latents.clone(), backbone.noise(generators).to(latents)
        moved[:, :, frame] += size * noise[:, :, frame]
        after = backbone.decode_with(moved, cond).float()
        changes.append((after - before).square().mean((0, 2, 3, 4)))
    energy = torch.stack(changes, 1).cpu()
    return energy / energy.sum(1, keepdim=True)
