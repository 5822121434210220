"""Which modules of a network get a LoRA, as people write it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from torch import nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # what a LoRA is put on
ALL = "all-linear"


def resolve(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """The target modules in peft's words. Each target is one of

    - the name of a module or the end of it ("to_q", "ffn.net.2", "blocks.0.attn1.to_q"),
    - the same of something that holds modules ("to_out", "ffn", "attn1"): all Linear and Conv modules inside,
    - a regular expression of whole names (".*attn1.to_(q|v)"),
    - "all-linear": every Linear module.

    Raises ValueError where a target matches nothing, or nothing that takes a LoRA.

    Example:
        >>> network = nn.ModuleDict({"to_q": nn.Linear(2, 2), "to_out": nn.ModuleList([nn.Linear(2, 2)])})
        >>> resolve(network, ["to_q", "to_out"])
        ['to_q', 'to_out.0']
    """
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if not wanted:
        raise ValueError("policy.lora_targets: expected at least one module, got an empty list: name some, as to_q, or "
                         f'"{ALL}"')
    modules = {name: module for name, module in network.named_modules() if name}
    found = {target: _found(modules, target) for target in wanted}
    wrong = [_complaint(modules, target) for target, names in found.items() if not names]
    if wrong:
        raise ValueError(f"policy.lora_targets: {'; '.join(wrong)}. The network has {', '.join(_plain(modules)[:20])}")
    return list(dict.fromkeys(name for names in found.values() for name in names))


def _found(modules: Mapping[str, nn.Module], target: str) -> list[str]:
    """What a target means: itself where peft understands it, else the names or ends of names of the layers."""
    layers = [name for name, module in modules.items() if isinstance(module, LAYERS)]
    if target == ALL:
        return [name for name in layers if isinstance(modules[name], nn.Linear)]
    named = [name for name in modules if name == target or name.endswith(f".{target}")]
    own = [name for name in named if name in layers]
    if named and len(own) == len(named):
        return [target]
    inside = {target + layer[len(name) :] for name in named for layer in layers if layer.startswith(f"{name}.")}
    return [*own, *sorted(inside)] if named else _matched(modules, layers, target)


def _matched(modules: Mapping[str, nn.Module], layers: Sequence[str], target: str) -> list[str]:
    try:
        pattern = re.compile(target)
    except re.error:
        return []
    hit = [name for name in modules if pattern.fullmatch(name)]
    return [layer for layer in layers if any(layer == name or layer.startswith(f"{name}.") for name in hit)]


def _complaint(modules: Mapping[str, nn.Module], target: str) -> str:
    hit = next((name for name in modules if name == target or name.endswith(f".{target}")), "")
    if hit:
        return f"{target!r} matches {hit}, a {type(modules[hit]).__name__}, which holds no Linear or Conv module"
    close = difflib.get_close_matches(target, _ends(modules), n=1, cutoff=0.5)
    return f"{target!r} matches no module" + (f", the nearest is {close[0]!r}" if close else "")


def _plain(modules: Mapping[str, nn.Module]) -> list[str]:
    """The layers without the numbers of their blocks, those of blocks first."""
    layers = [name for name, module in modules.items() if isinstance(module, LAYERS)]
    return sorted({re.sub(r"^\w+\.\d+\.", "", name) for name in layers},
                  key=lambda name: (name in modules, name))


def _ends(modules: Mapping[str, nn.Module]) -> list[str]:
    """What a person may write for a layer: the ends of its name that begin with a word, and not after a number."""
    split = [name.split(".") for name in _plain(modules)]
    return sorted({".".join(parts[i:]) for parts in split for i in range(len(parts))
                   if not any(part.isdigit() for part in parts[max(i - 1, 0) : i + 1])})
