"""Check a LoRA against a network: every tensor needs its module, or an error names the rest."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from .file import BIAS, A, B, Lora
from .targets import LAYERS

SHOWN = 4  # names of each reason that a message lists


def fitted(lora: Lora, network: nn.Module, partial: bool = False) -> Lora:
    """Return the parts of a LoRA that fit the network; raise ValueError if some do not.

    With `partial`, misfits are left out with a warning, as long as one module fits. A LoRA
    may name fewer modules than the network has: the others get no adapter.
    """
    modules = _without_adapters(network)
    misfits = lora.spare | {
        name: why for name in lora.pairs if (why := _misfit(lora, name, modules))
    }
    fitting = {name: pair for name, pair in lora.pairs.items() if name not in misfits}
    if misfits and (not fitting or not partial):
        cure = (
            "Correct the file, or use the modules that fit: policy.lora_partial = true in a "
            "recipe, --lora-partial, partial=True in Python."
            if fitting
            else "The file is of another model: name one that was trained on this network."
        )
        raise ValueError(f"{_report(lora, misfits)}\n{cure}")
    if misfits:
        warnings.warn(f"{_report(lora, misfits)}\nThese were left out.", stacklevel=2)
    targets = lora.targets if set(_matched(modules, lora.targets)) == set(fitting) else ()
    return replace(
        lora,
        pairs=fitting,
        alphas={name: lora.alphas[name] for name in fitting},
        spare={},
        targets=targets,
    )


def complete(lora: Lora) -> Lora:
    """Return the LoRA with its modules named one by one.

    Raises ValueError for tensors of its file that are no part of a pair.
    """
    if lora.spare:
        raise ValueError(f"{_report(lora, lora.spare)}\nCorrect the file.")
    return replace(lora, targets=())


def _without_adapters(network: nn.Module) -> dict[str, nn.Module]:
    """Return the modules by the names that they have without an adapter on the network."""
    return {
        name: getattr(module, "base_layer", module)
        for name, module in network.named_modules()
        if ".base_layer" not in name and ".lora_" not in name
    }


def _matched(modules: Iterable[str], targets: Iterable[str]) -> list[str]:
    """Return the modules that peft finds by a list of names and ends of names."""
    listed = list(targets)
    return [
        name
        for name in modules
        if name in listed or any(name.endswith(f".{end}") for end in listed)
    ]


def _misfit(lora: Lora, name: str, modules: Mapping[str, nn.Module]) -> str:
    """Say why a module of the LoRA does not fit the network; empty if it fits."""
    module = modules.get(name)
    if module is None:
        return f"names no module{_nearest(name, modules)}"
    if not isinstance(module, LAYERS):
        return f"names a {type(module).__name__}, which takes no LoRA"
    down = lora.pairs[name][A]
    up = lora.pairs[name][B]
    # a weight in 4 bits is stored as a column of bytes, and knows the shape that it stands for
    weight = tuple(getattr(module.weight, "quant_state", module.weight).shape)
    shape = (up.shape[0], *down.shape[1:])
    if shape != weight:
        return (
            f"is for a weight of {shape}, the network's is {weight}: the LoRA is of another size "
            "of the model"
        )
    bias, network_bias = lora.pairs[name].get(BIAS), module.bias
    if bias is not None and network_bias is None:
        return "has a bias, and the network's module has none"
    if bias is not None and network_bias is not None and bias.shape != network_bias.shape:
        return (
            f"has a bias of shape {tuple(bias.shape)}, the network's is {tuple(network_bias.shape)}"
        )
    return ""


def _nearest(name: str, modules: Mapping[str, nn.Module]) -> str:
    """Return advice: the valid block numbers if only the number is wrong, else a similar name.

    Example:
        >>> _nearest("blocks.9.to_q", {"blocks.0.to_q": None, "blocks.1.to_q": None})
        ': the network has blocks.0 to blocks.1'
        >>> _nearest("blocks.0.to_qq", {"blocks.0.to_q": None})
        ': the nearest is blocks.0.to_q'
    """
    found = re.fullmatch(r"(.*?)(\d+)(\..*)", name)
    if found:
        head, _, tail = found.groups()
        known = sorted(
            int(n[len(head) : -len(tail)])
            for n in modules
            if n.startswith(head) and n.endswith(tail) and n[len(head) : -len(tail)].isdigit()
        )
        if known:
            return f": the network has {head}{known[0]} to {head}{known[-1]}"
    layers = [n for n, module in modules.items() if module is None or isinstance(module, LAYERS)]
    close = difflib.get_close_matches(name, layers, n=1, cutoff=0.5)
    return f": the nearest is {close[0]}" if close else ""


def _report(lora: Lora, misfits: Mapping[str, str]) -> str:
    """Return the error message: how many modules fit, and the misfits grouped by reason."""
    fitting = len(lora.pairs.keys() - misfits.keys())
    groups: dict[str, list[str]] = {}
    for name, why in misfits.items():
        groups.setdefault(why.partition(":")[0], []).append(name)
    lines = [
        f"expected every tensor of {lora.source} to have a place in the network; {fitting} "
        f"modules fit, {len(misfits)} names do not:"
    ]
    for names in groups.values():
        lines += [f"  {name} {misfits[name]}" for name in names[:SHOWN]]
        lines += (
            [f"  ... and {len(names) - SHOWN} more for the same reason"]
            if len(names) > SHOWN
            else []
        )
    return "\n".join(lines)
