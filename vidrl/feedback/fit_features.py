"""Compute the features of a fit: curves of rewards and of frozen encoders, for each clip once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vidrl
from vidrl.lookup.advice import nearest
from vidrl.rewards._fitted.folder import Feature, build
from vidrl.rewards._fitted.offered import ENCODERS, REWARDS
from vidrl.rewards._fitted.picture import MEASURES, loaded

Scored = tuple[np.ndarray, float, str | None]  # curves, seconds, why there are none
Progress = Callable[[Iterable[Any], int], Iterable[Any]]
DIRECTIONS = 8  # principal directions of an encoder that become features
GROUPS = ("rewards", "picture")
GONE = "the file is gone"


@dataclass(frozen=True)
class Curves:
    """The features of clips: a curve (F, K) for each clip that was read.

    NaN where a feature has no meaning for the clip. `lost` says why a clip has no features;
    `notes` are for the card; `tensors` are the directions of encoders.
    """

    features: tuple[Feature, ...]
    curves: dict[str, np.ndarray]
    seconds: dict[str, float]
    lost: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def values(self) -> dict[str, np.ndarray]:
        """Return the mean of each clip's features, (K,), NaN where a feature has no meaning."""
        return {clip: curve.mean(0) for clip, curve in self.curves.items()}


def chosen(names: Sequence[str]) -> tuple[tuple[Feature, ...], tuple[str, ...]]:
    """Return the features of curves, and the encoders, that names stand for.

    A name is "rewards" (the curves of vidrl's rewards without weights), "picture" (simple
    numbers of frames), a reward, or an encoder. Raises ValueError with the nearest right name.

    >>> [feature.name for feature in chosen(["picture"])[0]][:2]
    ['picture.light', 'picture.contrast']
    """
    from vidrl import plugin

    features: dict[str, Feature] = {}
    for name in names:
        if name == "rewards":
            features |= {key: Feature(key, *spec) for key, spec in REWARDS.items()}
        elif name == "picture":
            keys = {key: f"picture.{key}" for key in MEASURES}
            features |= {at: Feature(at, "picture", {"measure": key}) for key, at in keys.items()}
        elif name in plugin.names("rewards") or ":" in name:
            features[name] = Feature(name, *REWARDS.get(name, (name, {})))
        elif name not in ENCODERS:
            known = [*GROUPS, *ENCODERS, *plugin.names("rewards")]
            raise ValueError(f"no feature {name!r}: {nearest(name, known)}")
    return tuple(features.values()), tuple(name for name in names if name in ENCODERS)


def compute(
    clips: Sequence[str],
    names: Sequence[str] = GROUPS,
    prompts: Mapping[str, str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    jobs: int = 0,
    timeout: float | None = 600.0,
    progress: Progress | None = None,
) -> Curves:
    """Return the features of clip files; a clip that cannot be read is in `lost`.

    What was computed is kept in the folder `cache`, one file for the curves and one for each
    encoder of a clip, named by a hash of the file's place, size and time, its prompt, the features
    and vidrl's version. So a later fit with more labels reads only the new clips. `jobs` and
    `timeout` are those of `vidrl.rewards.score_files`; encoders run in this process. Raises
    ValueError without any name of a feature.
    """
    features, encoders = chosen(names)
    if not features and not encoders:
        raise ValueError(f"expected features out of {', '.join((*GROUPS, *ENCODERS))}, got none")
    given = prompts or {}
    kept = None if cache is None else Path(cache)
    found, lost = _from_cache(clips, features, given, kept)
    missing = [clip for clip in clips if clip not in found and clip not in lost]
    fresh = _scored(missing, features, given, jobs, timeout, progress) if features else {}
    for clip, (curve, seconds, why) in fresh.items():
        if why is not None:
            lost[clip] = why
            continue
        found[clip] = (curve, seconds)
        if kept is not None:
            _keep(kept / f"{_key(clip, features, given)}.safetensors", curve, seconds)
    ordered = {clip: found[clip] for clip in clips if clip in found}
    curves = Curves(
        features,
        {clip: curve for clip, (curve, _) in ordered.items()},
        {clip: seconds for clip, (_, seconds) in ordered.items()},
        lost,
    )
    for encoder in encoders:
        curves = _with_encoder(curves, clips, encoder, kept, progress)
    return curves


def of_video(
    videos: Mapping[str, torch.Tensor],
    names: Sequence[str] = GROUPS,
    prompts: Mapping[str, str] | None = None,
    fps: float = 8.0,
) -> Curves:
    """Return the features of clips in memory, (F, C, H, W) each, for studies and tests.

    Raises ValueError for encoders, whose directions `compute` finds among files, and without names.
    """
    from vidrl.rewards import Samples

    features, encoders = chosen(names)
    if encoders or not features:
        raise ValueError(f"expected rewards or picture as features, got {list(names)}")
    rewards = {one.name: build(one) for one in features}
    curves = {}
    for clip, video in videos.items():
        samples = Samples(video[None], [(prompts or {}).get(clip, "")], fps)
        with torch.no_grad():
            found = {name: reward(samples) for name, reward in rewards.items()}
        curves[clip] = np.stack([_curve(score, len(video)) for score in found.values()], -1)
    return Curves(features, curves, {clip: len(video) / fps for clip, video in videos.items()})


def _curve(score: Any, frames: int) -> np.ndarray:
    """Return the curve of a score of one clip, (F,)."""
    one = score.value[:, None].expand(-1, frames) if score.frames is None else score.frames
    return one[0].double().numpy()


def _scored(
    clips: Sequence[str],
    features: Sequence[Feature],
    prompts: Mapping[str, str],
    jobs: int,
    timeout: float | None,
    progress: Progress | None,
) -> dict[str, Scored]:
    """Score files with all features, which share one flow."""
    from vidrl.rewards import score_files

    rewards = {one.name: build(one) for one in features}
    there = [clip for clip in clips if Path(clip).exists()]
    found: dict[str, Scored] = {
        clip: (np.zeros((0, 0)), 0.0, GONE) for clip in clips if clip not in there
    }
    rows: Iterable[dict[str, Any]] = score_files(there, rewards, prompts, jobs, timeout)
    for clip, row in zip(there, progress(rows, len(there)) if progress else rows, strict=True):
        found[clip] = _of_row(row, list(rewards))
    return found


def _of_row(row: Mapping[str, Any], names: Sequence[str]) -> Scored:
    """Return the curves of a row of `score_files`, its seconds, and why there are none."""
    frames = row["frames"] or 0
    values = [row["value"][name] for name in names]
    if not frames or all(value is None for value in values):
        return np.zeros((0, 0)), 0.0, row["why"] or "the file has no frames"
    curve = np.full((frames, len(names)), np.nan)
    for k, name in enumerate(names):
        if row["value"][name] is not None:
            curve[:, k] = row["value"][name] if row["curve"][name] is None else row["curve"][name]
    return curve, frames / row["fps"], None


# --- kept curves


def _key(clip: str, features: Sequence[Feature] | str, prompts: Mapping[str, str]) -> str:
    """Return the name under which a clip's curves, or its features of an encoder, are kept."""
    facts = os.stat(clip)
    told = [os.path.abspath(clip), facts.st_size, facts.st_mtime_ns, prompts.get(clip, "")]
    what = features if isinstance(features, str) else [asdict(feature) for feature in features]
    text = json.dumps([vidrl.__version__, told, what], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _from_cache(
    clips: Sequence[str],
    features: Sequence[Feature],
    prompts: Mapping[str, str],
    folder: Path | None,
) -> tuple[dict[str, tuple[np.ndarray, float]], dict[str, str]]:
    """Return what was kept of clips, and the clips whose files are gone."""
    found, lost = dict[str, tuple[np.ndarray, float]](), dict[str, str]()
    for clip in clips:
        if not Path(clip).exists():
            lost[clip] = GONE
        elif folder is not None and features:
            kept = _kept(folder / f"{_key(clip, features, prompts)}.safetensors")
            if kept is not None and kept[0].shape[1] == len(features):
                found[clip] = kept
    return found, lost


def _kept(file: Path) -> tuple[np.ndarray, float] | None:
    """Return the curves (F, K) and seconds of a kept file; None for one that is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not file.is_file():
        return None
    try:
        kept = load_file(file)
        curve, seconds = kept["curve"], float(kept["seconds"][0])
    except (SafetensorError, KeyError, IndexError):
        return None
    return (curve, seconds) if curve.ndim == 2 and len(curve) and seconds > 0 else None


def _keep(file: Path, curve: np.ndarray, seconds: float) -> None:
    from safetensors.numpy import save

    from vidrl.rewards._files.atomic_file import write_bytes

    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, save({"curve": np.ascontiguousarray(curve), "seconds": np.array([seconds])}))


# --- encoders


def _with_encoder(
    curves: Curves,
    clips: Sequence[str],
    encoder: str,
    folder: Path | None,
    progress: Progress | None,
) -> Curves:
    """Return the curves with the first principal directions of an encoder's features.

    Where there are no other features, the encoder decides how many frames a clip has.
    """
    rows = dict[str, np.ndarray]()
    seconds, lost = dict(curves.seconds), dict(curves.lost)
    asked = [clip for clip in clips if clip not in lost]
    for clip in progress(asked, len(asked)) if progress else asked:
        found, length, why = _encoded(clip, encoder, folder)
        frames = len(curves.curves[clip]) if clip in curves.curves else len(found)
        if why is None and len(found) != frames:
            why = f"the encoder {encoder} read {len(found)} frames, the rewards {frames}"
        if why is not None:
            lost[clip] = why
            continue
        rows[clip], seconds[clip] = found, seconds.get(clip, length)
    if not rows:
        return replace(curves, curves={}, lost=lost)
    mean, directions = principal_directions(np.concatenate(list(rows.values())), DIRECTIONS)
    features = [
        Feature(f"{encoder}.{n}", "encoder", {"encoder": encoder, "direction": n})
        for n in range(directions.shape[1])
    ]
    before = {clip: curves.curves.get(clip, np.zeros((len(rows[clip]), 0))) for clip in rows}
    joined = {
        clip: np.concatenate([curve, (rows[clip] - mean) @ directions], 1)
        for clip, curve in before.items()
    }
    tensors = curves.tensors | {
        f"{encoder}.directions": torch.tensor(directions).float(),
        f"{encoder}.offsets": torch.tensor(mean @ directions).float(),
    }
    return Curves((*curves.features, *features), joined, seconds, lost, tensors, curves.notes)


def _encoded(clip: str, encoder: str, folder: Path | None) -> Scored:
    """Return the features of each frame of a clip (F, D), its seconds, and why there are none."""
    from vidrl.rewards import video

    file = None if folder is None else folder / f"{_key(clip, encoder, {})}.safetensors"
    if file is not None and (kept := _kept(file)):
        return (*kept, None)
    try:
        film = video.Video(clip).even()
        frames = film.read()
    except (OSError, video.Unreadable) as error:
        return np.zeros((0, 0)), 0.0, f"unreadable: {error}"
    frames = frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()
    with torch.no_grad():
        found = loaded(encoder)(frames.expand(-1, 3, -1, -1)).float().numpy()
    seconds = len(found) / film.fps
    if file is not None:
        _keep(file, found, seconds)
    return found, seconds, None


def principal_directions(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) of rows (N, D), and their first principal directions, (D, n).

    n is `count`, or fewer where the rows vary in fewer directions. The directions are
    eigenvectors of the smaller of the matrices XᵀX and XXᵀ of the centred rows X, so that no
    singular values of X are computed. The largest entry of a direction is positive.

    >>> mean, found = principal_directions(np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]]), 2)
    >>> mean.tolist(), found.T.tolist()
    ([3.0, 2.0], [[1.0, 0.0]])
    """
    mean = rows.mean(0, dtype=float)
    x = rows - mean
    wide = len(x) < x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    large = values[::-1] > 1e-10 * max(float(values[-1]), 1e-30)
    order = np.arange(len(values))[::-1][large][:count]
    found = vectors[:, order]
    found = x.T @ found / np.sqrt(values[order]) if wide else found
    largest = np.take_along_axis(found, np.abs(found).argmax(0)[None], 0)
    return mean, found * np.sign(largest)
