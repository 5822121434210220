"""The words of a prompt as a vector, without weights: for generators that bring no text encoder."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

WIDTH = 96  # numbers of a vector
HASHES = 3  # places of a word in the vector; with several, words seldom share all of theirs


def hashed_words(prompts: Sequence[str], width: int = WIDTH) -> Tensor:
    """Return one vector for each prompt, (B, width): the sum of its words' signed unit vectors.

    Each word adds +1 or −1 at `HASHES` places that its letters decide (feature hashing, arXiv
    0902.2206). The order of the words does not count. An empty prompt is the zero vector.

    Example:
        >>> one, other = hashed_words(["a red cross", "cross red a"])
        >>> bool((one == other).all()), bool(hashed_words([""]).any())
        (True, False)
    """
    table = torch.zeros(len(prompts), width)
    for row, prompt in zip(table, prompts, strict=True):
        for word in str(prompt).lower().split():
            for i in range(HASHES):
                number = zlib.crc32(f"{i} {word}".encode())
                row[(number >> 1) % width] += 1.0 - 2.0 * (number & 1)
    return table
