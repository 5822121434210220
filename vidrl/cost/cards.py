"""List graphics cards by their makers' data sheets, to estimate how long work takes on one."""

from __future__ import annotations

from dataclasses import dataclass

from vidrl import plugin

# part of the peak that a transformer's large matrix products reach in plain torch: assumed
UTILISATION = 0.35
# part of a card's memory that a process can fill: the driver, the CUDA context and
# fragmentation take the rest
HEADROOM = 0.92
# bytes a second between host memory and a card: assumed, about half of PCIe 5.0's and 80 % of
# PCIe 4.0's peak for 16 lanes
LINK = 25e9


@dataclass(frozen=True)
class Card:
    """A card has a peak FLOP/s of dense matrix products by precision, and memory in GB (10⁹)."""

    name: str
    bfloat16: float
    tf32: float  # of convolutions in float32, as torch runs them
    float32: float
    memory: float
    bandwidth: float  # bytes a second of the card's own memory

    def seconds(self, flops: float, precision: str, utilisation: float) -> float:
        """Return FLOPs / (peak · utilisation); `precision` is "bfloat16", "tf32" or "float32"."""
        return flops / (float(getattr(self, precision)) * utilisation)


CARDS = {
    "h100-80": Card("NVIDIA H100 SXM 80 GB", 989e12, 494e12, 67e12, 80.0, 3.35e12),
    "h200-141": Card("NVIDIA H200 SXM 141 GB", 989e12, 494e12, 67e12, 141.0, 4.8e12),
    "a100-80": Card("NVIDIA A100 SXM 80 GB", 312e12, 156e12, 19.5e12, 80.0, 2.039e12),
    "a100-40": Card("NVIDIA A100 SXM 40 GB", 312e12, 156e12, 19.5e12, 40.0, 1.555e12),
    "l40s-48": Card("NVIDIA L40S 48 GB", 362e12, 183e12, 91.6e12, 48.0, 0.864e12),
    "rtx4090-24": Card("NVIDIA GeForce RTX 4090 24 GB", 165.2e12, 82.6e12, 82.6e12, 24.0, 1.008e12),
}


def find(name: str) -> Card:
    """Return a card by its short name; raise ValueError with the nearest name for another.

    Example:
        >>> find("a100-40").memory
        40.0
    """
    if name in CARDS:
        return CARDS[name]
    # "h200" for "h200-141" is too far apart for a comparison of spellings
    begins = [key for key in CARDS if name and key.startswith(name.lower())]
    cure = f"did you mean {' or '.join(begins)}?" if begins else plugin.nearest(name, CARDS)
    raise ValueError(
        f"expected a card that is known, got {name!r}: {cure} known: {', '.join(sorted(CARDS))}"
        if begins
        else f"expected a card that is known, got {name!r}: {cure}"
    )


def larger(peak: float) -> list[str]:
    """Return the short names of the cards into which a peak of bytes fits, the smallest first.

    Example:
        >>> larger(60e9)
        ['a100-80', 'h100-80', 'h200-141']
    """
    fits = [name for name, card in CARDS.items() if peak <= card.memory * 1e9 * HEADROOM]
    return sorted(fits, key=lambda name: (CARDS[name].memory, name))
