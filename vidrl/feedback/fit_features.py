"""Compute the features of a fit: curves of rewards and of frozen encoders, for each clip once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidrl.lookup.advice import nearest
from vidrl.rewards._fitted.folder import Feature, build
from vidrl.rewards._fitted.offered import ENCODERS, REWARDS
from vidrl.rewards._fitted.picture import MEASURES

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
DIRECTIONS = 8  # principal directions of an encoder that become features
GROUPS = ("rewards", "picture")


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

    What was computed is kept in the folder `cache`, one file a clip, named by a hash of the
    file's place, size and time, its prompt, and the features. So a later fit with more labels
    reads only the new clips. `jobs` and `timeout` are those of `vidrl.rewards.score_files`.
    """
    features, encoders = chosen(names)
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
        curves = _with_encoder(curves, encoder)
    return curves


def of_video(
    videos: Mapping[str, torch.Tensor],
    names: Sequence[str] = GROUPS,
    prompts: Mapping[str, str] | None = None,
    fps: float = 8.0,
) -> Curves:
    """Return the features of clips in memory, (F, C, H, W) each, for studies and tests."""
    from vidrl.rewards import Samples

    features, _ = chosen(names)
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


Scored = tuple[np.ndarray, float, str | None]


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
        clip: (np.zeros((0, 0)), 0.0, "the file is gone") for clip in clips if clip not in there
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


def _key(clip: str, features: Sequence[Feature], prompts: Mapping[str, str]) -> str:
    """Return the name under which a clip's curves are kept."""
    facts = os.stat(clip)
    told = [os.path.abspath(clip), facts.st_size, facts.st_mtime_ns, prompts.get(clip, "")]
    text = json.dumps([told, [asdict(feature) for feature in features]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _from_cache(
    clips: Sequence[str],
    features: Sequence[Feature],
    prompts: Mapping[str, str],
    folder: Path | None,
) -> tuple[dict[str, tuple[np.ndarray, float]], dict[str, str]]:
    """Return what was kept of clips, and the clips whose files are gone."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    found, lost = dict[str, tuple[np.ndarray, float]](), dict[str, str]()
    for clip in clips:
        if not Path(clip).exists():
            lost[clip] = "the file is gone"
            continue
        file = folder / f"{_key(clip, features, prompts)}.safetensors" if folder else None
        if file is not None and file.is_file():
            try:
                kept = load_file(file)
            except SafetensorError:  # a file that is damaged is computed again
                continue
            found[clip] = (kept["curve"], float(kept["seconds"][0]))
    return found, lost


def _keep(file: Path, curve: np.ndarray, seconds: float) -> None:
    from safetensors.numpy import save

    from vidrl.rewards._files.atomic_file import write_bytes

    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, save({"curve": np.ascontiguousarray(curve), "seconds": np.array([seconds])}))


# --- encoders


def _with_encoder(curves: Curves, encoder: str) -> Curves:
    """Return the curves with the first principal directions of an encoder's features."""
    from vidrl.rewards import encoders, video

    network = encoders.load(encoder)
    rows: dict[str, np.ndarray] = {}
    for clip in curves.curves:
        frames = video.Video(clip).even().read()
        frames = frames.float() / 255 if frames.dtype == torch.uint8 else frames
        with torch.no_grad():
            rows[clip] = network(frames).double().numpy()
    every = np.concatenate(list(rows.values()))
    mean = every.mean(0)
    _, _, directions = np.linalg.svd(every - mean, full_matrices=False)
    directions = directions[:DIRECTIONS].T
    features = [
        Feature(f"{encoder}.{n}", "encoder", {"encoder": encoder, "direction": n})
        for n in range(directions.shape[1])
    ]
    joined = {
        clip: np.concatenate([curve, (rows[clip] - mean) @ directions], 1)
        for clip, curve in curves.curves.items()
    }
    tensors = curves.tensors | {
        f"{encoder}.directions": torch.tensor(directions).float(),
        f"{encoder}.offsets": torch.tensor(mean @ directions).float(),
    }
    return Curves(
        (*curves.features, *features), joined, curves.seconds, curves.lost, tensors, curves.notes
    )
