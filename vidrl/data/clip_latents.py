"""Encode the clips of files to latents in host memory, each clip once.

The processes divide the work and exchange the results.

Legend: M clips, E entries of a table (a clip or a pair), W clips of an entry (1 or 2), S
segments; latents (M, C, L, h, w), float32.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidrl.backbones.base import Denoiser
from vidrl.training.processes import Workers

from .clip_files import Entry, Table, shown
from .fitting import fitted
from .references import identity


class BadData(ValueError):
    """Says why clips cannot be learned from, and what to do."""


@dataclass(frozen=True)
class Clips:
    """The entries of a table whose clips could be read, and the latents of these clips."""

    entries: list[Entry]
    latents: Tensor  # (M, C, L, h, w)
    places: Tensor  # (E, W), of each entry's clips among the latents
    left_out: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """The number W of clips in an entry: 1, or 2 for pairs."""
        return self.places.shape[1]

    def labels(self, chosen: Sequence[int], spans: Sequence[tuple[float, float]]) -> Tensor:
        """Return labels (P, S) of the pairs `chosen`; `spans` are the segments in seconds."""
        labels = [self.entries[e].labels_of(spans) for e in chosen]
        return torch.tensor(labels, dtype=torch.float32)


def read(table: Table, backbone: Denoiser, workers: Workers, strict: bool = False) -> Clips:
    """Read and encode the clips of a table, each once, divided among the processes.

    A clip that cannot be read, or that does not fit the backbone, is left out with every
    entry that needs it. Raises BadData if `strict` is set and a clip is left out, if no
    entry is left, or if memory cannot hold the latents.
    """
    backbone.check_encodes_video()
    _check_same_table(table, workers)
    paths = table.clips
    _check_room(len(paths), backbone)
    latents = torch.empty(len(paths), *backbone.shape)
    readable = torch.ones(len(paths))
    reasons = []
    # One clip of each process at a time, since processes exchange tensors on the device.
    for start in range(0, len(paths), workers.count):
        encoded = [_encoded(path, backbone) for path in paths[start + workers.rank :][:1]]
        part = slice(start, start + workers.count)
        latents[part] = workers.all(
            torch.stack([latent for latent, _ in encoded]) if encoded else latents[:0]
        )
        readable[part] = workers.all(torch.tensor([float(not reason) for _, reason in encoded]))
        reasons += [reason for _, reason in encoded if reason]
    return _usable(
        table, latents, readable.bool(), [*table.left_out, *workers.names(reasons)], strict
    )


def _encoded(path: Path, backbone: Denoiser) -> tuple[Tensor, str]:
    """Return the latents of a clip and "", or zeros and the reason of the failure."""
    try:
        clip = fitted(path, backbone.clip_shape, backbone.fps)
    except (ValueError, OSError, MemoryError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        return torch.zeros(backbone.shape), message if str(
            path
        ) in message else f"{path}: {message}"
    return backbone.encode_video(clip[None])[0].cpu(), ""


def _usable(
    table: Table, latents: Tensor, readable: Tensor, left_out: list[str], strict: bool
) -> Clips:
    """Return the entries all of whose clips were encoded."""
    index_of = {path: place for place, path in enumerate(table.clips)}
    entries = [
        entry
        for entry in table.entries
        if all(bool(readable[index_of[clip]]) for clip in entry.clips)
    ]
    if left_out and strict:
        raise BadData(
            f"{table.path}: data.strict expects every clip to be there and to fit, but "
            f"{len(left_out)} are not: {shown(left_out)}"
        )
    if not entries:
        raise BadData(
            f"{table.path}: expected clips to learn from, none of {len(table.entries)} rows is "
            f"left: {shown(left_out)}"
        )
    return Clips(
        entries,
        latents,
        torch.tensor([[index_of[clip] for clip in entry.clips] for entry in entries]),
        left_out,
    )


def _check_same_table(table: Table, workers: Workers) -> None:
    """Raise BadData if processes, which may be on several machines, read different tables."""
    rows = [
        [
            identity(entry.prompt),
            [clip.name for clip in entry.clips],
            entry.labels,
            [[(fault.begin, fault.end) for fault in side] for side in entry.faults],
        ]
        for entry in table.entries
    ]
    digest = int(hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:15], 16)
    everyone = workers.all(torch.tensor([digest]))
    if bool((everyone != digest).any()):
        raise BadData(
            f"expected the same clips on every process, got others than here for {table.path}: "
            "each machine needs an equal copy of the table and of its clips"
        )


def _check_room(clips: int, backbone: Denoiser) -> None:
    """Raise BadData before any decoding if host memory cannot hold the latents."""
    needed = 4 * clips * int(np.prod(backbone.shape))
    pages = getattr(os, "sysconf_names", {}).get("SC_PHYS_PAGES")
    if pages is not None and 2 * needed > (room := os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")):
        raise BadData(
            f"the latents of {clips} clips take {needed / 1e9:.0f} GB in each process, and this "
            f"machine has {room / 1e9:.0f}: name fewer clips, or take smaller ones"
        )
