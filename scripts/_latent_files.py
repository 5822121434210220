"""Write the latents of a corpus of clips, for scripts that pretrain models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from vidrl.rewards._files import atomic_file

CLIPS, BATCH = 50, 10  # clips of one file, and clips that are encoded at once


def write(
    clips: Callable[[range], Iterable[tuple[str, Tensor]]],
    count: int,
    model: Path,
    frames: int,
    out: Path,
) -> None:
    """Write the standardised latents of `count` captioned clips (F, 3, H, W), in files of 50.

    `model` is the pipeline whose autoencoder is used. Files that exist already are kept, so that
    a call that was killed goes on.
    """
    from vidrl.backbones.wan import Wan

    out.mkdir(parents=True, exist_ok=True)
    wan = Wan(str(model), frames=frames)
    for start in tqdm(range(0, count, CLIPS), desc="encode", mininterval=10):
        path = out / f"latents-{start:05d}.safetensors"
        if path.exists():
            continue
        texts, found = zip(*clips(range(start, min(start + CLIPS, count))), strict=True)
        latents = torch.cat([wan.encode_video(part) for part in torch.stack(found).split(BATCH)])
        with atomic_file.new_path(path) as private:
            save_file({"latents": latents}, private, {"captions": json.dumps(texts)})
