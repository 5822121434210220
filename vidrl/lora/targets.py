"""Find the modules of a network that get a LoRA, from the names that a recipe gives."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Mapping, Sequence

from torch import nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # the classes that take a LoRA
ALL = "all-linear"
# the projections of attention, as most networks of diffusers name them
USUAL = ("to_q", "to_k", "to_v", "to_out.0")


def resolve(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """Return the target modules in peft's notation; each target is one of

    - the name of a module or the end of it ("to_q", "ffn.net.2", "blocks.0.attn1.to_q"),
    - the name or end of the name of a module that holds others ("to_out", "ffn", "attn1"):
      all Linear and Conv modules inside,
    - a regular expression of complete names (".*attn1.to_(q|v)"),
    - "all-linear": every Linear module.

    Raises ValueError if a target matches nothing, or nothing that takes a LoRA.

    Example:
        >>> layers = nn.ModuleList([nn.Linear(2, 2)])
        >>> network = nn.ModuleDict({"to_q": nn.Linear(2, 2), "to_out": layers})
        >>> resolve(network, ["to_q", "to_out"])
        ['to_q', 'to_out.0']
    """
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if not wanted:
        raise ValueError(
            "policy.lora_targets: expected at least one module, got an empty list: name some, "
            "as to_q, or "
            f'"{ALL}"'
        )
    modules = {name: module for name, module in network.named_modules() if name}
    found = {target: _resolved(modules, target) for target in wanted}
    complaints = [_complaint(modules, target) for target, names in found.items() if not names]
    if complaints:
        raise ValueError(
            f"policy.lora_targets: {'; '.join(complaints)}. The network has "
            f"{', '.join(_layer_names(modules)[:20])}"
        )
    return list(dict.fromkeys(name for names in found.values() for name in names))


def usual(network: nn.Module) -> list[str]:
    """Return the targets for a recipe that names none: USUAL, else attention's Linear modules.

    Warns and names the targets if they are not exactly USUAL. Raises ValueError if the
    network has no attention.

    Example:
        >>> class Attention(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.to_query, self.out_layer = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     usual(nn.ModuleList([Attention()])), str(caught[0].message)[:40]
        (['out_layer', 'to_query'], 'policy.lora_targets: the ModuleList has ')
    """
    modules = dict(network.named_modules())
    chosen = [target for target in USUAL if _resolved(modules, target)] or _projections(network)
    if not chosen:
        raise ValueError(
            f"policy.lora_targets: expected modules {', '.join(USUAL)}, or attention, in the "
            f"{type(network).__name__}, found neither: name some, as "
            f"{', '.join(_layer_names(modules)[:6])}, or "
            f'"{ALL}"'
        )
    if chosen != list(USUAL):
        missing = ", ".join(target for target in USUAL if target not in chosen)
        warnings.warn(
            f"policy.lora_targets: the {type(network).__name__} has no {missing}: the LoRA is "
            f"put on its {', '.join(chosen)}",
            stacklevel=2,
        )
    return chosen


def _projections(network: nn.Module) -> list[str]:
    """Return the name ends of the Linear modules that are direct children of attention modules."""
    attention = [
        module
        for module in network.modules()
        if hasattr(module, "processor") or "attention" in type(module).__name__.lower()
    ]
    return sorted(
        {
            name
            for module in attention
            for name, child in module.named_children()
            if isinstance(child, nn.Linear)
        }
    )


def _resolved(modules: Mapping[str, nn.Module], target: str) -> list[str]:
    """Return a target itself if peft understands it, else the names of the layers it means."""
    layers = [name for name, module in modules.items() if isinstance(module, LAYERS)]
    if target == ALL:
        return [name for name in layers if isinstance(modules[name], nn.Linear)]
    named = [name for name in modules if name == target or name.endswith(f".{target}")]
    matching_layers = [name for name in named if name in layers]
    if named and len(matching_layers) == len(named):
        return [target]
    inside = {
        target + layer[len(name) :]
        for name in named
        for layer in layers
        if layer.startswith(f"{name}.")
    }
    return [*matching_layers, *sorted(inside)] if named else _matched(modules, layers, target)


def _matched(modules: Mapping[str, nn.Module], layers: Sequence[str], target: str) -> list[str]:
    """Return the layers whose name, or whose parent's name, the target matches as an expression."""
    try:
        pattern = re.compile(target)
    except re.error:
        return []
    matches = [name for name in modules if pattern.fullmatch(name)]
    return [
        layer
        for layer in layers
        if any(layer == name or layer.startswith(f"{name}.") for name in matches)
    ]


def _complaint(modules: Mapping[str, nn.Module], target: str) -> str:
    """Say why a target matches no layer."""
    matches = next((name for name in modules if name == target or name.endswith(f".{target}")), "")
    if matches:
        kind = type(modules[matches]).__name__
        return f"{target!r} matches {matches}, a {kind}, which holds no Linear or Conv module"
    close = difflib.get_close_matches(target, _possible_targets(modules), n=1, cutoff=0.5)
    return f"{target!r} matches no module" + (f", the nearest is {close[0]!r}" if close else "")


def _layer_names(modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the layers' names without their block numbers, those inside blocks first."""
    layers = [name for name, module in modules.items() if isinstance(module, LAYERS)]
    return sorted(
        {re.sub(r"^\w+\.\d+\.", "", name) for name in layers},
        key=lambda name: (name in modules, name),
    )


def _possible_targets(modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the ends of layer names that may be targets: they neither are nor follow a number."""
    parts_of_names = [name.split(".") for name in _layer_names(modules)]
    return sorted(
        {
            ".".join(parts[i:])
            for parts in parts_of_names
            for i in range(len(parts))
            if not any(part.isdigit() for part in parts[max(i - 1, 0) : i + 1])
        }
    )
