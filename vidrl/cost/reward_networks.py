"""Count what the networks of learned rewards cost: FLOPs, bytes alive and weights of one frame.

Only rewards whose network reads single frames, with a configuration in reward_networks.toml, are
known. The networks are built on shapes, so that nothing is downloaded.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vidrl import plugin
from vidrl.lookup.extras import install
from vidrl.rewards._networks.budget import GB
from vidrl.rewards.encoders import CLIPS, FAMILIES

from .tracing import drop_numbers, shapes, size, trace

TABLE = Path(__file__).with_name("reward_networks.toml")


@dataclass(frozen=True)
class Frame:
    """Holds what one frame costs a network.

    - `flops`: of a forward pass, two a multiply-add.
    - `alive`: bytes of the tensors of the pass that live at once.
    - `weights`: bytes of all weights, those for texts too.
    """

    flops: float
    alive: float
    weights: float


@dataclass(frozen=True)
class Network:
    """Holds what a reward's network costs for a clip.

    `precision` is that of its products, "float32" or "bfloat16"; `resident` the bytes of weights
    that stay on the card, and `alive` the bytes while the network reads, weights that come for this
    time included.
    """

    flops: float
    precision: str
    resident: float
    alive: float


@cache
def table() -> dict[str, Any]:
    """Return the table of reward_networks.toml."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def of_reward(
    name: str, options: Mapping[str, Any], frames: int, clips: int, memory: float = 0.0
) -> Network | str:
    """Return what a learned reward costs for a clip of some frames, or why that is unknown.

    `clips` are scored at once; `memory` is the recipe's reward.memory in GB.

    Example:
        >>> of_reward("niqe", {}, 9, 4)
        'the network of niqe is not in vidrl/cost/reward_networks.toml'
    """
    entry = table()["rewards"].get(name)
    if entry is None:
        return f"the network of {name} is not in vidrl/cost/reward_networks.toml"
    chosen = _defaults(name) | dict(options)
    found = of_source(str(chosen[entry["option"]]), str(chosen.get("dtype", "float32")))
    if isinstance(found, str):
        return found
    read = min(frames, int(chosen.get("frames", 0)) or frames)
    chunk = int(memory * GB // found.alive) or 1 if memory else int(chosen["chunk"])
    alive = found.alive * min(chunk, read * clips)
    offloaded = found.weights if chosen["offload"] else 0.0
    half = chosen.get("dtype", "float32") != "float32"
    return Network(
        found.flops * read,
        "bfloat16" if half else "float32",
        found.weights - offloaded,
        alive + offloaded,
    )


def _defaults(name: str) -> dict[str, Any]:
    """Return the default options of a reward."""
    parameters = inspect.signature(plugin.find("rewards", name)).parameters
    return {key: one.default for key, one in parameters.items()}


def of_source(spec: str, dtype: str) -> Frame | str:
    """Return what a frame costs the network that a reward's option names, or why it is unknown.

    Example:
        >>> of_source("clip:my/own", "float32")
        'the configuration of my/own is not in vidrl/cost/reward_networks.toml'
    """
    family, colon, source = spec.partition(":")
    named = colon or family in FAMILIES or family in CLIPS
    usual = FAMILIES[family].usual if family in FAMILIES else family
    source = (source or usual) if named else spec
    source = str(table()["like"].get(source, source))
    if source not in table()["networks"]:
        return f"the configuration of {source} is not in vidrl/cost/reward_networks.toml"
    try:
        return _traced(source, dtype)
    except ImportError:
        return f"its network is built by transformers: {install('learned')}"


@cache
def _traced(source: str, dtype: str) -> Frame:
    """Return what a frame costs a network of the table, traced on shapes."""
    import transformers

    entry = table()["networks"][source]
    kind = getattr(transformers, entry["class"])
    parts = {key: entry[key] for key in ("vision_config", "text_config") if key in entry}
    with torch.device("meta"):
        network = kind(kind.config_class(**parts, **entry.get("config", {}))).eval()
    network = network.to(getattr(torch, dtype))
    with shapes(), torch.no_grad():
        drop_numbers(network)
        pixels = torch.empty(1, 3, entry["side"], entry["side"], dtype=getattr(torch, dtype))
        read = network.get_image_features if parts else network
        flops, alive = trace(lambda: read(pixel_values=pixels), [*network.parameters(), pixels])
    return Frame(float(flops), float(alive), float(size(network)))
